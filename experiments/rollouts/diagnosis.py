"""Is a reward a good teacher for the policy that drew these rollouts? All numbers of the answer."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from goodteacher.experiments.datasets import TIME, variable
from goodteacher.experiments.rollouts.along import TAUS, TIMES, Curves, Tell, alone
from goodteacher.experiments.rollouts.collection import LARGEST, Rollouts
from goodteacher.experiments.rollouts.drawn import Drawn, best_of_numbers, drawn
from goodteacher.experiments.rollouts.fates import Objections, Taught, objections, teach, with_others
from goodteacher.experiments.rollouts.groups import extrapolated_spread
from goodteacher.experiments.rollouts.resampling import (
    Interval,
    Resampled,
    Share,
    Sums,
    divided,
    ratio,
    resample,
)
from goodteacher.experiments.rollouts.scales import Unscaled, find_scale
from goodteacher.experiments.rollouts.teaching import Estimator, find_estimator
from goodteacher.experiments.rollouts.verdicts import Verdict
from goodteacher.sim import estimates

GROUPS = (2, 4, 8, 16, 32, 64)
ESTIMATED = (
    *("within_variance", "between_variance", "covariance", "accuracy", "accuracy_where_truth_differs"),
    *("harm_aware_accuracy", "ground_truth_at_budget"),
)
"""What is estimated over the data set with an interval, by reward."""


Estimate = Callable[[Sums], np.ndarray]


def _silent(doing: str) -> None:
    """Says nothing of the progress."""


@dataclass(frozen=True)
class Asked:
    """What is asked of rollouts.

    Attributes:
        scale: that all rewards are put on: ``none``, ``policy``, ``within`` or ``group``, or a value of
            :mod:`goodteacher.experiments.rollouts.scales`.
        estimator: what the policy follows: a name of :data:`goodteacher.experiments.followed.ESTIMATORS`; a
            clock, such as ``Grpo(8)``; or a value as
            :class:`goodteacher.experiments.rollouts.teaching.Estimator`.
        goal: the share of the possible increase of the ground truth that is to be reached.
        budget: the time that there is; ten times the median time on the ground truth if not given, or on the
            rewards themselves if there is none.
        groups: sizes.
        resamples: of the bootstrap.
        seed: of all random numbers.

    Raises:
        ValueError: naming the one that is out of range or unknown.
    """

    scale: Any = "policy"
    estimator: Any = "gradient"
    goal: float = 0.9
    budget: float | None = None
    groups: Sequence[int] = GROUPS
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Validates the numbers and names."""
        if not 0 < self.goal < 1:
            raise ValueError(f"goal is {self.goal}; give a share of the possible increase between 0 and 1")
        if self.budget is not None and not 0 < self.budget < np.inf:
            raise ValueError(f"budget is {self.budget}; give a positive, finite time")
        if not self.groups:
            raise ValueError("groups names no size; give at least one")
        for group in self.groups:
            if group != int(group) or group < 2:
                raise ValueError(f"a group has size {group}; give whole numbers of at least 2")
            if list(self.groups).count(group) > 1:
                raise ValueError(f"groups has the size {group} twice; give each once")
        if self.resamples < 1:
            raise ValueError(f"resamples is {self.resamples}; give at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give a whole number of at least 0")
        find_scale(self.scale)
        find_estimator(self.estimator)


