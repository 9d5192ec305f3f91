"""Errors of a proxy reward: what they are by rule, and what they do to the time that learning takes.

By rule (arXiv:2604.25872, Section 3) an error at an output is judged from where the proxy puts it. Line and
scale are the proxy's: below its initial expectation ``V_P(0)`` an output loses probability, so that it holds
nothing up; from there to the reward of ``y*``, the best output of the ground truth, it attracts probability
for a while; above, it wins. By effect it is judged by what correcting it changes along the exact flow.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from math import factorial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from goodteacher.sim.clocks import BatchScaled
from goodteacher.sim.flow import HORIZON, final_policies, hitting_times_only
from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import advantage, expected_reward
from goodteacher.sim.policies import Tabular
from goodteacher.theory.draws import Source, dimension, random_logits
from goodteacher.theory.logit_velocity import below_value

MOST_SUBSETS = 8
"""Errors of a prompt up to which all their subsets are tried."""

_PART, _MANY = 16, 1024  # problems that are followed side by side


class Category(IntEnum):
    """What an error is by rule."""

    NONE = 0
    HARMFUL_I = 1
    HARMFUL_II = 2
    BENIGN_I = 3
    BENIGN_II = 4
    BENEFICIAL = 5

    @property
    def title(self) -> str:
        """As it is printed."""
        kind, *number = self.name.split("_")
        return " ".join([kind.lower(), *number])


@dataclass(frozen=True)
class Thresholds:
    """What the rule takes for low, high, negligible and wrong.

    Attributes:
        low: ground truth reward, on a scale from the worst output of the prompt (0) to the best (1), below
            which an output is low; from there on it is middling.
        high: proxy reward, on a scale from ``V_P(0)`` (0) to that of ``y*`` (1), from which on it is high.
        negligible: initial probability, as a multiple of that of ``y*``, up to which nothing that the proxy
            says about an output matters: ``y*`` then has won before it counts.
        error: difference of proxy and ground truth from which on the proxy is wrong.

    Raises:
        ValueError: if they are out of order or out of range.
    """

    low: float = 0.25
    high: float = 0.95
    negligible: float = 0.3
    error: float = 1e-9

    def __post_init__(self) -> None:
        """Validates the numbers."""
        if not 0 <= self.low < self.high:
            raise ValueError(
                f"thresholds are out of order: low is {self.low} and high {self.high}; give 0 <= low < high"
            )
        if not 0 <= self.negligible < np.inf:
            raise ValueError(f"negligible is {self.negligible}; give a multiple of y*'s probability, from 0")
        if not 0 < self.error < np.inf:
            raise ValueError(f"error is {self.error}; give a positive difference of rewards")


def wrong(instance: Instance, thresholds: Thresholds = Thresholds()) -> Bool[Array, "prompts outputs"]:
    """Where the proxy differs from the ground truth, among the outputs that exist."""
    return _apart(instance, thresholds.error)


@jax.jit
def _apart(instance: Instance, least: ArrayLike) -> Array:
    apart = jnp.abs(instance.rewards - instance.ground_truth_rewards) >= least
    return apart if instance.mask is None else apart & instance.mask


def categories(instance: Instance, thresholds: Thresholds = Thresholds()) -> Int[Array, "prompts outputs"]:
    """By rule: the code of a :class:`Category` for every output, the first of these that applies.

    - none: the proxy is right, or the output does not exist;
    - at ``y*`` itself: beneficial if overrated; harmful I if underrated so much that another output is
      high, else harmful II;
    - benign II: the initial probability is negligible;
    - below ``V_P(0)``: beneficial if the output is middling by the ground truth, which would have put it
      above the line; benign I otherwise;
    - above: harmful if overrated, I (reward hacking) if high, II (stalling) if not; beneficial if underrated.

    Of several best outputs the first is ``y*``. Traceable; ``jax.vmap`` it over instances.
    """
    truth, proxy = instance.ground_truth_rewards, instance.rewards
    initial = instance.probabilities(instance.initial_parameters)
    exists = jnp.ones_like(truth, bool) if instance.mask is None else instance.mask
    ranked = jnp.where(exists, truth, -jnp.inf)
    star = jnp.arange(truth.shape[-1]) == ranked.argmax(-1, keepdims=True)
    lowest = jnp.where(exists, truth, jnp.inf).min(-1, keepdims=True)
    best = ranked.max(-1, keepdims=True)
    # Advantages, not rewards and their mean: no rounding puts equal rewards below it.
    above, below = advantage(initial, proxy), below_value(instance)
    star_above = jnp.where(star, above, 0.0).sum(-1, keepdims=True)

    middling = (truth - lowest >= thresholds.low * (best - lowest)) & (above + (truth - proxy) > 0)
    # Where y* itself is below the line, whatever is above it is high.
    high = ~below & (above >= thresholds.high * star_above)
    overrated = proxy > truth
    harm = jnp.where(high, Category.HARMFUL_I, Category.HARMFUL_II)
    beaten = (high & exists & ~star).any(-1, keepdims=True)
    of_star = jnp.where(
        overrated, Category.BENEFICIAL, jnp.where(beaten, Category.HARMFUL_I, Category.HARMFUL_II)
    )
    low = jnp.where(middling, Category.BENEFICIAL, Category.BENIGN_I)
    others = jnp.where(below, low, jnp.where(overrated, harm, Category.BENEFICIAL))
    rare = initial <= thresholds.negligible * jnp.where(star, initial, 0.0).sum(-1, keepdims=True)
    others = jnp.where(rare, Category.BENIGN_II, others)
    found = jnp.where(star, of_star, others)
    return jnp.where(wrong(instance, thresholds), found, Category.NONE)


# By effect --------------------------------------------------------------------


@jax.jit
def most_of_the_way(instance: Instance) -> Goal:
    """The goal that the expected ground truth reward covers nine tenths of its way to the best output's."""
    exists = jnp.isfinite(instance.log_probabilities(instance.initial_parameters))
    best = jnp.where(exists, instance.ground_truth_rewards, -jnp.inf).max(-1)
    initial = expected_reward(
        instance.probabilities(instance.initial_parameters), instance.ground_truth_rewards
    )
    return reward_increase(instance, 0.9 * (best - initial))


