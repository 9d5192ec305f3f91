"""Discrete updates with gradients estimated from samples, see :mod:`goodteacher.sim.sampling`."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from goodteacher.sim.ascent import Ascent, update_counts
from goodteacher.sim.clocks import BatchScaled, DynamicSampling, Group
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import measure
from goodteacher.sim.sampling import estimator as find_estimator
from goodteacher.sim.sampling import redrawn, sampled_gradient, weighing, weighing_batch
from goodteacher.sim.several_rewards import Gdpo

_NUMBERS_AT_ONCE = 64


def learn(
    instance: Instance,
    key: Key[Array, ""],
    estimator: str | Group | DynamicSampling | BatchScaled | Gdpo,
    group: int | None,
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
        estimator: a name of :data:`goodteacher.sim.sampling.ESTIMATORS`, or a clock of groups, of which the
            mean update is then that of its flow: ``Grpo(8, epsilon=1e-4)``, ``MaxRl(8)``,
            ``DynamicSampling(Grpo(8))``; ``BatchScaled(1e-4, group=8)``, whose flow is that of large groups;
            or, of several rewards in the place of the problem's own, ``Gdpo(rewards, weights, Grpo(8))``.
        group: samples per prompt and update; that of the clock, or ``None``.
        transformation: any optax optimiser that needs no more than a gradient.
        updates: ascending update counts at which to record; the last is where it ends. A single number
            records there only.
        metrics: names from :data:`goodteacher.sim.metrics.METRICS`: exact ones, of the policies that were
            learned.

    Returns:
        As of :func:`goodteacher.sim.ascent.ascend`, without a goal.

    Raises:
        ValueError: for update counts that are empty, negative or not ascending, an unknown metric or
            estimator, or a group that is too small for the estimator, or not that of the clock; for several
            rewards that are not of the problem.
    """
    counts = update_counts(updates)
    name, size = (estimator, group) if isinstance(estimator, str) else (None, _size(estimator, group))
    if name is not None:
        if size is None:
            raise ValueError("group is missing; give the number of samples per prompt and update")
        find_estimator(name, size)
    clock = None if isinstance(estimator, str) else estimator
    if isinstance(clock, Gdpo):
        clock.check(instance)
    records, parameters = _learn(instance, key, counts, clock, name, size, transformation, metrics)
    return Ascent(counts, records, parameters, None)


def _size(clock: Group | DynamicSampling | BatchScaled | Gdpo, group: int | None) -> int:
    own = clock.of.group if isinstance(clock, DynamicSampling | Gdpo) else clock.group
    if own == math.inf:
        raise ValueError(f"group of {clock.title} is inf; give one of the number of samples that are drawn")
    if group not in (None, own):
        raise ValueError(f"group is {group}, and that of {clock.title} is {own}; leave one out")
    return int(own)


@partial(jax.jit, static_argnames=("estimator", "group", "transformation", "metrics"))
def _learn(
    instance: Instance,
    key: Array,
    counts: Array,
    clock: Group | DynamicSampling | BatchScaled | Gdpo | None,
    estimator: str | None,
    group: int,
    transformation: optax.GradientTransformation,
    metrics: tuple[str, ...],
) -> tuple[dict[str, Array], Float[Array, "..."]]:
    again = isinstance(clock, DynamicSampling)
    if clock is None:
        assert estimator is not None
        rule = find_estimator(estimator, group)
    elif isinstance(clock, BatchScaled):
        rule = weighing_batch(clock, instance.prompt_weights)
    else:
        rule = weighing(clock if isinstance(clock, Group) else clock.of)
    # What chooses the outputs, and where it is needed what chooses their rewards.
    kinds = 2 if again or instance.reward_variances is not None else 1
    shape = (kinds, instance.rewards.shape[0], group)
    # Random numbers cost less in blocks: one call of the generator, and its lanes are full.
    length = max(1, _NUMBERS_AT_ONCE // math.prod(shape))

    def block(index: Array, carry: Any, first: Array, last: Array) -> Any:
        uniforms = jax.random.uniform(jax.random.fold_in(key, index), (length, *shape))

        def update(count: Array, carry: Any) -> Any:
            parameters, state = carry
            draws = uniforms[count - index * length]
            if again:
                more = jax.random.fold_in(jax.random.fold_in(key, index), 1 + count)
                draws = redrawn(instance, parameters, more, draws)
            noise = draws[1] if kinds == 2 else None
            if isinstance(clock, Gdpo):
                estimate = clock.sampled_gradient(instance, parameters, draws[0])
            else:
                estimate = sampled_gradient(instance, parameters, draws[0], rule, noise)
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
