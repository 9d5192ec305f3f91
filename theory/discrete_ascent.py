"""Gradient ascent with a small learning rate follows gradient flow: how closely, with the constant.

Tabular policy, no regularisation. The field ``w grad V`` of a prompt of weight ``w`` with rewards in a range
of width ``D`` has the Lipschitz constant ``w D / 4`` (:mod:`goodteacher.theory.benign`, step 3) and a norm of
at most ``w D / (2 sqrt 2)``: its components add up to zero, so that the Euclidean norm is at most the 1-norm
over the root of 2, and that is at most the standard deviation, at most ``D/2``. So along the flow ``|theta''|
<= (w D)^2 / (8 sqrt 2)``, and the error of Euler's method after the time ``t = n eta`` is, by the usual sum
of local errors ``eta^2 |theta''| / 2`` that grow by ``1 + eta w D / 4`` in each step, at most

    ``|theta_n - theta(n eta)| <= eta w D / (4 sqrt 2) (exp(w D t / 4) - 1)``.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.ascent import ascend
from goodteacher.sim.flow import Control, trajectories
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.draws import (
    Source,
    random_logits,
    random_mask,
    random_prompt_weights,
    random_rewards,
    without,
)
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.statements import Judge, Sides, Statement


def ascent_error_bound(
    learning_rate: ArrayLike,
    time: ArrayLike,
    pace: ArrayLike,
    *,
    constant: Number = 2**-2.5,
    rate: Number = 1.0,
    growth: Number = 1 / 4,
) -> Array:
    """``eta w D / (4 sqrt 2) (exp(w D t / 4) - 1)``: how far ascent is from the flow at most, in logits.

    Args:
        learning_rate: ``eta``.
        time: ``t``, the number of updates times that.
        pace: ``w D``, the weight of the prompt times the range of its rewards.
        constant: one over ``4 sqrt 2``.
        rate: exponent of ``eta``.
        growth: 1/4.
    """
    pace = jnp.asarray(pace)
    return constant * jnp.asarray(learning_rate) ** rate * pace * jnp.expm1(growth * pace * jnp.asarray(time))


# Statement --------------------------------------------------------------------

_SHAPE = (2, 8)
_UPDATES = 32
_TOLERANCE = 1e-12


class Ascending(NamedTuple):
    """A problem and a learning rate."""

    instance: Instance
    learning_rate: Float[Array, ""]


def _ascending(source: Source) -> Ascending:
    """A quarter of the policies have two outputs, of which the better is less likely: the error is
    largest."""
    two = source.bernoulli(0.25)
    exists = random_mask(source, _SHAPE) & (~two | (jnp.arange(_SHAPE[1]) < 2))
    instance = Instance(
        random_rewards(source, _SHAPE),
        start=Parameters(jnp.where(two, 1.0, 5.0) * random_logits(source, _SHAPE, high=1.0)),
        prompt_weights=random_prompt_weights(source, _SHAPE[0]),
    )
    return Ascending(without(instance, exists), source.log_uniform(1e-2, 2.0))


class Apart(NamedTuple):
    """A problem, and how far ascent and flow have come apart, in the logits of each prompt."""

    drawn: Ascending
    distance: Float[Array, " prompts"]


def _observe(drawn: Ascending) -> Apart:
    times = _UPDATES * drawn.learning_rate[:, None]
    flow = trajectories(drawn.instance, times, Control(tolerance=_TOLERANCE))[:, 0]
    return Apart(drawn, _distance(drawn, flow))


@jax.jit
@jax.vmap
def _distance(drawn: Ascending, flow: Array) -> Array:
    # A learning rate of one, and rewards times the rate.
    faster = eqx.tree_at(lambda i: i.rewards, drawn.instance, replace_fn=lambda r: drawn.learning_rate * r)
    discrete = ascend(faster, optax.sgd(1.0), _UPDATES).parameters
    assert drawn.instance.mask is not None
    return jnp.linalg.norm(jnp.where(drawn.instance.mask, discrete - flow, 0.0), axis=-1)


def _judge(bound: Callable[[Array, Array, Array], Array]) -> Judge:
    def judge(apart: Apart) -> Sides:
        (instance, learning_rate), distance = apart
        rewards, exists = instance.rewards, instance.mask
        highest = rewards.max(-1, where=exists, initial=-jnp.inf)
        pace = instance.prompt_weights * (highest - rewards.min(-1, where=exists, initial=jnp.inf))
        # Less the error of the path.
        seen = jnp.maximum(distance - 1e-9, 0.0)
        return Sides(seen, bound(learning_rate, _UPDATES * learning_rate, pace)).tightest()

    return judge


def _squared(learning_rate: Array, time: Array, pace: Array) -> Array:
    return learning_rate * ascent_error_bound(learning_rate, time, pace)


FOLLOWS = Statement(
    name="ascent_follows_flow",
    title="Gradient ascent follows gradient flow up to an error of the order of the learning rate",
    assumptions="tabular policy, λ = 0; exact gradients, constant learning rate η",
    citation="theory/discrete_ascent.py (derived here)",
    formula="|θ_n − θ(nη)| ≤ η w D / (4√2) (exp(w D n η / 4) − 1), w the prompt's weight, D the range of r",
    draw=_ascending,
    judge=Formula(ascent_error_bound, _judge),
    observe=_observe,
    sabotages=MappingProxyType({"of the order of the rate squared": _judge(_squared)}),
    bound=True,
)

STATEMENTS = (FOLLOWS,)
