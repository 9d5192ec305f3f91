"""Several rewards that are normalised one by one put two outputs to the vote.

Of two outputs with the probability ``p`` of the first, ``sd(r_k) = |d_k| sqrt(p (1-p))``: the sum of the
normalised advantages is ``M = sum_k w_k sign(d_k)`` times what GRPO makes of one reward that is 1 for the
first output. So the time is that of :func:`goodteacher.theory.clock_laws.grpo_time` over ``M``: ``p`` falls
where the rewards that prefer the second output have more weight, whatever the sum of the rewards says.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.several_rewards import normalised_then_summed
from goodteacher.theory.clock_laws import grpo_time
from goodteacher.theory.draws import Source
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.integration import runge_kutta
from goodteacher.theory.statements import Judge, Sides, Statement

_KINDS = 3
_STEPS = 60
_INTEGRATION = 1e-9  # error of a time after these steps


class Voted(NamedTuple):
    """Two outputs with rewards of several kinds, and a time."""

    log_odds: Float[Array, ""]
    rewards: Float[Array, "kinds outputs"]
    weights: Float[Array, " kinds"]
    time: Float[Array, ""]

    @property
    def instance(self) -> Instance:
        """The problem of the weighted sum."""
        start = jnp.stack([self.log_odds, jnp.zeros(())])
        return Instance(self.weights @ self.rewards, start=Parameters(start[None]))


class Later(NamedTuple):
    """Where a vote has led to."""

    voted: Voted
    log_odds: Float[Array, ""]


def _draw(source: Source) -> Voted:
    return Voted(
        source.uniform(-6.0, 6.0),
        source.uniform(-1.0, 1.0, (_KINDS, 2)),
        source.uniform(0.1, 1.0, (_KINDS,)),
        source.uniform(0.1, 1.0),
    )


@jax.jit
@jax.vmap
def _observe(voted: Voted) -> Later:
    def velocity(log_odds: Array) -> Array:
        log_p = jax.nn.log_sigmoid(jnp.stack([log_odds, -log_odds]))
        pull = jnp.exp(log_p) * normalised_then_summed(log_p, voted.rewards, voted.weights, 0.0)
        return pull[0] - pull[1]

    return Later(voted, runge_kutta(velocity, voted.log_odds, voted.time, _STEPS))


def majority(
    weights: Float[Array, " kinds"], differences: Float[Array, " kinds"], *, power: Number = 1.0
) -> Float[Array, ""]:
    """``M``: the weight of the rewards that prefer the first of two outputs, less that of the others."""
    return weights**power @ jnp.sign(differences)


def _summed_first(weights: Array, differences: Array) -> Array:
    return jnp.sign(weights @ differences)


def _by_magnitude(weights: Array, differences: Array) -> Array:
    return weights @ differences


def _lasting(law: Callable[..., Array]) -> Judge:
    """With what GRPO's clock is divided by."""

    def judge(later: Later) -> Sides:
        voted = later.voted
        start, end = jax.nn.sigmoid(voted.log_odds), jax.nn.sigmoid(later.log_odds)
        of_grpo = grpo_time(start, end)
        vote = law(voted.weights, voted.rewards[:, 0] - voted.rewards[:, 1])
        return Sides(jnp.abs(of_grpo - vote * voted.time), _INTEGRATION * (1.0 + jnp.abs(of_grpo)))

    return judge


_JUDGE = Formula(majority, _lasting)

STATEMENTS = (
    Statement(
        name="gdpo_votes",
        title="Rewards that are normalised one by one put two outputs to the vote",
        assumptions="one prompt, tabular policy, λ = 0; two outputs; groups in the limit, ε = 0",
        citation="theory/several_rewards_law.py (derived for this project); the estimator: arXiv:2601.05242",
        formula="t = [F(p₁) − F(p₀)] / Σ_k w_k sign(r_k(1) − r_k(2)), F(q) = (2q − 1)/√(q(1−q)), of the "
        "advantage Σ_k w_k (r_k − V_k)/sd(r_k)",
        draw=_draw,
        judge=_JUDGE,
        observe=_observe,
        sabotages=MappingProxyType(
            {
                **_JUDGE.off_by_a_tenth(),
                "summed first": _lasting(_summed_first),
                "differences for their signs": _lasting(_by_magnitude),
            }
        ),
    ),
)
