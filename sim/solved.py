"""Gradient flow where it is solved (:mod:`goodteacher.sim.lines`): each output has a logit of its own.

These are tabular policies, and linear ones of orthogonal features, those of a prompt of one norm, that
nothing regularises.

Every prompt is a problem by itself, whose clock runs with its weight. Functions take a batch: every array of
an instance and of a goal has a leading axis.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from goodteacher.sim import lines
from goodteacher.sim.goals import Goal, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.lines import Lines, Position, Target
from goodteacher.sim.policies import LinearSoftmax, Tabular
from goodteacher.sim.status import Status
from goodteacher.sim.validation import is_concrete

_BLOCK = 256  # problems side by side: what a core's nearest memory holds
_ABSENT = -1e4  # logit of an output that does not exist, under the largest


def is_solvable(instance: Instance) -> bool:
    """Whether the flow of an instance, or of a batch, has a solution by quadrature.

    Of features that are traced it is not known.
    """
    if instance.regularizer is not None:
        return False
    match instance.policy:
        case Tabular():
            return True
        case LinearSoftmax(features=features):
            return is_concrete(features, instance.mask) and _orthogonal(
                np.asarray(features), None if instance.mask is None else np.asarray(instance.mask)
            )
        case _:
            return False


def _orthogonal(features: np.ndarray, mask: np.ndarray | None) -> bool:
    """Whether all features are orthogonal, and those of a prompt of one norm."""
    rows = features.reshape(*features.shape[:-3], -1, features.shape[-1])
    products = rows @ np.swapaxes(rows, -1, -2)
    apart = products * (1.0 - np.eye(rows.shape[-2]))
    norms = (features**2).sum(-1)
    exists = np.ones(norms.shape, bool) if mask is None else mask
    largest = norms.max(-1, keepdims=True)
    return bool((apart == 0.0).all() and (largest > 0).all() and (norms == largest)[exists].all())


class Found(NamedTuple):
    """What became of goals; see :class:`goodteacher.sim.flow.HittingTime`."""

    time: Float[Array, "n prompts"]
    status: Int[Array, "n prompts"]
    log_probabilities: Float[Array, "n prompts outputs"]
    end: Float[Array, " n"]


class Lane(NamedTuple):
    """Prompts, one by one: outputs first, prompts last."""

    logits: Float[Array, "outputs n"]
    rewards: Float[Array, "outputs n"]
    exists: Bool[Array, "outputs n"]
    weight: Float[Array, " n"]


def hitting_times(instances: Instance, goals: Goal, horizons: Float[Array, " n"]) -> Found:
    """When goals are met. Differentiable, in both modes and twice."""
    count, prompts, _ = instances.rewards.shape
    increase = goals.increase
    if increase is None:
        increase = jnp.full(goals.level.shape, jnp.nan)
    possible = jax.vmap(is_possible)(instances, goals)
    problems = (
        lanes(instances),
        _outputs_first(goals.values),
        goals.level.ravel(),
        increase.ravel(),
        possible.ravel(),
        jnp.repeat(horizons, prompts),
    )
    time, status, end, masses = _by_blocks(_hit, problems)
    return Found(
        time.reshape(count, prompts),
        status.reshape(count, prompts),
        _log_probabilities(instances, masses),
        end.reshape(count, prompts).max(-1),
    )


def policies(instances: Instance, horizons: Float[Array, " n"]) -> Float[Array, "n prompts outputs"]:
    """Log-probabilities at given times, one for each problem. Differentiable."""
    problems = (lanes(instances), jnp.repeat(horizons, instances.rewards.shape[1]))
    masses = _by_blocks(lambda lane, time: lines.path(_flow(lane), time * lane.weight), problems)
    return _log_probabilities(instances, masses)


def trajectory(instance: Instance, times: Float[Array, " times"]) -> Float[Array, "times ..."]:
    """Parameters of one problem at given times. Differentiable."""
    count = len(times)
    each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), instance)
    prompts = len(instance.rewards)

    def follow(lane: Lane, time: Array) -> Array:
        flow = _flow(lane)
        return lines.path(flow, time * lane.weight) + flow.normalizer

    logits = _prompts_first(_by_blocks(follow, (lanes(each), jnp.repeat(times, prompts))), count)
    logits = logits + _offset(instance)[:, None]
    if instance.mask is not None:
        logits = jnp.where(instance.mask, logits, _logits(instance))
    return jax.vmap(partial(_parameters, instance))(logits)


# Lanes -------------------------------------------------------------------------------


def _outputs_first(of: Array) -> Array:
    return of.reshape(-1, of.shape[-1]).T


def _prompts_first(of: Array, count: int) -> Array:
    return of.T.reshape(count, -1, len(of))


def _logits(instance: Instance) -> Array:
    """Where the flow starts, finite for outputs that do not exist."""
    return instance.policy.logits(instance.initial_parameters)


def _offset(instance: Instance) -> Array:
    """A constant for each prompt to take off its logits that leaves their differences as they are."""
    logits = instance.logits(instance.initial_parameters)
    return jax.lax.stop_gradient(jnp.round(logits.max(-1)))


def _clock(instance: Instance) -> Array:
    """The speed of each prompt's flow over that of a tabular policy alone."""
    if not isinstance(instance.policy, LinearSoftmax):
        return instance.prompt_weights
    norm = (instance.policy.features**2).sum(-1).max(-1)
    return instance.prompt_weights * norm / instance.policy.temperature**2