def diagnose(rollouts: Rollouts, *, tell: Tell = _silent, **asked: Any) -> xr.Dataset:
    """What rollouts tell of their rewards as teachers: per prompt, per reward, and over the data set.

    Args:
        rollouts: what was drawn.
        tell: is told what is being done.
        asked: fields of :class:`Asked`.

    Returns:
        A dataset with dimensions ``reward``, ``prompt``, ``group``, ``verdict``, ``time`` (in budgets),
        ``tau`` and ``best_of``; what needs a ground truth is ``nan``, or missing, without one. What is
        :data:`ESTIMATED` over the data set has ``_low`` and ``_high`` beside it, the ends of its 95 %
        interval. ``rank`` counts from 1, and ``beats_next`` is the probability that a reward teaches better
        than the one below it: that it brings the ground truth higher by the budget. Every variable has
        ``long_name`` and ``units``.

    Raises:
        ValueError: as :class:`Asked`, or for a reward whose square is too large a number.
    """
    wish = Asked(**asked)
    _check_sizes(rollouts)
    scale, estimator = find_scale(wish.scale), find_estimator(wish.estimator)
    scaled = replace(rollouts, rewards=np.stack([scale.apply(row, rollouts) for row in rollouts.rewards]))
    tell("what the draws tell")
    numbers = best_of_numbers(rollouts)
    told = drawn(rollouts, scaled, wish.groups, numbers)
    future = _future(rollouts, scaled, scale, estimator, wish, tell)
    taught, lost = future.taught, future.lost
    tell("intervals")
    sums = resample(columns(told, taught), wish.resamples, wish.seed)
    names = rollouts.names
    parts = [_of_prompts(rollouts, told, taught), _of_rewards(names, scale, told, taught, sums)]
    parts += [_of_groups(rollouts, told, wish), _along(told, future)]
    data = xr.Dataset({name: of for part in parts for name, of in part.items()})
    if lost.prompts:
        _mark(data, lost.prompts, taught is not None)
    if lost.rewards:
        why = [lost.rewards.get(name, "") for name in names]
        data["reward_not_followed"] = variable("reward", why, "why a reward cannot be followed on any prompt")
    codes = data.prompt_verdict.values[..., None] == np.asarray([int(verdict) for verdict in Verdict])
    data["verdicts"] = variable(("reward", "verdict"), codes.sum(1), "number of prompts with a verdict")
    data = data.assign_coords(
        reward=list(names),
        prompt=list(rollouts.prompts),
        group=np.asarray(wish.groups, int),
        verdict=[verdict.title for verdict in Verdict],
        time=variable("time", TIMES, "time", "budgets"),
        tau=variable("tau", TAUS, "tau"),
        best_of=numbers,
    )
    data.attrs = {
        "draws": int(rollouts.rewards.shape[1]),
        "scale": scale.title,
        "estimator": estimator.title,
        "goal": wish.goal,
        "budget": future.budget,
        "followed": 0 if future.curves is None else future.curves.prompts,
        "resamples": wish.resamples,
        "seed": wish.seed,
    }
    return data


def _check_sizes(rollouts: Rollouts) -> None:
    truth = {} if rollouts.truth is None else {"the ground truth": rollouts.truth}
    for name, values in {**dict(zip(rollouts.names, rollouts.rewards, strict=True)), **truth}.items():
        largest = float(np.nanmax(np.abs(values)))
        if largest > LARGEST:
            raise ValueError(
                f"{name} has a value of size {largest:g}, whose square is too large a number; give values of "
                f"at most {LARGEST:g}"
            )


class _Future(NamedTuple):
    """What becomes of the policy.

    Attributes:
        taught: by a ground truth, if there is one.
        budget: the time that there is.
        curves: along training; ``None`` where nothing is followed.
        lost: what cannot be followed.
    """

    taught: Taught | None
    budget: float
    curves: Curves | None
    lost: Objections


def _future(
    rollouts: Rollouts, scaled: Rollouts, scale: Unscaled, estimator: Estimator, wish: Asked, tell: Tell
) -> _Future:
    """What becomes of the policy under each reward, with what is known of the ground truth.

    Raises:
        ValueError: if there is a ground truth, but nothing can be followed.
    """
    has_truth, names = _has_truth(rollouts), rollouts.names
    if not has_truth:
        scaled = replace(scaled, truth=None)
    lost = objections(scaled, scale, estimator)
    kept = [i for i, name in enumerate(names) if name not in lost.rewards]
    known = _known(scaled, lost)
    if has_truth:
        _check_followed(known, lost)
    elif not kept or not _has_truth(known):
        return _Future(None, np.nan, None, lost)
    known = known.choose([names[i] for i in kept])
    aims = wish.goal, wish.budget, wish.groups, wish.seed, tell
    if has_truth:
        taught = with_others(teach(known, scale, estimator, *aims), kept, len(names))
        return _Future(taught, taught.budget, taught.curves, lost)
    budget, curves = alone(known, estimator, *aims)
    return _Future(None, budget, curves.among(kept, len(names)), lost)


def _known(scaled: Rollouts, lost: Objections) -> Rollouts:
    """Without the ground truth, which where it is not known is 0, of prompts that cannot be followed."""
    truth = np.zeros(len(scaled.prompt_of)) if scaled.truth is None else scaled.truth
    return replace(scaled, truth=np.where(np.isin(scaled.prompt_of, list(lost.prompts)), np.nan, truth))


