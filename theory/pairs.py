"""Definitions over pairs of outputs: the variance by pairs, and which accuracies there are
(arXiv:2503.15477)."""

from collections.abc import Callable
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.metrics import reward_variance
from goodteacher.theory.draws import Source, random_logits, random_mask, random_rewards, without
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rankings import attainable_accuracies
from goodteacher.theory.statements import Judge, Sides, Statement

_ROUNDING = 1e-13  # of a sum over all pairs


def variance_by_pairs(
    probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    *,
    constant: Number = 1 / 2,
    power: Number = 2.0,
) -> Float[Array, "*batch"]:
    """``E |r(y) - r(y')|^2 / 2`` over independent pairs: the variance (arXiv:2503.15477, Section 2).

    The numbers are the constant and the power.
    """
    apart = jnp.abs(rewards[..., :, None] - rewards[..., None, :])
    weight = probabilities[..., :, None] * probabilities[..., None, :]
    return constant * (weight * jnp.where(apart > 0, apart, 1.0) ** power * (apart > 0)).sum((-2, -1))


# Statements -------------------------------------------------------------------

_SHAPE = (2, 16)


def _policies(source: Source) -> Instance:
    rewards = source.log_uniform(1e-6, 1.0) * random_rewards(source, _SHAPE)
    instance = Instance(rewards, start=Parameters(random_logits(source, _SHAPE)))
    return without(instance, random_mask(source, _SHAPE))


def _variance_judge(by_pairs: Callable[[Array, Array], Array]) -> Judge:
    def judge(instance: Instance) -> Sides:
        policy = instance.probabilities(instance.initial_parameters)
        variance = reward_variance(policy, instance.rewards)
        return Sides(jnp.abs(by_pairs(policy, instance.rewards) - variance), _ROUNDING * variance).tightest()

    return judge


VARIANCE = Statement(
    name="variance_by_pairs",
    title="The reward variance is half the mean squared difference of two independent outputs",
    assumptions="any policy, any reward",
    citation="arXiv:2503.15477, Definition 2",
    formula="E (r − V)² = ½ E_{y,y'} (r(y) − r(y'))²",
    draw=_policies,
    judge=Formula(variance_by_pairs, _variance_judge),
    sabotages=MappingProxyType(
        {
            "pairs of different outputs": _variance_judge(
                lambda p, r: variance_by_pairs(p, r) / (1.0 - p**2).sum(-1)
            )
        }
    ),
)

_MOST = 6  # outputs, of which all rankings are gone through


class Ranked(NamedTuple):
    """A problem, of which the ground truth counts; the output that is to be first, or -1; whether alone."""

    instance: Instance
    first: Int[Array, ""]
    strictly: Bool[Array, ""]


def _ranked(source: Source) -> Ranked:
    """With ties in most draws."""
    steps = source.integer(1, 4)
    truth = jnp.round(steps * source.uniform(-1.0, 1.0, (1, _MOST))) / steps
    exists = random_mask(source, (1, _MOST))
    instance = without(Instance(truth, start=Parameters(jnp.zeros((1, _MOST)))), exists)
    return Ranked(instance, source.integer(-1, exists.sum() - 1), source.bernoulli())


class Attained(NamedTuple):
    """Which numbers of right pairs rankings have: by the programme, by enumeration, and of those without ties
    alone."""

    programme: Bool[Array, " numbers"]
    enumerated: Bool[Array, " numbers"]
    without_ties: Bool[Array, " numbers"]
    wherever_first: Bool[Array, " numbers"]


def _observe(drawn: Ranked) -> Attained:
    levels = np.asarray(drawn.instance.ground_truth_rewards)[:, 0]
    counts = np.asarray(drawn.instance.mask).sum(-1)[:, 0]
    found = [
        _attained(
            tuple(np.unique(truth[:count], return_inverse=True)[1].tolist()), int(first), bool(strictly)
        )
        for truth, count, first, strictly in zip(levels, counts, drawn.first, drawn.strictly, strict=True)
    ]
    return Attained(*(jnp.asarray(np.stack(part)) for part in zip(*found, strict=True)))


@lru_cache(maxsize=20_000)
def _attained(truth: tuple[int, ...], first: int, strictly: bool) -> tuple[np.ndarray, ...]:
    pairs = len(truth) * (len(truth) - 1) // 2
    numbers = _MOST * (_MOST - 1) // 2 + 1
    place = None if first < 0 else first
    rewards = np.array(truth, float)
    uniform = np.ones((len(truth), len(truth)))

    def of(accuracies: np.ndarray) -> np.ndarray:
        return np.isin(np.arange(numbers), np.round(accuracies * pairs))

    return (
        of(attainable_accuracies(rewards, ranked_first=place, strictly=strictly)),
        of(attainable_accuracies(rewards, uniform, ranked_first=place, strictly=strictly)),
        np.arange(numbers)
        <= pairs - sum(truth.count(level) * (truth.count(level) - 1) // 2 for level in set(truth)),
        of(attainable_accuracies(rewards)),
    )


def _attained_judge(claimed: Callable[[Attained], Array]) -> Judge:
    """The number of differences, which is to be none."""

    def judge(attained: Attained) -> Sides:
        return Sides((claimed(attained) != attained.enumerated).sum() + 0.1, jnp.asarray(0.5))

    return judge


ATTAINABLE = Statement(
    name="attainable_accuracies",
    title="The attainable accuracies over uniform pairs, against all rankings",
    assumptions="finitely many outputs; ties in either reward are allowed",
    citation="arXiv:2503.15477, Definition 3; the programme of theory/rankings.py (derived here)",
    formula="{acc(ranking)} by dynamic programming over classes = by going through all weak orders, K ≤ 6",
    draw=_ranked,
    judge=_attained_judge(lambda found: found.programme),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "rankings without ties alone": _attained_judge(lambda found: found.without_ties),
            "whatever is first": _attained_judge(lambda found: found.wherever_first),
        }
    ),
)

STATEMENTS = (VARIANCE, ATTAINABLE)