def _parameters(instance: Instance, logits: Array) -> Array:
    """Parameters of logits that the flow comes to."""
    if not isinstance(instance.policy, LinearSoftmax):
        return logits
    features = instance.policy.features
    norm = (features**2).sum(-1).max(-1)[:, None]
    moved = instance.policy.temperature * (logits - _logits(instance)) / norm
    return instance.initial_parameters + jnp.einsum("xy,xyd->d", moved, features)


def lanes(instances: Instance) -> Lane:
    """All prompts of all problems of a batch."""
    logits = jax.vmap(lambda i: _logits(i) - _offset(i)[:, None])(instances)
    rewards, exists = instances.rewards, jnp.ones(logits.shape, bool)
    if instances.mask is not None:
        exists = instances.mask
        least = rewards.min(-1, keepdims=True, where=exists, initial=jnp.inf)
        logits, rewards = jnp.where(exists, logits, _ABSENT), jnp.where(exists, rewards, least)
    return Lane(
        _outputs_first(logits),
        _outputs_first(rewards),
        _outputs_first(exists),
        jax.vmap(_clock)(instances).ravel(),
    )


def _by_blocks(of: Callable[..., Any], problems: Any) -> Any:
    """A function of lanes, of so many at a time."""
    count = jax.tree.leaves(problems)[-1].shape[-1]
    if count <= _BLOCK:
        return of(*problems)
    blocks = -(-count // _BLOCK)

    def split(leaf: Array) -> Array:
        pad = [(0, 0)] * (leaf.ndim - 1) + [(0, blocks * _BLOCK - count)]
        return jnp.moveaxis(jnp.pad(leaf, pad, mode="edge").reshape(*leaf.shape[:-1], blocks, _BLOCK), -2, 0)

    def join(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)[..., :count]

    return jax.tree.map(join, jax.lax.map(lambda block: of(*block), jax.tree.map(split, problems)))


def _flow(lane: Lane) -> Lines:
    return lines.lines(lane.logits, lane.rewards)


def _log_probabilities(instances: Instance, masses: Array) -> Array:
    logits = _prompts_first(masses, len(instances.rewards))
    if instances.mask is not None:
        logits = jnp.where(instances.mask, logits, -jnp.inf)
    return jax.nn.log_softmax(logits)


def _hit(
    lane: Lane, values: Array, level: Array, increase: Array, possible: Array, horizon: Array
) -> tuple[Array, Array, Array, Array]:
    flow = _flow(lane)
    distance = jnp.where(lane.exists, values - level, 0.0)
    p = jnp.exp(flow.logits - flow.normalizer)
    # An expectation of which the difference from the level is rounding has reached it.
    missing, rounding = (p * distance).sum(0), jnp.finfo(float).eps * (p * jnp.abs(distance)).sum(0)
    met = jnp.where(jnp.isnan(increase), missing >= -rounding, increase <= 0)
    signal = (lane.rewards != lane.rewards[0]).any(0) & (lane.weight > 0)
    sought = ~met & possible & signal

    flow_, distance_, values_, increase_ = jax.tree.map(
        jax.lax.stop_gradient, (flow, distance, values, increase)
    )
    trained = (~lane.exists | (values_ == lane.rewards)).all(0)
    position, masses, found, never, lost = lines.crossing(flow_, distance_, trained & sought)
    slight, small = lines.small_increase(flow_, values_, jnp.where(jnp.isnan(increase_), -1.0, increase_))
    small &= sought
    start = Position(jnp.zeros(found.shape, int), jnp.zeros(found.shape))
    position = jax.tree.map(
        lambda at, small_at, at_start: jnp.where(small, small_at, jnp.where(sought, at, at_start)),
        position,
        slight,
        start,
    )
    found, never, lost = sought & (found | small), sought & never & ~small, sought & lost & ~small
    position, found, small = jax.tree.map(jax.lax.stop_gradient, (position, found, small))

    target = Target(distance, values, jnp.where(small, increase, 0.0), small)
    weight = jnp.where(lane.weight > 0, lane.weight, 1.0)
    spent = lines.crossing_time(flow, target, position, found) / weight
    reached = found & (spent <= horizon)
    time = jnp.where(met, 0.0, jnp.where(reached, spent, jnp.where(lost, jnp.nan, jnp.inf)))
    status = jnp.select(
        [met | reached, ~possible, ~signal, never, lost],
        [
            jnp.asarray(int(status))
            for status in (
                Status.REACHED,
                Status.OUT_OF_REACH,
                Status.NO_SIGNAL,
                Status.OPTIMUM,
                Status.NOT_CONVERGED,
            )
        ],
        int(Status.NOT_REACHED),
    )
    end = jax.lax.stop_gradient(jnp.where(spent <= horizon, spent, horizon))
    masses = jnp.where(sought & ~small, masses, flow_.logits)
    return time, status, end, masses