def _check_followed(known: Rollouts, lost: Objections) -> None:
    if len(lost.rewards) == len(known.names):
        name, why = next(iter(lost.rewards.items()))
        raise ValueError(f"no reward can be followed: the rewards of {name} {why}")
    if not _has_truth(known):
        prompt, why = next(iter(lost.prompts.items()))
        raise ValueError(f"no prompt can be followed: the rewards of {known.prompts[prompt]} {why}")


def _mark(data: xr.Dataset, unknown: Mapping[int, str], has_truth: bool) -> None:
    """Enters why prompts were not followed, and with a ground truth their verdict."""
    reasons = [unknown.get(prompt, "") for prompt in range(data.sizes["prompt"])]
    data["not_followed"] = variable("prompt", reasons, "what the rewards are that cannot be followed")
    lost = np.array([has_truth and bool(why) for why in reasons])
    lost = lost & (data.prompt_verdict.values == Verdict.NO_TRUTH)
    data.prompt_verdict.values[lost] = int(Verdict.NOT_KNOWN)


def _has_truth(rollouts: Rollouts) -> bool:
    """Whether a prompt has a ground truth on two draws."""
    if rollouts.truth is None:
        return False
    return bool((np.bincount(rollouts.prompt_of[np.isfinite(rollouts.truth)], minlength=1) > 1).any())


# Over the data set ----------------------------------------------------------------------


def columns(told: Drawn, taught: Taught | None = None) -> dict[str, np.ndarray]:
    """What is summed over prompts, by a name and the number of the reward."""
    found = {"one": np.ones(told.mean.shape[1])}
    for i in range(len(told.mean)):
        of = {
            "mean": told.mean[i],
            "mean squared": told.mean[i] ** 2,
            "square": told.square[i],
            "variance": told.variance[i],
            "noise": told.variance[i] / told.draws,
            "draws": told.draws,
            "sum": told.draws * told.mean[i],
            "sum of squares": told.draws * told.square[i],
            "covariance": told.covariance[i],
            "right": told.right[i],
            "decided": told.decided[i],
            "right decided": told.right_decided[i],
            "harmless": told.harmless[i],
            "known": np.isfinite(told.covariance[i]),
        }
        if taught is not None:
            of["taught"] = taught.on_rewards.truth[i]
            of["teachable"] = np.isfinite(taught.on_rewards.truth[i])
        found |= {f"{name} {i}": values for name, values in of.items()}
    return found


def estimators(i: int, scale: Unscaled) -> dict[str, Estimate]:
    """From sums of :func:`columns` over prompts to what is :data:`ESTIMATED` of reward number ``i``."""

    def size(sums: Sums) -> np.ndarray | float:
        """What resampled variances are on, of the scale that the resampled draws would have had."""
        draws = sums[f"draws {i}"]
        first, second = sums[f"sum {i}"] / draws, sums[f"sum of squares {i}"] / draws
        found = scale.variance(first, second, sums[f"variance {i}"] / sums["one"])
        return np.where(np.asarray(found) > 0, found, 1.0)

    def within(sums: Sums) -> np.ndarray:
        return sums[f"variance {i}"] / sums["one"] / size(sums)

    def between(sums: Sums) -> np.ndarray:
        n = sums["one"]
        means = sums[f"mean {i}"] / n
        apart = divided((sums[f"mean squared {i}"] / n - means**2) * n, n - 1)  # of one prompt unknown
        return (apart - sums[f"noise {i}"] / n) / size(sums)

    def covariance(sums: Sums) -> np.ndarray:
        return divided(sums[f"covariance {i}"], sums[f"known {i}"]) / np.sqrt(size(sums))

    return {
        "within_variance": within,
        "between_variance": between,
        "covariance": covariance,
        "accuracy": Share(f"right {i}", f"known {i}"),
        "accuracy_where_truth_differs": Share(f"right decided {i}", f"decided {i}"),
        "harm_aware_accuracy": Share(f"harmless {i}", f"decided {i}"),
        "ground_truth_at_budget": ratio(f"taught {i}", f"teachable {i}"),
    }


