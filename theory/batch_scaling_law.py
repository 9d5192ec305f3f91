"""Scaling by the deviation of the whole batch: the solved path against the joint field of all prompts.

The field of the limit of large groups, ``d theta / dt = w(x) pi A / (sigma + epsilon)`` with one ``sigma``
for all prompts, is integrated step by step, up to when :mod:`goodteacher.sim.batch_scaling` says that the
policies are those of the plain gradient flow at some time.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.batch_scaling import elapsed
from goodteacher.sim.clocks import BatchScaled, Gradient
from goodteacher.sim.flow import policies
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import advantage, expected_reward
from goodteacher.theory.draws import Source, random_logits, random_prompt_weights
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.integration import runge_kutta
from goodteacher.theory.statements import Judge, Sides, Statement

_PROMPTS, _OUTPUTS = 2, 3
_STEPS = 30
_INTEGRATION = 1e-8  # error of a log-probability after these steps


class Batch(NamedTuple):
    """Prompts with their outputs, on the clock of the batch, and a time of the gradient flow."""

    instance: Instance
    of_gradient: Float[Array, ""]


class Later(NamedTuple):
    """A batch, where its policies are at that time, and when they are there."""

    batch: Batch
    log_probabilities: Float[Array, "prompts outputs"]
    time: Float[Array, ""]


def _draw(source: Source) -> Batch:
    shape = (_PROMPTS, _OUTPUTS)
    instance = Instance(
        source.uniform(0.0, 1.0, shape),
        start=Parameters(random_logits(source, shape, high=3.0)),
        prompt_weights=random_prompt_weights(source, _PROMPTS),
        clock=BatchScaled(source.log_uniform(1e-2, 1.0)),
    )
    return Batch(instance, source.uniform(0.1, 5.0))


def _observe(batches: Batch) -> Later:
    of_gradient = batches.of_gradient[:, None]
    there = policies(batches.instance.following(Gradient()), of_gradient)[:, 0]
    return Later(batches, there, elapsed(batches.instance, of_gradient)[:, 0])


def batch_scale(
    variances: Float[Array, " prompts"],
    means: Float[Array, " prompts"],
    weights: Float[Array, " prompts"],
    epsilon: Float[Array, ""],
    *,
    within: Number = 1.0,
    between: Number = 1.0,
    root: Number = 1 / 2,
    added: Number = 1.0,
) -> Float[Array, "..."]:
    """What a batch of large groups is divided by: its standard deviation, by total variance, plus epsilon."""
    mean = (weights * means).sum()
    total = within * (weights * variances).sum() + between * (weights * (means - mean) ** 2).sum()
    return total**root + added * epsilon


def _own_scale(variances: Array, means: Array, weights: Array, epsilon: Array) -> Array:
    return jnp.sqrt(variances)[:, None] + epsilon


def _unweighted_scale(variances: Array, means: Array, weights: Array, epsilon: Array) -> Array:
    return batch_scale(variances, means, jnp.full_like(weights, 1.0 / len(weights)), epsilon)


def _integrated(law: Callable[..., Array]) -> Judge:
    """With what gradients are divided by."""

    def judge(later: Later) -> Sides:
        (instance, _), found, time = later
        rewards, weights = instance.rewards, instance.prompt_weights
        assert isinstance(instance.clock, BatchScaled)
        epsilon = instance.clock.epsilon

        def field(logits: Array) -> Array:
            p = jax.nn.softmax(logits)
            above = advantage(p, rewards)
            scale = law((p * above**2).sum(-1), expected_reward(p, rewards), weights, epsilon)
            return weights[:, None] * p * above / scale

        logits = runge_kutta(field, instance.initial_parameters, time, _STEPS)
        return Sides(jnp.abs(jax.nn.log_softmax(logits) - found).max(), jnp.asarray(_INTEGRATION))

    return judge


_JUDGE = Formula(batch_scale, _integrated)

STATEMENTS = (
    Statement(
        name="batch_scaling",
        title="Scaling by the deviation of the batch leaves the path, on one clock of all prompts",
        assumptions="tabular policy, λ = 0; two prompts of any weights; large groups",
        citation="theory/batch_scaling_law.py (derived for this project); the scaling: TRL",
        formula="π(t) = π_gradient(s), t = ∫₀^s (σ + ε) ds, σ² = Σ_x w_x [Var_x + (V_x − Σ w V)²]",
        draw=_draw,
        judge=_JUDGE,
        observe=_observe,
        sabotages=MappingProxyType(
            {
                **_JUDGE.off_by_a_tenth(),
                "each prompt on a clock of its own": _integrated(_own_scale),
                "prompts of equal weight": _integrated(_unweighted_scale),
            }
        ),
    ),
)
