"""Partial credit for one of two constraints: when it delays satisfying both (arXiv:2604.25872, Section 5).

Four outputs satisfy both constraints, only the first, only the second, or neither. The binary reward is one
for both and zero else; the partial one gives half a point for each. One prompt, tabular, no regularisation;
``p_1`` and ``p_2`` are the initial probabilities of the constraints, and ``psi`` is their odds ratio,
``pi(both) pi(neither) / (pi(only 1) pi(only 2))``, which is one if they are independent.

Under the binary reward nothing stalls: the time is of order ``1/pi_0(both)``. Under partial credit the flow
goes first to the likelier of the outputs that satisfy one constraint, and stalls there. Both times are
those of :func:`goodteacher.theory.stalling_extensions.log_escape_time`. Derived here, for small ``e =
pi_0(both)``:

- One constraint likelier, by more than a small multiple of ``e``: the stall has one low output, ``t = |p_1
  - p_2| pi_0(neither) / (3 e^2)``, and partial credit is slower by a factor of order ``|p_1 - p_2| / e``.
- Equally likely, ``p_1 = p_2 = p``: the two tied outputs share the policy for ever, which makes the stall
  shorter, ``t = (pi/2) pi_0(only 1) pi_0(neither)^(1/2) / e^(3/2)``. As ``p -> 0``, ``e -> psi p^2``, and the
  binary reward takes ``1/(2 e)``. The ratio becomes ``pi / sqrt(psi)``: in this limit partial credit is
  faster if and only if the odds ratio exceeds ``pi^2``. For independent constraints it is ``pi`` times
  slower, however rare both is.

The limit is approached slowly, like ``sqrt(e)``: constraints that are not rare need less. Where exactly both
rewards are as fast is found by the solved flow, :func:`critical_odds_ratio`: for ``pi(both) = 1/2``, at odds
ratios of 9.81, 9.30, 6.80 and 5.13 for ``p = 1e-4, 1e-3, 1e-2`` and ``5e-2``. For common constraints the
level counts, too: at ``p = 5e-2`` it is 3.71 for ``pi(both) = 1/10``, and none below ``2 pi^2`` will do for
9/10.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.draws import Source
from goodteacher.theory.rises import escape_times, first_output_goals
from goodteacher.theory.stalling_extensions import log_escape_time, rounding
from goodteacher.theory.statements import Judge, Sides, Statement

OUTPUTS = ("both", "only the first", "only the second", "neither")
BINARY, PARTIAL = (1.0, 0.0, 0.0, 0.0), (1.0, 0.5, 0.5, 0.0)
CRITICAL_ODDS_RATIO = np.pi**2
"""Of equally likely constraints whose probability goes to zero: where both rewards are as fast."""
_BISECTIONS = 30


def joint_probabilities(
    first: Float[ArrayLike, "*batch"],
    second: Float[ArrayLike, "*batch"],
    odds_ratio: Float[ArrayLike, "*batch"] = 1.0,
) -> Float[Array, "*batch 4"]:
    """Probabilities of :data:`OUTPUTS` from those of the two constraints and their odds ratio.

    The root of a quadratic equation (Plackett's distribution), in the form that does not cancel.

    Args:
        first, second: probabilities of the constraints, in (0, 1).
        odds_ratio: positive; one if independent, larger if satisfying one makes the other likelier.
    """
    first, second, odds_ratio = (jnp.asarray(value, float) for value in (first, second, odds_ratio))
    linear = 1.0 + (first + second) * (odds_ratio - 1.0)
    root = jnp.sqrt(linear**2 - 4.0 * odds_ratio * (odds_ratio - 1.0) * first * second)
    both = 2.0 * odds_ratio * first * second / (linear + root)
    return jnp.stack([both, first - both, second - both, 1.0 - first - second + both], -1)


def log_ratio(log_probabilities: Float[Array, "*batch 4"]) -> Float[Array, "*batch"]:
    """Natural logarithm of the time under partial credit over that under the binary reward, by the laws.

    Up to terms of relative order ``e ln(1/e)``.

    Args:
        log_probabilities: of :data:`OUTPUTS`, initially.
    """
    partial, binary = _log_times(log_probabilities)
    return partial - binary


def _log_times(log_p: Array) -> tuple[Array, Array]:
    rewards = jnp.asarray((PARTIAL, BINARY)).reshape(2, *[1] * (log_p.ndim - 1), len(OUTPUTS))
    partial, binary = log_escape_time(*jnp.broadcast_arrays(log_p, rewards))
    return partial, binary


def critical_odds_ratio(probabilities: Float[ArrayLike, " n"], level: float = 0.5) -> Float[np.ndarray, " n"]:
    """Odds ratios of two equally likely constraints at which both rewards are as fast, by the exact flow.

    Partial credit is faster above. :data:`CRITICAL_ODDS_RATIO` is the limit of rare constraints; where up to
    twice that there is none, the result is twice that.

    Args:
        probabilities: of either constraint, below one half.
        level: of the probability of both that is waited for.
    """
    probabilities = jnp.asarray(probabilities, float)
    low = jnp.zeros_like(probabilities)
    high = low + jnp.log(2.0 * CRITICAL_ODDS_RATIO)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        slower = _log_exact_ratio(probabilities, jnp.exp(middle), level) > 0
        low, high = jnp.where(slower, middle, low), jnp.where(slower, high, middle)
    return np.exp(np.asarray(high))


def _log_exact_ratio(probabilities: Array, odds_ratio: Array, level: float) -> Array:
    log_p = jnp.log(joint_probabilities(probabilities, probabilities, odds_ratio))
    levels = jnp.full(len(probabilities), level)
    times = []
    for rewards in (PARTIAL, BINARY):
        instances = jax.vmap(lambda p, r=rewards: Instance(r, start=Parameters(p[None])))(log_p)
        times.append(escape_times(instances, first_output_goals(instances, levels)))
    return jnp.log(times[0]) - jnp.log(times[1])


# Statements -------------------------------------------------------------------


class Constraints(NamedTuple):
    """A problem under partial credit, the same under the binary reward, and the level to be reached."""

    instance: Instance
    binary: Instance
    level: Float[Array, ""]


def _constraints(source: Source) -> Constraints:
    """Constraints that are rare, in half of the draws nearly equally."""
    odds_ratio = source.log_uniform(0.1, 100.0)
    # Up to the square root of the odds ratio smaller: then both is rare.
    first = source.log_uniform(1e-4, 1e-2) / jnp.sqrt(jnp.maximum(odds_ratio, 1.0))
    apart = jnp.where(source.bernoulli(), source.log_uniform(1e-8, 1e-1), source.uniform(0.1, 0.95))
    start = jnp.log(joint_probabilities(first, first * (1.0 - apart), odds_ratio))[None]
    partial, binary = (Instance(rewards, start=Parameters(start)) for rewards in (PARTIAL, BINARY))
    return Constraints(partial, binary, source.uniform(0.1, 0.9))


class Times(NamedTuple):
    """Of a problem the logarithms of the times under both rewards, partial and binary: simulated, by law."""

    log_start: Float[Array, " outputs"]
    simulated: tuple[Float[Array, ""], Float[Array, ""]]
    predicted: tuple[Float[Array, ""], Float[Array, ""]]


def _observe(drawn: Constraints) -> Times:
    def time(instances: Instance) -> Array:
        return escape_times(instances, first_output_goals(instances, drawn.level))

    log_start = drawn.instance.reference_log_probabilities[:, 0]
    return _logarithms(log_start, (time(drawn.instance), time(drawn.binary)))


@jax.jit
def _logarithms(log_start: Array, times: tuple[Array, Array]) -> Times:
    partial, binary = times
    return Times(log_start, (jnp.log(partial), jnp.log(binary)), _log_times(log_start))


def _judge(law: Callable[[Times], Array]) -> Judge:
    """With a law for the logarithm of the ratio."""

    def judge(times: Times) -> Sides:
        partial, binary = times.simulated
        deviation = jnp.abs(jnp.expm1(law(times) - (partial - binary)))
        # The second term alone is exceeded, once in 200,000 draws, where the odds ratio is large and so
        # both a sixteenth as likely as either.
        return Sides(deviation, rounding(times.log_start[0], floor=1e-3))

    return judge


def _law(times: Times) -> Array:
    partial, binary = times.predicted
    return partial - binary


def _without_crossover(times: Times) -> Array:
    """The first of the two limits, for all."""
    both, one, other, neither = times.log_start
    return jnp.log(jnp.abs(jnp.expm1(other - one)) / 3.0) + one + neither - 2.0 * both - times.predicted[1]


def _without_apart(times: Times) -> Array:
    """The second of the two limits, for all."""
    both, one, other, neither = times.log_start
    return jnp.log(jnp.pi) + 0.5 * (one + other - both - neither)


PARTIAL_CREDIT = Statement(
    name="partial_credit",
    title="How much slower or faster partial credit is, for two rare constraints of any odds ratio",
    assumptions="one prompt, tabular policy, λ = 0; four outputs by two constraints; both together are rare",
    citation="derived here, theory/partial_credit_law.py; after arXiv:2604.25872, Section 5",
    formula="t(partial)/t(binary) by the stalling law: |p₁−p₂| π₀(neither)/(3 e² t(binary)) far from "
    "p₁ = p₂, π/√ψ at p₁ = p₂ → 0; to 1e-3 + 20 e ln(1/e), e = π₀(both), for p ≤ 1e-2 / √max(ψ, 1)",
    draw=_constraints,
    judge=_judge(_law),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "as if one constraint were much likelier": _judge(_without_crossover),
            "as if both were equally likely": _judge(_without_apart),
            "0.3 % more": _judge(lambda times: _law(times) + 3e-3),
        }
    ),
)

STATEMENTS = (PARTIAL_CREDIT,)