@jax.jit
def log_ratio(proxy: Float[Array, "*batch"], corrected: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """``log10`` of a hitting time over another: above zero if the error costs time.

    ``inf`` if only the error makes the goal unreachable, ``-inf`` if only the error makes it reachable,
    ``nan`` if it is out of reach either way, or if a time is not known (``nan``).
    """
    return jnp.log10(proxy) - jnp.log10(corrected)


class Effects(NamedTuple):
    """What errors do, one by one.

    Attributes:
        errors: ``[errors, 2]``: prompt and output.
        time: ``[prompts]`` hitting time on the proxy; ``inf`` if not reached, ``nan`` if not converged.
        corrected_time: ``[errors]``: of the error's prompt, once that error is corrected.
        log_ratio: ``[errors]``: :func:`log_ratio` of the two.
        reward: ``[prompts]`` final expected ground truth reward on the proxy.
        reward_change: ``[errors]``: by how much the error changes it.
    """

    errors: Int[np.ndarray, "errors 2"]
    time: Float[np.ndarray, " prompts"]
    corrected_time: Float[np.ndarray, " errors"]
    log_ratio: Float[np.ndarray, " errors"]
    reward: Float[np.ndarray, " prompts"]
    reward_change: Float[np.ndarray, " errors"]


def trained_on(instance: Instance, rewards: Float[Array, "*batch prompts outputs"]) -> Instance:
    """The same problem, or batch of problems, with other proxy rewards."""
    return eqx.tree_at(lambda i: i.rewards, instance, rewards)


class _Variants(NamedTuple):
    """A problem with other proxy rewards, each time at one prompt."""

    prompts: Int[np.ndarray, " variants"]
    rewards: Float[np.ndarray, "variants outputs"]


Tell = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Says nothing of the progress."""


def _times(instance: Instance, variants: _Variants, goal: Goal, tell: Tell = _silent) -> np.ndarray:
    """``[variants]``: hitting times of their prompts."""

    def times(problems: Instance, goals: Goal) -> Array:
        return hitting_times_only(problems, goals)[0]

    return _in_parts(times, instance, variants, goal, tell)


def _final_rewards(instance: Instance, variants: _Variants, goal: Goal, tell: Tell = _silent) -> np.ndarray:
    """``[variants]``: final expected ground truth rewards of their prompts; ``nan`` if not converged."""

    def final(problems: Instance, goals: Goal) -> Array:
        log_p, end = final_policies(problems)
        return _rewards_at_end(problems, log_p, end)

    return _in_parts(final, instance, variants, goal, tell)


@jax.jit
def _rewards_at_end(variants: Instance, log_p: Array, end: Array) -> Array:
    reward = expected_reward(jnp.exp(log_p), variants.ground_truth_rewards)
    return jnp.where(end[:, None] == HORIZON, reward, jnp.nan)


def _in_parts(
    compute: Callable[[Instance, Goal], Array],
    instance: Instance,
    variants: _Variants,
    goal: Goal,
    tell: Tell,
) -> np.ndarray:
    """In parts of few sizes, so that one compilation serves however many errors there are."""
    # Prompts of a tabular policy do not interact, but by a clock of the batch: each is a problem by itself.
    apart = isinstance(instance.policy, Tabular) and not isinstance(instance.clock, BatchScaled)
    total = len(variants.prompts)
    size = _MANY if apart and total > _PART else _PART
    parts = []
    for first in range(0, total, size):
        prompts, rewards = (of[first : first + size] for of in variants)
        count = len(prompts)
        filled = [
            np.pad(of, [(0, size - count)] + [(0, 0)] * (of.ndim - 1), mode="edge")
            for of in (prompts, rewards)
        ]
        found = np.asarray(compute(*_problems(instance, goal, *filled, apart=apart)))[:count]
        parts.append(found[:, 0] if apart else found[np.arange(count), prompts])
        tell(first + count, total)
    return np.concatenate(parts)


@partial(jax.jit, static_argnames="apart")
def _problems(
    instance: Instance, goal: Goal, prompts: Array, rewards: Array, *, apart: bool
) -> tuple[Instance, Goal]:
    def one(prompt: Array, row: Array) -> tuple[Instance, Goal]:
        changed = trained_on(instance, instance.rewards.at[prompt].set(row))
        return (_alone(changed, prompt), _row(goal, prompt)) if apart else (changed, goal)

    return jax.vmap(one)(prompts, rewards)


def _row(tree: Any, prompt: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[prompt][None], tree)


def _alone(instance: Instance, prompt: Array) -> Instance:
    """One prompt of a tabular problem, with its weight."""

    def of_prompts(i: Instance) -> list[Any]:
        fields = [i.initial_parameters, i.rewards, i.ground_truth_rewards, i.reference_log_probabilities]
        return [*fields, i.prompt_weights, *(of for of in (i.mask, i.reward_variances) if of is not None)]

    return eqx.tree_at(of_prompts, instance, _row(of_prompts(instance), prompt))


def effects(
    instance: Instance,
    goal: Goal | None = None,
    *,
    thresholds: Thresholds = Thresholds(),
    tell: Tell = _silent,
) -> Effects:
    """By effect: hitting time and final reward on the proxy, and with each error corrected in turn.

    Args:
        instance: the problem.
        goal: whose hitting times are compared; :func:`most_of_the_way` if not given.
        thresholds: of which only ``error`` is used.
        tell: is told how much is done, of how much.
    """
    goal = most_of_the_way(instance) if goal is None else goal
    errors = np.argwhere(np.asarray(wrong(instance, thresholds)))
    proxy, truth = np.asarray(instance.rewards), np.asarray(instance.ground_truth_rewards)
    count, (at, outputs) = len(proxy), errors.T
    rows = proxy[at]
    rows[np.arange(len(errors)), outputs] = truth[at, outputs]
    variants = _Variants(np.concatenate([np.arange(count), at]), np.concatenate([proxy, rows]))
    total = 2 * len(variants.prompts)
    times = _times(instance, variants, goal, lambda done, _: tell(done, total))
    final = _final_rewards(instance, variants, goal, lambda done, _: tell(total // 2 + done, total))
    of_error = times[count:]
    return Effects(
        errors,
        times[:count],
        of_error,
        np.asarray(log_ratio(jnp.asarray(times[at]), jnp.asarray(of_error))),
        final[:count],
        final[at] - final[count:],
    )


class Shares(NamedTuple):
    """How errors of a prompt share in what they do together to ``log10`` of the hitting time.

    Attributes:
        outputs: ``[errors]``, where they are.
        values: ``[errors]``, Shapley values: they add up to what all errors together do.
        interactions: ``[errors, errors]``, Shapley interaction indices: how much more two errors do together
            than one by one, averaged over the company of others; the diagonal is zero.
    """

    outputs: Int[np.ndarray, " errors"]
    values: Float[np.ndarray, " errors"]
    interactions: Float[np.ndarray, "errors errors"]


def shares(
    instance: Instance,
    prompt: int,
    goal: Goal | None = None,
    *,
    thresholds: Thresholds = Thresholds(),
) -> Shares:
    """Shapley values of the errors of a prompt, from the hitting times with every subset of them.

    A goal that is not reached counts with the horizon: an error that makes it unreachable then has a large
    value, not an infinite one. A time that is not known makes values ``nan``.

    Args:
        instance: the problem. Errors of its other prompts stay.
        prompt: which.
        goal, thresholds: as for :func:`effects`.

    Raises:
        ValueError: if there are more than :data:`MOST_SUBSETS` errors.
    """
    return all_shares(instance, [prompt], goal, thresholds=thresholds)[0]


def all_shares(
    instance: Instance,
    prompts: Sequence[int],
    goal: Goal | None = None,
    *,
    thresholds: Thresholds = Thresholds(),
    tell: Tell = _silent,
) -> list[Shares]:
    """:func:`shares` of several prompts.

    Raises:
        ValueError: if one has more than :data:`MOST_SUBSETS` errors.
    """
    goal = most_of_the_way(instance) if goal is None else goal
    wrongs = np.asarray(wrong(instance, thresholds))
    proxy, truth = np.asarray(instance.rewards), np.asarray(instance.ground_truth_rewards)
    errors, rows = [], []
    for prompt in prompts:
        outputs = np.flatnonzero(wrongs[prompt])
        count = len(outputs)
        if count > MOST_SUBSETS:
            raise ValueError(
                f"prompt {prompt} has {count} errors, whose {2.0**count:.3g} subsets are too many; "
                f"at most {MOST_SUBSETS} can be shared out"
            )
        present = np.indices((2,) * count).reshape(count, -1).T.astype(bool)  # [subsets, errors]
        each = np.repeat(proxy[prompt][None], len(present), axis=0)
        each[:, outputs] = np.where(present, proxy[prompt, outputs], truth[prompt, outputs])
        errors.append(outputs)
        rows.append(each)
    if not rows:
        return []
    owners = np.repeat(np.asarray(prompts), [len(each) for each in rows])
    times = _times(instance, _Variants(owners, np.concatenate(rows)), goal, tell)
    logs = np.split(np.log10(np.minimum(times, HORIZON)), np.cumsum([len(each) for each in rows])[:-1])
    return [
        Shares(outputs, *shapley(worth.reshape((2,) * len(outputs))))
        for outputs, worth in zip(errors, logs, strict=True)
    ]


def shapley(worth: Float[np.ndarray, "..."]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """Shapley values and pairwise interaction indices of a game (Shapley 1953; Grabisch and Roubens 1999).

    Args:
        worth: of every coalition, ``[2] * n``: entry 1 along an axis where that player takes part.
    """
    n = worth.ndim
    values, interactions = np.zeros(n), np.zeros((n, n))

    def average(change: np.ndarray) -> float:
        # Over the coalitions of the other players, each size as likely as any other.
        rest = change.ndim
        sizes = np.indices(change.shape).sum(0) if rest else np.zeros((), int)
        weights = np.array(
            [factorial(s) * factorial(rest - s) / factorial(rest + 1) for s in range(rest + 1)]
        )
        return float((weights[sizes] * change).sum())

    for i in range(n):
        values[i] = average(np.diff(worth, axis=i).squeeze(i))
    for i, j in itertools.combinations(range(n), 2):
        change = np.diff(np.diff(worth, axis=j), axis=i).squeeze((i, j))
        interactions[i, j] = interactions[j, i] = average(change)
    return values, interactions


# Do rule and effect agree? ----------------------------------------------------

VERDICTS = ("harmful", "benign", "beneficial")
_FORETELL = (
    [Category.HARMFUL_I, Category.HARMFUL_II],
    [Category.NONE, Category.BENIGN_I, Category.BENIGN_II],
    [Category.BENEFICIAL],
)
_BENIGN = 0.1  # largest |log10| of the ratio of times that counts as benign
_TRIAL_OUTPUTS = 4


class Trials(NamedTuple):
    """Random problems with one error each, and what that does.

    Attributes:
        instances: a batch of problems with one prompt.
        output: ``[n]`` where the error is.
        log_ratio: ``[n]`` of the hitting times, see :func:`log_ratio`.
    """

    instances: Instance
    output: Int[np.ndarray, " n"]
    log_ratio: Float[np.ndarray, " n"]


def _trial(source: Source) -> tuple[Instance, Array]:
    """A problem with one error, and the output at which it is."""
    shape = (1, _TRIAL_OUTPUTS)
    truth = source.uniform(-1.0, 0.9, shape).at[0, 0].set(1.0)
    start = random_logits(source, shape, 0.1, 3.0)
    output = source.integer(0, _TRIAL_OUTPUTS - 1)
    rewards = truth.at[0, output].set(source.uniform(-1.0, 1.2))
    return Instance(rewards, truth, start=Parameters(start)), output


def _most_of_the_way_times(instances: Instance) -> Array:
    return hitting_times_only(instances, jax.vmap(most_of_the_way)(instances))[0]


def trials(seed: int, n: int, times: Callable[[Instance], ArrayLike] = _most_of_the_way_times) -> Trials:
    """Draws problems of four outputs whose proxy is the ground truth but for a random reward of one of them.

    Args:
        seed: of the problems.
        n: how many.
        times: finds the hitting times, ``[batch, 1]``, of the goals :func:`most_of_the_way`.
    """

    def draw(key: Array) -> tuple[Instance, Array]:
        return _trial(Source(jax.random.uniform(key, (dimension(_trial),))))

    # One by one: random numbers of many keys at once take many times as long to compile.
    keys = jax.random.split(jax.random.key(seed), n)
    instances, output = jax.jit(lambda: jax.lax.map(draw, keys))()
    corrected = trained_on(instances, instances.ground_truth_rewards)
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair), instances, corrected)
    time = jnp.asarray(times(both))[:, 0]
    return Trials(instances, np.asarray(output), np.asarray(log_ratio(time[:n], time[n:])))


def verdicts(log_ratio: Float[np.ndarray, "*batch"]) -> Int[np.ndarray, "*batch"]:
    """What effects are, as places in :data:`VERDICTS`: benign are those of a factor up to ``10^0.1``.

    Args:
        log_ratio: see :func:`log_ratio`; not ``nan``.
    """
    return np.where(np.abs(log_ratio) <= _BENIGN, 1, np.where(log_ratio > 0, 0, 2))


def confusion(
    sample: Trials, thresholds: Thresholds = Thresholds()
) -> Int[np.ndarray, "categories verdicts"]:
    """How many errors of each category had each effect, in the order of :data:`VERDICTS`.

    Args:
        sample: see :func:`trials`; errors whose effect is not known are left out.
        thresholds: of the rule.
    """
    codes = np.asarray(jax.vmap(lambda i: categories(i, thresholds))(sample.instances))[:, 0]
    code = np.take_along_axis(codes, sample.output[:, None], axis=1)[:, 0]
    verdict = verdicts(sample.log_ratio)
    counts = np.zeros((len(Category), len(VERDICTS)), int)
    known = ~np.isnan(sample.log_ratio)
    np.add.at(counts, (code[known], verdict[known]), 1)
    return counts


def agreement(counts: Int[np.ndarray, "categories verdicts"]) -> float:
    """How often the category foretells the effect: the share in which it does, averaged over the effects.

    Guessing gives 1/3, whatever the shares of the effects.
    """
    foretold = np.array([counts[of, verdict].sum() for verdict, of in enumerate(_FORETELL)])
    return float((foretold / np.maximum(counts.sum(0), 1)).mean())


def best_thresholds(sample: Trials) -> tuple[Thresholds, float]:
    """Of a grid of thresholds, those by which rule and effect agree most, and their :func:`agreement`."""
    grid = itertools.product(np.linspace(0.0, 0.8, 5), np.linspace(0.8, 1.0, 5), (0.0, 0.1, 0.3, 1.0, 3.0))
    tried = [Thresholds(*map(float, each)) for each in grid if each[0] < each[1]]
    scores = [agreement(confusion(sample, each)) for each in tried]
    return tried[int(np.argmax(scores))], max(scores)
