"""For best-of-N sampling accuracy is all that matters (arXiv:2503.15477, Proposition 1)."""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.sampling import best_of_n
from goodteacher.theory.draws import Source, random_logits
from goodteacher.theory.rankings import levels
from goodteacher.theory.statements import Judge, Sides, Statement

_ROUNDING = 1e-12  # relative, of powers whose logarithm may be several hundred
_UNDERFLOW = 1e-290  # what is smaller may have lost digits


def expected_best_of_n(
    instance: Instance, rewards: Float[Array, "prompts outputs"], samples: Float[Array, ""]
) -> Float[Array, " prompts"]:
    """Expected ground truth reward of the best of ``N`` samples of the initial policy, by given rewards."""
    law = best_of_n(instance.probabilities(instance.initial_parameters), rewards, samples)
    return expected_reward(law, instance.ground_truth_rewards)


# Statement --------------------------------------------------------------------

_SHAPE = (2, 6)


class Contest(NamedTuple):
    """A problem, trained on a rival of the perfectly accurate model, and a number of samples."""

    instance: Instance
    samples: Float[Array, ""]


def _contest(source: Source) -> Contest:
    """Rivals from nearly accurate to unrelated; ties, in half of the draws, in ground truth and rival."""
    truth, noise = source.uniform(-1.0, 1.0, _SHAPE), source.uniform(-1.0, 1.0, _SHAPE)
    rival = truth + source.log_uniform(1e-3, 10.0) * noise
    steps = source.integer(1, 3)
    tied = source.bernoulli(0.5, (2,))
    truth = jnp.where(tied[0], jnp.round(steps * truth) / steps, truth)
    rival = jnp.where(tied[1], jnp.round(steps * rival) / steps, rival)
    instance = Instance(rival, truth, start=Parameters(random_logits(source, _SHAPE)))
    return Contest(instance, jnp.round(source.log_uniform(1.0, 1e6)))


def _shortfall(contest: Contest, rewards: Array) -> Array:
    """By how much the expected reward of the best of N falls short of the largest reward."""
    instance = contest.instance
    truth = instance.ground_truth_rewards
    law = best_of_n(instance.probabilities(instance.initial_parameters), rewards, contest.samples)
    return expected_reward(law, truth.max(-1, keepdims=True) - truth)


def _judge(champion: Callable[[Array], Array]) -> Judge:
    """With the rewards, made of the ground truth, that are claimed to be the best of all."""

    def judge(contest: Contest) -> Sides:
        best = _shortfall(contest, champion(contest.instance.ground_truth_rewards).astype(float))
        rival = _shortfall(contest, contest.instance.rewards) * (1.0 + _ROUNDING)
        return Sides(jnp.where(best < _UNDERFLOW, 0.0, best), rival).tightest()

    return judge


def _second(truth: Array) -> Array:
    """The second largest value; the largest one if there is no other."""
    best = truth.max(-1, keepdims=True)
    second = jnp.where(truth == best, -jnp.inf, truth).max(-1, keepdims=True)
    return jnp.where(jnp.isinf(second), best, second)


def _next_best_first(truth: Array) -> Array:
    return jnp.where(truth == _second(truth), truth.shape[-1], levels(truth))


BEST_OF_N = Statement(
    name="best_of_n",
    title="For best-of-N a perfectly accurate reward model is the best there is",
    assumptions="any policy on finitely many outputs, any N; ties share the mass of their group by "
    "the policy",
    citation="arXiv:2503.15477, Proposition 1",
    formula="acc(r) = 1: E r_G(best of N by r) ≥ E r_G(best of N by r'), every r', every policy, every N",
    draw=_contest,
    judge=_judge(levels),
    sabotages=MappingProxyType(
        {
            "an inaccurate model: the second best output first": _judge(_next_best_first),
            "an inaccurate model: the best output tied with the second": _judge(
                lambda truth: levels(jnp.minimum(truth, _second(truth)))
            ),
        }
    ),
    bound=True,
)

STATEMENTS = (BEST_OF_N,)
