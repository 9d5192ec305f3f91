"""Discrete updates with gradients estimated from samples, see :mod:`goodteacher.sim.sampling`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from goodteacher.sim.ascent import Ascent, update_counts
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import measure
from goodteacher.sim.sampling import estimator as find_estimator
from goodteacher.sim.sampling import sampled_gradient

_NUMBERS_AT_ONCE = 64


def learn(
    instance: Instance,
    key: Key[Array, ""],
    estimator: str,
    group: int,
    transformation: optax.GradientTransformation,
    updates: int | Sequence[int] | np.ndarray,
    *,
    metrics: tuple[str, ...] = (),
) -> Ascent:
    """Ascends the objective with gradients estimated from samples of the current policy.

    Every update samples ``group`` outputs at every prompt. ``jax.vmap`` over keys makes many independent
    learners. The samples of an update depend on the key, on its number and on the policy, not on
    where records are taken.

    Args:
        instance: the problem; may be a batch under ``jax.vmap``.
        key: a random key (``jax.random.key(seed)``).
        estimator: a name of :data:`goodteacher.sim.sampling.ESTIMATORS`.
        group: samples per prompt and update.
        transformation: any optax optimiser that needs no more than a gradient.
        updates: ascending update counts at which to record; the last is where it ends. A single number
            records there only.
        metrics: names from :data:`goodteacher.sim.metrics.METRICS`: exact ones, of the policies that were
            learned.

    Returns:
        As of :func:`goodteacher.sim.ascent.ascend`, without a goal.

    Raises:
        ValueError: for update counts that are empty, negative or not ascending, an unknown metric or
            estimator, or a group that is too small for the estimator.
    """
    counts = update_counts(updates)
    find_estimator(estimator, group)
    records, parameters = _learn(instance, key, counts, estimator, group, transformation, metrics)
    return Ascent(counts, records, parameters, None)


@partial(jax.jit, static_argnames=("estimator", "group", "transformation", "metrics"))
def _learn(
    instance: Instance,
    key: Array,
    counts: Array,
    estimator: str,
    group: int,
    transformation: optax.GradientTransformation,
    metrics: tuple[str, ...],
) -> tuple[dict[str, Array], Float[Array, "..."]]:
    weighing = find_estimator(estimator, group)
    shape = (instance.rewards.shape[0], group)
    # Random numbers cost less in blocks: one call of the generator, and its lanes are full.
    length = max(1, _NUMBERS_AT_ONCE // (shape[0] * shape[1]))

    def block(index: Array, carry: Any, first: Array, last: Array) -> Any:
        uniforms = jax.random.uniform(jax.random.fold_in(key, index), (length, *shape))

        def update(count: Array, carry: Any) -> Any:
            parameters, state = carry
            estimate = sampled_gradient(instance, parameters, uniforms[count - index * length], weighing)
            step, state = transformation.update(-estimate, state, parameters)
            return jnp.asarray(optax.apply_updates(parameters, step)), state

        begin, end = jnp.maximum(first, index * length), jnp.minimum(last, (index + 1) * length)
        return jax.lax.fori_loop(begin, end, update, carry)

    def segment(carry: Any, bounds: tuple[Array, Array]) -> Any:
        first, last = bounds
        blocks = first // length, (last + length - 1) // length
        carry = jax.lax.fori_loop(*blocks, lambda i, c: block(i, c, first, last), carry)
        return carry, measure(instance, carry[0], metrics)

    start = instance.initial_parameters
    before = jnp.concatenate([jnp.zeros(1, counts.dtype), counts[:-1]])
    (parameters, _), records = jax.lax.scan(segment, (start, transformation.init(start)), (before, counts))
    return records, parameters
