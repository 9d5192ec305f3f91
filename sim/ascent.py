"""Discrete updates with exact gradients: any optax optimiser on the gradient or the natural gradient."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import measure
from goodteacher.sim.names import unknown
from goodteacher.sim.objective import expected_reward, gradient, natural_gradient, objective

Direction = Callable[[Instance, Float[Array, "..."]], Float[Array, "..."]]


_SMALLEST_NORM = 1e-150  # the square of a smaller gradient underflows


class Optimizer(NamedTuple):
    """A way to ascend: which direction, and what optax makes of it."""

    direction: Direction
    transformation: Callable[[float], optax.GradientTransformation]


def _backtracking(learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.sgd(1.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=30, max_learning_rate=learning_rate),
    )


OPTIMIZERS: Mapping[str, Optimizer] = MappingProxyType(
    {
        "sgd": Optimizer(gradient, optax.sgd),
        "momentum": Optimizer(gradient, partial(optax.sgd, momentum=0.9)),
        "adam": Optimizer(gradient, optax.adam),
        "normalized": Optimizer(
            gradient,
            lambda rate: optax.chain(optax.normalize_by_update_norm(eps=_SMALLEST_NORM), optax.sgd(rate)),
        ),
        "backtracking": Optimizer(gradient, _backtracking),
        "npg": Optimizer(natural_gradient, optax.sgd),
    }
)


def optimizer(name: str, learning_rate: float) -> tuple[Direction, optax.GradientTransformation]:
    """A ready-made optimiser by name: its direction and its optax transformation.

    ``learning_rate`` is the largest one for ``backtracking``.

    Raises:
        ValueError: for a name that is not in :data:`OPTIMIZERS`, or a learning rate that is not positive.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate is {learning_rate}; it must be positive and finite")
    choice = OPTIMIZERS[name]
    return choice.direction, choice.transformation(learning_rate)


class Ascent(eqx.Module):
    """The result of :func:`ascend`.

    Attributes:
        updates: ``[records]``: after how many updates each record was taken.
        records: arrays by metric, with leading axis records.
        parameters: after the last update.
        first_update: ``[prompts]``: the first update count at which each goal is met, ``inf`` if none;
            ``None`` without a goal.
    """

    updates: Int[Array, " records"]
    records: dict[str, Array]
    parameters: Float[Array, "..."]
    first_update: Float[Array, " prompts"] | None


def ascend(
    instance: Instance,
    transformation: optax.GradientTransformation,
    updates: int | Sequence[int] | np.ndarray,
    *,
    metrics: tuple[str, ...] = (),
    direction: Direction = gradient,
    goal: Goal | None = None,
) -> Ascent:
    """Ascends the objective with exact gradients, on the device from the first update to the last.

    Args:
        instance: the problem; may be a batch under ``jax.vmap``.
        transformation: any optax optimiser; it is given the objective's value and function as extra
            arguments, as line searches need.
        updates: ascending update counts at which to record; the last is where it ends. A single number
            records there only.
        metrics: names from :data:`goodteacher.sim.metrics.METRICS`.
        direction: :func:`goodteacher.sim.objective.gradient` or
            :func:`goodteacher.sim.objective.natural_gradient`.
        goal: if given, the first update count that meets it is found, looking after every update.

    Raises:
        ValueError: for update counts that are empty, negative or not ascending, or an unknown metric.
    """
    counts = update_counts(updates)
    records, parameters, first_update = _ascend(instance, counts, transformation, metrics, direction, goal)
    return Ascent(counts, records, parameters, first_update)


def update_counts(updates: int | Sequence[int] | np.ndarray) -> Int[Array, " records"]:
    """Update counts at which to record, as an array.

    Raises:
        ValueError: if they are empty, not whole, negative or not ascending.
    """
    counts = np.atleast_1d(np.asarray(updates))
    if counts.size == 0 or counts.dtype.kind not in "iu":
        raise ValueError(f"updates is {updates}; give whole numbers")
    if counts[0] < 0 or (np.diff(counts) < 0).any():
        raise ValueError("updates must be ascending and not negative")
    return jnp.asarray(counts)


@partial(jax.jit, static_argnames=("transformation", "metrics", "direction"))
def _ascend(
    instance: Instance,
    counts: Array,
    transformation: optax.GradientTransformation,
    metrics: tuple[str, ...],
    direction: Direction,
    goal: Goal | None,
) -> tuple[dict[str, Array], Array, Array | None]:
    optimizer = optax.with_extra_args_support(transformation)

    def loss(parameters: Array) -> Array:
        return -objective(instance, parameters)

    def look(count: ArrayLike, parameters: Array, first: Array | None) -> Array | None:
        if goal is None or first is None:
            return None
        value = expected_reward(instance.probabilities(parameters), goal.values)
        return jnp.where(jnp.isinf(first) & (value >= goal.level), count, first)

    def update(count: Array, carry: Any) -> Any:
        parameters, state, first = carry
        descent = -direction(instance, parameters)
        step, state = optimizer.update(
            descent, state, parameters, value=loss(parameters), grad=descent, value_fn=loss
        )
        parameters = jnp.asarray(optax.apply_updates(parameters, step))
        return parameters, state, look(count + 1.0, parameters, first)

    def segment(carry: Any, bounds: tuple[Array, Array]) -> Any:
        carry = jax.lax.fori_loop(*bounds, update, carry)
        return carry, measure(instance, carry[0], metrics)

    start = instance.initial_parameters
    unmet = None if goal is None else jnp.full(goal.level.shape, jnp.inf)
    carry = (start, optimizer.init(start), look(jnp.zeros(()), start, unmet))
    before = jnp.concatenate([jnp.zeros(1, counts.dtype), counts[:-1]])
    (parameters, _, first), records = jax.lax.scan(segment, carry, (before, counts))
    return records, parameters, first
