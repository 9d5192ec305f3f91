"""Along training: where policies of many prompts are, on the mean, under every reward."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.experiments.rollouts.outputs import Outputs, outputs
from goodteacher.experiments.rollouts.teaching import Estimator
from goodteacher.sim import estimates

TIMES = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 12)])  # in budgets
TAUS = np.concatenate([[0.0], np.geomspace(1e-2, 1e2, 33)])
LOOKS = np.append(TIMES[1:-1:2], 1.0)  # at which prompts are seen; so many at once, by one program
_PATIENCE = 10.0  # median times to the goal, that the budget is if none is given
_MOST_TILTED = 10_000
_FEWEST = 3.0  # draws' worth of weight in the median prompt, below which a tilted mean says nothing

Tell = Callable[[str], None]


class Prompts(NamedTuple):
    """Prompts of one number of outputs with one reward."""

    at: Int[np.ndarray, " n"]
    log_p: Float[np.ndarray, "n outputs"]
    rewards: Float[np.ndarray, "n outputs"]
    truth: Float[np.ndarray, "n outputs"]
    first: Int[np.ndarray, "n outputs"]
    counts: Int[np.ndarray, "n outputs"]

    def of(self, rows: np.ndarray) -> "Prompts":
        """Some of them."""
        return Prompts(*(each[rows] for each in self))

    @property
    def start(self) -> np.ndarray:
        """Their expected ground truth."""
        return expected(self.log_p, self.truth)

    @property
    def best(self) -> np.ndarray:
        """The ground truth of their best outputs."""
        return np.where(np.isfinite(self.log_p), self.truth, -np.inf).max(1)

    @property
    def worst(self) -> np.ndarray:
        """That of their worst outputs."""
        return np.where(np.isfinite(self.log_p), self.truth, np.inf).min(1)


def expected(
    log_p: Float[np.ndarray, "*n outputs"], values: Float[np.ndarray, "*#n outputs"]
) -> Float[np.ndarray, "*n"]:
    """Expectations of values under policies."""
    return (np.exp(log_p) * values).sum(-1)


def divergence(
    log_p: Float[np.ndarray, "*n outputs"], log_q: Float[np.ndarray, "*#n outputs"]
) -> Float[np.ndarray, "*n"]:
    """KL divergences of policies from others."""
    both = np.isfinite(log_p) & np.isfinite(log_q)
    change = np.subtract(log_p, log_q, out=np.zeros(log_p.shape), where=both)
    return np.maximum((np.exp(log_p) * change).sum(-1), 0.0)


def with_reward(part: Outputs, number: int) -> Prompts:
    """Prompts with the reward of a number."""
    return Prompts(
        part.prompts, part.log_probabilities, part.rewards[number], part.truth, part.first, part.counts
    )


def patient(times: np.ndarray) -> float:
    """A budget, from the times at which goals are reached: ten times their median."""
    reached = times[np.isfinite(times) & (times > 0)]
    return _PATIENCE * float(np.median(reached)) if reached.size else 1.0


class Curves(NamedTuple):
    """Along training, means over the prompts that are followed.

    Attributes:
        prompts: how many those are.
        truth, reward, kl: at :data:`TIMES`; the reward is the one that is trained on.
        spread: share of groups with spread at these times.
        tilt_truth, tilt_reward, tilt_kl: at :data:`TAUS`, of ten thousand prompts; ``nan`` beyond what
            the draws know.
    """

    prompts: int
    truth: Float[np.ndarray, "rewards times"]
    reward: Float[np.ndarray, "rewards times"]
    kl: Float[np.ndarray, "rewards times"]
    spread: Float[np.ndarray, "rewards times groups"]
    tilt_truth: Float[np.ndarray, "rewards taus"]
    tilt_reward: Float[np.ndarray, "rewards taus"]
    tilt_kl: Float[np.ndarray, "rewards taus"]

    def among(self, kept: Sequence[int], count: int) -> "Curves":
        """Of all of ``count`` rewards, of which these are; ``nan`` for the others."""
        every = {name: of_all(of, kept, count) for name, of in self._asdict().items() if name != "prompts"}
        return self._replace(**every)


def of_all(of: np.ndarray, kept: Sequence[int], count: int, fill: float = np.nan) -> np.ndarray:
    """An array by rewards of all of ``count`` rewards, of which it holds those that were kept."""
    every = np.full((count, *of.shape[1:]), fill, of.dtype)
    every[list(kept)] = of
    return every


def along(
    parts: Sequence[Outputs],
    rewards: int,
    estimator: Estimator,
    budget: float,
    groups: Sequence[int],
    seed: int,
) -> Curves:
    """What becomes of prompts along training by each reward.

    Args:
        parts: the prompts, of which some are followed.
        rewards: how many of the rewards are followed, from the first.
        estimator: what the policies follow.
        budget: the time that there is.
        groups: sizes of groups.
        seed: of the prompts that are followed.
    """
    every = np.concatenate([part.prompts for part in parts])
    chosen = _chosen(every, rewards, estimator, seed)
    truth, reward, kl = np.zeros((3, rewards, len(TIMES)))
    spread = np.zeros((rewards, len(TIMES), len(groups)))
    for part in parts:
        some = [with_reward(part, i) for i in range(rewards)]
        some = [its.of(np.isin(its.at, chosen)) for its in some]
        if not len(some[0].at):
            continue
        later = at_times(estimator, some, budget * TIMES[1:])
        for i, (its, then) in enumerate(zip(some, later, strict=True)):
            ways = np.concatenate([its.log_p[None], then])
            truth[i] += expected(ways, its.truth).sum(1)
            reward[i] += expected(ways, its.rewards).sum(1)
            kl[i] += divergence(ways, its.log_p).sum(1)
            spread[i] += [_spread(policy, its.rewards, groups) for policy in ways]
    n = len(chosen)
    some = np.random.default_rng(seed).permutation(len(every))[:_MOST_TILTED]
    tilted = _tilted(parts, rewards, every[some])
    return Curves(n, truth / n, reward / n, kl / n, spread / n, *tilted)


def _chosen(every: np.ndarray, rewards: int, estimator: Estimator, seed: int) -> np.ndarray:
    """Prompts that are followed: all, or as many as the estimator follows in a moment."""
    most = max(estimator.paths // (rewards * (len(TIMES) - 1)), 1)
    return every if len(every) <= most else np.random.default_rng(seed).choice(every, most, replace=False)


def alone(
    scaled: Rollouts,
    estimator: Estimator,
    goal: float,
    budget: float | None,
    groups: Sequence[int],
    seed: int,
    tell: Tell,
) -> tuple[float, Curves]:
    """What rewards do to a policy, where no ground truth says what they teach it.

    Args:
        scaled: rewards on one scale, and no ground truth.
        estimator: what the policy follows.
        goal: the share of the possible increase of a reward that makes up the budget.
        budget: the time that there is; ten times the median time at which prompts gain that share of the
            reward that they are trained on if not given.
        groups: sizes of groups.
        seed: of the prompts that are followed.
        tell: is told what is being done.

    Returns:
        The budget, and what is seen along training, with no ground truth.
    """
    parts, rewards = list(outputs(scaled, estimator.sizes)), len(scaled.names)
    if budget is None:
        tell("hitting times")
        chosen = _chosen(np.concatenate([part.prompts for part in parts]), rewards, estimator, seed)
        times = []
        for part in parts:
            several = [with_reward(part, i) for i in range(rewards)]
            its = Prompts(*(np.concatenate(of) for of in zip(*several, strict=True)))
            its = its.of(np.isin(its.at, chosen))
            its = its._replace(truth=its.rewards)
            its = its.of(its.best > its.worst)
            increase = goal * (its.best - its.start)
            times.append(estimator.times(its.log_p, its.rewards, its.rewards, increase))
        budget = patient(np.concatenate(times))
    tell("along training")
    curves = along(parts, rewards, estimator, budget, groups, seed)
    unknown = np.full(curves.truth.shape, np.nan), np.full(curves.tilt_truth.shape, np.nan)
    return budget, curves._replace(truth=unknown[0], tilt_truth=unknown[1])


def at_times(estimator: Estimator, problems: Sequence[Prompts], times: np.ndarray) -> list[np.ndarray]:
    """Policies ``[times, n, outputs]`` of problems of one size, all at once."""
    log_p, rewards = (
        np.concatenate(each) for each in ([p.log_p for p in problems], [p.rewards for p in problems])
    )
    looks, count = -(-len(times) // len(LOOKS)), len(log_p)
    filled = np.append(times, np.repeat(times[-1:], looks * len(LOOKS) - len(times)))
    several = np.repeat(filled.reshape(looks, -1), count, axis=0)
    found = estimator.policies(np.tile(log_p, (looks, 1)), np.tile(rewards, (looks, 1)), several)
    every = np.moveaxis(found.reshape(looks, count, *found.shape[1:]), 1, 2).reshape(-1, *log_p.shape)
    return np.split(every[: len(times)], np.cumsum([len(p.at) for p in problems])[:-1], axis=1)


def _tilted(parts: Sequence[Outputs], rewards: int, chosen: np.ndarray) -> np.ndarray:
    """Ground truth, reward and divergence of the tilted policies of some prompts, ``[3, rewards, taus]``."""
    sums = np.zeros((3, rewards, len(TAUS)))
    known = np.ones((rewards, len(TAUS)), bool)
    for i in range(rewards):
        several = [with_reward(part, i) for part in parts]
        several = [its.of(np.isin(its.at, chosen)) for its in several]
        for j, tau in enumerate(TAUS):
            sizes = []
            for its in several:
                tilted = estimates.tilt(its.log_p, its.rewards, np.full(len(its.at), tau), its.counts)
                policy = tilted.log_probabilities
                means = expected(policy, its.truth), expected(policy, its.rewards), tilted.kl
                sums[:, i, j] += [mean.sum() for mean in means]
                sizes.append(tilted.effective_size)
            known[i, j] = np.median(np.concatenate(sizes)) >= _FEWEST
            if not known[i, j]:
                known[i, j:] = False
                break
    return np.where(np.logical_and.accumulate(known, axis=1), sums / len(chosen), np.nan)


def _spread(log_p: np.ndarray, rewards: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Expected number of prompts of which a group has two rewards, for every size."""
    p = np.exp(log_p)
    order = np.argsort(rewards, axis=1)
    r, p = np.take_along_axis(rewards, order, 1), np.take_along_axis(p, order, 1)
    total = np.cumsum(p, axis=1)
    last = np.ones(r.shape, bool)
    last[:, :-1] = r[:, 1:] != r[:, :-1]
    # The mass of each value: what has come up to its last output, less what had come before its first.
    upto = np.where(last, total, 0.0)
    before = np.concatenate([np.zeros((len(r), 1)), np.maximum.accumulate(upto, axis=1)[:, :-1]], axis=1)
    mass = np.where(last, np.clip(upto - before, 0.0, 1.0), 0.0)
    return np.array([(1.0 - (mass**group).sum(1)).sum() for group in groups])