_ENDS = {
    "": "",
    "_low": "lower end of the 95 % interval of the ",
    "_high": "upper end of the 95 % interval of the ",
}
_SAID = {
    "within_variance": "mean variance of the reward within prompts",
    "between_variance": "variance of the reward's mean between prompts",
    "covariance": "mean covariance of reward and ground truth within prompts",
    "accuracy": "share of pairs of draws that are ranked as the ground truth ranks them, ties included",
    "accuracy_where_truth_differs": "share of pairs told apart by the ground truth that are ranked rightly",
    "harm_aware_accuracy": "share of these pairs that are ranked rightly or harmlessly",
    "ground_truth_at_budget": "expected ground truth at the budget",
}


def _of_rewards(
    names: Sequence[str], scale: Unscaled, told: Drawn, taught: Taught | None, sums: Resampled
) -> dict[str, xr.Variable]:
    none = Interval(np.nan, np.nan, np.nan)
    found: dict[str, list[Interval]] = {name: [] for name in ESTIMATED}
    scores = []
    for i in range(len(names)):
        of_reward = estimators(i, scale)
        scores.append(of_reward["ground_truth_at_budget"])
        for name in ESTIMATED:
            given = taught is not None or name in ("within_variance", "between_variance")
            found[name].append(sums.interval(of_reward[name]) if given else none)
    made = {}
    for name, intervals in found.items():
        for end, values in zip(("", "_low", "_high"), zip(*intervals, strict=True), strict=True):
            made[name + end] = variable("reward", list(values), _ENDS[end] + _SAID[name])
    rank, beats = np.full(len(names), np.nan), np.full(len(names), np.nan)
    if taught is not None:
        values = np.array([interval.value for interval in found["ground_truth_at_budget"]])
        order = np.argsort(-values, kind="stable")[: np.isfinite(values).sum()]  # nan last
        rank[order] = 1 + np.arange(len(order))
        for above, below in itertools.pairwise(order):
            beats[above] = sums.exceeds(scores[above], scores[below])
    made["rank"] = variable("reward", rank, "rank by the expected ground truth at the budget")
    made["beats_next"] = variable("reward", beats, "probability that it teaches better than the next in rank")
    return made


# Per prompt -------------------------------------------------------------------------------


def _of_prompts(rollouts: Rollouts, told: Drawn, taught: Taught | None) -> dict[str, xr.Variable]:
    both, one = ("reward", "prompt"), "prompt"
    made = {
        "draws": variable(one, told.draws, "number of draws"),
        "unseen_probability": variable(
            one,
            estimates.unseen_probability(told.draws),
            "what the probability of an output that was never drawn is below, with 95 % confidence",
        ),
        "mean_ground_truth": variable(one, told.truth, "mean ground truth of the draws"),
        "mean_reward": variable(both, told.mean, "mean of the scaled reward over the draws"),
        "reward_variance": variable(both, told.variance, "variance of the scaled reward"),
        "reward_covariance": variable(both, told.covariance, "covariance of scaled reward and ground truth"),
        "prompt_accuracy": variable(both, told.right, _SAID["accuracy"]),
        "prompt_accuracy_where_truth_differs": variable(
            both, divided(told.right_decided, told.decided), _SAID["accuracy_where_truth_differs"]
        ),
        "prompt_harm_aware_accuracy": variable(
            both, divided(told.harmless, told.decided), _SAID["harm_aware_accuracy"]
        ),
        "spread": variable((*both, "group"), told.spread, "share of groups that have two rewards"),
    }
    verdict = np.where(told.signal, int(Verdict.NO_TRUTH), int(Verdict.NO_SIGNAL))
    if taught is None:
        return made | {"prompt_verdict": variable(both, verdict, "number of the verdict")}
    fate = taught.on_rewards
    verdict = np.where(told.signal, fate.verdict, int(Verdict.NO_SIGNAL))
    return made | {
        "prompt_verdict": variable(both, verdict, "number of the verdict"),
        "hitting_time": variable(both, fate.time, "time at which the goal is reached", TIME),
        "hitting_time_on_truth": variable(
            one, taught.on_truth.time, "the same when trained on the ground truth", TIME
        ),
        "truth_at_start": variable(one, taught.start, "expected ground truth at the start"),
        "truth_of_best": variable(one, taught.best, "ground truth of the best output that was drawn"),
        "truth_at_budget": variable(both, fate.truth, "expected ground truth at the budget"),
        "truth_at_budget_on_truth": variable(
            one, taught.on_truth.truth, "the same when trained on the ground truth"
        ),
        "kl_at_budget": variable(both, fate.kl, "divergence from the initial policy at the budget", "nat"),
        "peak_time": variable(
            both, fate.peak_time, "time of the largest ground truth, where it falls later", TIME
        ),
        "peak_kl": variable(both, fate.peak_kl, "divergence at that time", "nat"),
        "peak_truth": variable(both, fate.peak_truth, "expected ground truth at that time"),
        **_holding(rollouts, fate.held_by),
    }


def _holding(rollouts: Rollouts, held: Int[np.ndarray, "rewards prompts"]) -> dict[str, xr.Variable]:
    """What is known of the outputs that hold prompts up, from a draw of each among those that were kept."""
    assert rollouts.truth is not None
    both, none = ("reward", "prompt"), held < 0
    draw = rollouts.starts[:-1] + np.maximum(held, 0)
    each = zip(rollouts.rewards, draw, strict=True)
    reward = np.stack([_means_of_outputs(rollouts, row)[at] for row, at in each])
    truth = _means_of_outputs(rollouts, rollouts.truth)[draw]
    made = {
        "held_by": variable(
            both,
            np.where(none, -1, rollouts.draw_numbers[draw]),
            "number, among all draws of the prompt, of the output that holds the policy up, -1 if none does",
        ),
        "held_by_reward": variable(both, np.where(none, np.nan, reward), "reward of it, as it was given"),
        "held_by_truth": variable(both, np.where(none, np.nan, truth), "ground truth of it"),
    }
    if rollouts.answer_texts is not None:
        texts = np.where(none, "", rollouts.answer_texts[draw])
        made["held_by_answer"] = variable(both, texts, "answer of it")
    return made


def _means_of_outputs(rollouts: Rollouts, values: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
    """Each value, or the mean over equal answers, of those draws that have a ground truth."""
    if rollouts.answers is None or rollouts.truth is None:
        return values
    known = pd.Series(np.where(np.isfinite(rollouts.truth), values, np.nan))
    return known.groupby([rollouts.prompt_of, rollouts.answers]).transform("mean").to_numpy()


# Over the data set, along groups and time ------------------------------------------------


def _of_groups(rollouts: Rollouts, told: Drawn, wish: Asked) -> dict[str, xr.Variable]:
    """Share of groups with spread: estimated where prompts have draws enough, else extrapolated."""
    groups = list(wish.groups)
    enough = np.asarray(np.isfinite(told.spread).any(1))
    sums = np.nansum(told.spread, axis=1)
    share = divided(sums, np.isfinite(told.spread).sum(1).astype(float))
    for i, values in enumerate(rollouts.rewards):
        levels = np.unique(values)
        if len(levels) != 2 or enough[i].all():
            continue
        wins = np.bincount(rollouts.prompt_of, values == levels[1], len(rollouts.prompts))
        for j, group in enumerate(groups):
            if not enough[i, j]:
                share[i, j] = extrapolated_spread(wins.astype(int), rollouts.counts, group)
    both = ("reward", "group")
    return {
        "share_with_spread": variable(both, share, "share of groups that have two rewards"),
        "share_is_extrapolated": variable(
            both, ~enough, "whether that is from fewer draws than the group has"
        ),
        "generations": variable(
            both, divided(np.ones(share.shape), share), "groups drawn for each one kept by dynamic sampling"
        ),
    }


def _along(told: Drawn, future: _Future) -> dict[str, xr.Variable]:
    made, curves = {}, future.curves
    along, tilted = ("reward", "time"), ("reward", "tau")
    if curves is not None:
        made |= {
            "reward_along": variable(along, curves.reward, "expected scaled reward, mean of those followed"),
            "kl_along": variable(along, curves.kl, "divergence from the initial policy, likewise", "nat"),
            "spread_along": variable(
                (*along, "group"), curves.spread, "share of groups that have two rewards"
            ),
            "reward_tilted": variable(tilted, curves.tilt_reward, "scaled reward of the tilted policies"),
            "kl_tilted": variable(tilted, curves.tilt_kl, "their divergence from the initial policy", "nat"),
        }
    if curves is not None and future.taught is not None:
        made |= {
            "truth_along": variable(along, curves.truth, "expected ground truth, mean of those followed"),
            "truth_tilted": variable(tilted, curves.tilt_truth, "ground truth of the tilted policies"),
        }
    best = divided(np.nansum(told.best_of, 1), np.isfinite(told.best_of).sum(1).astype(float))
    made["truth_of_best_of"] = variable(
        ("reward", "best_of"), best, "expected ground truth of the best of so many draws by reward"
    )
    return made
