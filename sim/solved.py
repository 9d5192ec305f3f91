"""Gradient flow where it is solved (:mod:`goodteacher.sim.lines`): each output has a logit of its own.

These are tabular policies, and linear ones of features that are orthogonal, but for outputs of a prompt that
share one; nothing regularises them.

Every prompt is a problem by itself, whose clock runs with its weight. Functions take a batch: every array of
an instance and of a goal has a leading axis. Given NumPy's arrays they compile nothing.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from goodteacher.sim.clocks import Clocked, Enumerated, Natural, see
from goodteacher.sim.crossings import crossing, small_increase, trained_crossing
from goodteacher.sim.goals import Goal, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.lines import Lines, Position, initial, lines
from goodteacher.sim.loops import chosen
from goodteacher.sim.policies import LinearSoftmax, Tabular
from goodteacher.sim.quadrature import rate_of_time
from goodteacher.sim.sensitivities import Target, crossing_time, fixed, path
from goodteacher.sim.status import Status
from goodteacher.sim.validation import AnyArray, is_concrete, namespace

_BLOCK = 256  # problems side by side: what a core's nearest memory holds
_ABSENT = -1e4  # logit of an output that does not exist, under the largest
_MOST_UNEQUAL, _MOST_INERTIA = 16.0, 64.0  # up to which the quadrature is right to 1e-11


class Sharing(NamedTuple):
    """How outputs of linear policies share orthogonal features: as one output that has their mass.

    Attributes:
        same: whether two outputs of a prompt have one feature.
        first: the first output with the same feature; no output that does not exist.
        largest: squared norm of the longest feature of each prompt.
        inertia: that over those of all features; ``None`` if they are the same.
    """

    same: Bool[np.ndarray, "n prompts outputs outputs"]
    first: Int[np.ndarray, "n prompts outputs"]
    largest: Float[np.ndarray, "n prompts"]
    inertia: Float[np.ndarray, "n prompts outputs"] | None


def is_solvable(instance: Instance) -> bool:
    """Whether the flow of an instance, or of a batch, has a solution by quadrature.

    Of features that are traced it is not known.
    """
    if isinstance(instance.clock, Natural):
        return True  # in closed form, or refused
    if instance.regularizer is not None or isinstance(instance.clock, Enumerated):
        return False
    match instance.policy:
        case Tabular():
            return True
        case LinearSoftmax(features=features):
            return is_concrete(features, instance.mask) and _orthogonal(instance)
        case _:
            return False


def _orthogonal(instance: Instance) -> bool:
    """Whether features of a prompt are orthogonal or the same, of similar norms, and those of two apart."""
    sharing, features = _sharing(instance), np.asarray(_linear(instance).features)
    rows = features.reshape(*features.shape[:-3], -1, features.shape[-1])
    products = np.abs(rows @ np.swapaxes(rows, -1, -2))
    *batch, prompts, outputs, _ = features.shape
    blocks = products.reshape(*batch, prompts, outputs, prompts, outputs)
    for prompt in range(prompts):
        blocks[..., prompt, :, prompt, :][sharing.same[..., prompt, :, :]] = 0.0
    similar = sharing.inertia is None or (
        (sharing.inertia <= _MOST_UNEQUAL).all() and (sharing.inertia.sum(-1) <= _MOST_INERTIA).all()
    )
    return bool((products == 0.0).all() and (sharing.largest > 0).all() and similar)


def sharing(instances: Instance) -> Sharing | None:
    """How a batch of solvable instances shares features; ``None`` if it has none."""
    if not isinstance(instances.policy, LinearSoftmax):
        return None
    return _sharing(instances)


def _sharing(instance: Instance) -> Sharing:
    features = np.asarray(_linear(instance).features)
    exists = np.ones(features.shape[:-1], bool) if instance.mask is None else np.asarray(instance.mask)
    same = (features[..., :, None, :] == features[..., None, :, :]).all(-1)
    same &= exists[..., :, None] & exists[..., None, :]
    same |= np.eye(features.shape[-2], dtype=bool)
    squares = (features**2).sum(-1)
    largest = squares.max(-1, keepdims=True, where=exists, initial=0.0)
    with np.errstate(all="ignore"):
        inertia = np.where(exists, largest / squares, 1.0)
    return Sharing(same, same.argmax(-1), largest[..., 0], None if (inertia == 1.0).all() else inertia)


def _linear(instance: Instance) -> LinearSoftmax:
    assert isinstance(instance.policy, LinearSoftmax)
    return instance.policy


class Prompts(NamedTuple):
    """Prompts of all problems, one by one: outputs first, prompts last.

    Attributes:
        logits: as in :class:`goodteacher.sim.lines.Lines`.
        rewards: likewise.
        inertia: likewise.
        exists: whether there is such an output.
        weight: the speed of the prompt's clock.
        clocked: as in :class:`goodteacher.sim.lines.Lines`.
    """

    logits: Float[AnyArray, "outputs n"]
    rewards: Float[AnyArray, "outputs n"]
    inertia: Float[AnyArray, "outputs n"] | None
    exists: Bool[AnyArray, "outputs n"]
    weight: Float[AnyArray, " n"]
    clocked: Clocked | None


class Found(NamedTuple):
    """What became of goals; see :class:`goodteacher.sim.flow.HittingTime`."""

    time: Float[AnyArray, "n prompts"]
    status: Int[AnyArray, "n prompts"]
    log_probabilities: Float[AnyArray, "n prompts outputs"]
    end: Float[AnyArray, " n"]


def hitting_times(
    instances: Instance,
    goals: Goal,
    horizons: Float[AnyArray, " n"],
    shared: Sharing | None,
    only_trained: bool = False,
) -> Found:
    """When goals are met. Differentiable, in both modes and twice.

    Args:
        instances: the problems.
        goals: of each.
        horizons: of each.
        shared: what :func:`sharing` says.
        only_trained: whether all goals are known to be of the rewards that are trained on.
    """
    count, prompts, _ = instances.rewards.shape
    xp = namespace(*jax.tree.leaves((instances, goals, horizons)))
    goals = eqx.tree_at(lambda goal: goal.values, goals, _together(goals.values, shared))
    increase = xp.full(goals.level.shape, xp.nan) if goals.increase is None else goals.increase
    problems = (
        separate(instances, shared),
        _outputs_first(goals.values),
        goals.level.ravel(),
        increase.ravel(),
        is_possible(instances, goals).ravel(),
        xp.repeat(horizons, prompts),
    )
    hit = partial(_hit, only_trained=only_trained)
    time, status, end, masses = _by_blocks(xp, hit, problems)
    return Found(
        time.reshape(count, prompts),
        status.reshape(count, prompts),
        _log_probabilities(instances, masses, shared),
        end.reshape(count, prompts).max(-1),
    )


def policies(
    instances: Instance, horizons: Float[AnyArray, " n"], shared: Sharing | None
) -> Float[AnyArray, "n prompts outputs"]:
    """Log-probabilities at given times, one for each problem. Differentiable. Args as above."""
    xp = namespace(*jax.tree.leaves((instances, horizons)))
    problems = separate(instances, shared), xp.repeat(horizons, instances.rewards.shape[1])
    masses = _by_blocks(xp, lambda prompts, time: _path(envelopes(prompts), time * prompts.weight), problems)
    return _log_probabilities(instances, masses, shared)


def trajectories(
    instances: Instance, times: Float[AnyArray, " n"], shared: Sharing | None
) -> Float[AnyArray, "n ..."]:
    """Parameters at given times, one for each problem. Differentiable. Args as above."""
    xp = namespace(*jax.tree.leaves((instances, times)))

    def follow(prompts: Prompts, time: AnyArray) -> AnyArray:
        flow = envelopes(prompts)
        return _path(flow, time * prompts.weight) + flow.normalizer

    problems = separate(instances, shared), xp.repeat(times, instances.rewards.shape[1])
    masses = _prompts_first(_by_blocks(xp, follow, problems), len(times))
    logits = _each(masses, shared) + _offset(instances)[..., None]
    start = _logits(instances)
    if instances.mask is not None:
        logits = xp.where(instances.mask, logits, start)
    if shared is None:
        return logits
    length = shared.largest[..., None] * shared.same.sum(-1)
    policy = _linear(instances)
    moved = policy.temperature[:, None, None] * (logits - start) / length
    moved = moved if shared.inertia is None else moved * shared.inertia
    return instances.initial_parameters + xp.einsum("nxy,nxyd->nd", moved, policy.features)


def _path(flow: Lines, time: AnyArray) -> AnyArray:
    """``ln E`` at given times; ``nan`` where the clock is none with these rewards."""
    masses = path(flow, time)
    if flow.clocked is None:
        return masses
    xp = namespace(*jax.tree.leaves((flow, time)))
    return xp.where(xp.isnan(rate_of_time(flow, initial(flow))), xp.nan, masses)


def envelopes(prompts: Prompts) -> Lines:
    """Their flows as lines."""
    return lines(prompts.logits, prompts.rewards, prompts.inertia)._replace(clocked=prompts.clocked)


# Prompts one by one ----------------------------------------------------------------------


def _outputs_first(of: AnyArray) -> AnyArray:
    return of.reshape(-1, of.shape[-1]).T


def _prompts_first(of: AnyArray, count: int) -> AnyArray:
    return of.T.reshape(count, -1, len(of))


def _logits(instances: Instance) -> AnyArray:
    """Where the flows start, finite for outputs that do not exist."""
    policy, parameters = instances.policy, instances.initial_parameters
    if not isinstance(policy, LinearSoftmax):
        return parameters
    xp = namespace(policy.features, parameters)
    return xp.einsum("nxyd,nd->nxy", policy.features, parameters) / policy.temperature[:, None, None]


def _offset(instances: Instance) -> AnyArray:
    """A constant for each prompt to take off its logits that leaves their differences as they are."""
    logits = _logits(instances)
    xp = namespace(logits, instances.mask)
    if instances.mask is not None:
        logits = xp.where(instances.mask, logits, -xp.inf)
    return fixed(xp.round(logits.max(-1)))


def _together(values: AnyArray, shared: Sharing | None) -> AnyArray:
    """The mean of outputs that share a feature."""
    if shared is None:
        return values
    xp = namespace(values)
    return xp.einsum("nxyz,nxz->nxy", shared.same * 1.0, values) / shared.same.sum(-1)


def _each(masses: AnyArray, shared: Sharing | None) -> AnyArray:
    """The logarithm of the mass of each of the outputs that share a feature, from that of all of them."""
    if shared is None:
        return masses
    xp = namespace(masses)
    return xp.take_along_axis(masses, shared.first, -1) - xp.log(shared.same.sum(-1) * 1.0)


def separate(instances: Instance, shared: Sharing | None) -> Prompts:
    """All prompts of all problems of a batch."""
    xp = namespace(*jax.tree.leaves(instances))
    logits = _logits(instances) - _offset(instances)[..., None]
    exists = xp.ones(logits.shape, bool) if instances.mask is None else instances.mask
    rewards, weight, inertia = _together(instances.rewards, shared), instances.prompt_weights, None
    if shared is not None:
        exists = exists & (shared.first == np.arange(logits.shape[-1]))
        logits = logits + xp.log(shared.same.sum(-1) * 1.0)
        weight = weight * shared.largest / _linear(instances).temperature[:, None] ** 2
        inertia = None if shared.inertia is None else _outputs_first(shared.inertia)
    least = rewards.min(-1, keepdims=True, where=exists, initial=xp.inf)
    return Prompts(
        _outputs_first(xp.where(exists, logits, _ABSENT)),
        _outputs_first(xp.where(exists, rewards, least)),
        inertia,
        _outputs_first(exists),
        weight.ravel(),
        _clocked(instances, shared),
    )


def _clocked(instances: Instance, shared: Sharing | None) -> Clocked | None:
    """The clocks of all prompts, and what they see: of outputs that share a feature, the mean."""
    if instances.clock is None:
        return None
    rewards, xp = instances.rewards, namespace(*jax.tree.leaves(instances))
    seen = see(rewards, instances.reward_variances, instances.mask)
    variances = seen.variances
    if shared is not None:
        mean = _together(rewards, shared)
        within = _together((rewards - mean) ** 2, shared)
        variances = within if variances is None else within + _together(variances, shared)
        upper, lower = (_together(of, shared) for of in (seen.upper, seen.lower))
        seen = seen._replace(rewards=mean, variances=variances, upper=upper, lower=lower)
    count, prompts, _ = rewards.shape

    def each(leaf: AnyArray) -> AnyArray:
        return xp.broadcast_to(leaf[:, None], (count, prompts)).ravel()

    clock = jax.tree.map(each, instances.clock)
    fields = {
        name: of.ravel() if name in ("least", "gap") else _outputs_first(of)
        for name, of in seen._asdict().items()
        if of is not None
    }
    return Clocked(clock, seen._replace(**fields))


def _by_blocks(xp: ModuleType, of: Callable[..., Any], problems: Any) -> Any:
    """A function of prompts, of so many at a time."""
    count = jax.tree.leaves(problems)[-1].shape[-1]
    if count <= _BLOCK or xp is np:
        return of(*problems)
    blocks = -(-count // _BLOCK)

    def split(leaf: AnyArray) -> AnyArray:
        pad = [(0, 0)] * (leaf.ndim - 1) + [(0, blocks * _BLOCK - count)]
        return jnp.moveaxis(jnp.pad(leaf, pad, mode="edge").reshape(*leaf.shape[:-1], blocks, _BLOCK), -2, 0)

    def join(leaf: AnyArray) -> AnyArray:
        return jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)[..., :count]

    return jax.tree.map(join, jax.lax.map(lambda block: of(*block), jax.tree.map(split, problems)))


def _log_probabilities(instances: Instance, masses: AnyArray, shared: Sharing | None) -> AnyArray:
    logits = _each(_prompts_first(masses, len(instances.rewards)), shared)
    xp = namespace(logits, instances.mask)
    if instances.mask is not None:
        logits = xp.where(instances.mask, logits, -xp.inf)
    logits = logits - fixed(logits.max(-1, keepdims=True))
    return logits - xp.log(xp.exp(logits).sum(-1, keepdims=True))


def _hit(
    prompts: Prompts,
    values: AnyArray,
    level: AnyArray,
    increase: AnyArray,
    possible: AnyArray,
    horizon: AnyArray,
    only_trained: bool,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
    xp = namespace(*jax.tree.leaves((prompts, values, level, increase, horizon)))
    flow = envelopes(prompts)
    distance = xp.where(prompts.exists, values - level, 0.0)
    p = xp.exp(flow.logits - flow.normalizer)
    # An expectation of which the difference from the level is rounding has reached it.
    missing, rounding = (p * distance).sum(0), np.finfo(float).eps * (p * xp.abs(distance)).sum(0)
    met = xp.where(xp.isnan(increase), missing >= -rounding, increase <= 0)
    signal = (prompts.rewards != prompts.rewards[0]).any(0) & (prompts.weight > 0)
    sought = ~met & possible & signal

    flow_, distance_, values_, increase_ = fixed((flow, distance, values, increase))
    slight, small = small_increase(flow_, values_, xp.where(xp.isnan(increase_), -1.0, increase_))
    small = small & sought
    trained = (~prompts.exists | (values_ == prompts.rewards)).all(0)
    point = trained_crossing(flow_, distance_, sought & ~small & trained)
    if not only_trained:
        other = crossing(flow_, distance_, sought & ~small & ~trained)
        point = chosen(trained, point, other)
    start = Position(xp.zeros(met.shape, int), xp.zeros(met.shape))
    position = chosen(small, slight, chosen(sought, point.position, start))
    found, never, lost = sought & (point.found | small), sought & point.never, sought & point.lost
    position, found, small = fixed((position, found, small))

    target = Target(distance, values, xp.where(small, increase, 0.0), small)
    weight = xp.where(prompts.weight > 0, prompts.weight, 1.0)
    spent = crossing_time(flow, target, position, found) / weight
    lost = lost | (sought & xp.isnan(spent))  # of a clock that is none with these rewards
    reached = found & (spent <= horizon)
    time = xp.where(met, 0.0, xp.where(reached, spent, xp.where(lost, xp.nan, xp.inf)))
    statuses = {
        Status.REACHED: met | reached,
        Status.OUT_OF_REACH: ~possible,
        Status.NO_SIGNAL: ~signal,
        Status.OPTIMUM: never,
        Status.NOT_CONVERGED: lost,
    }
    # Of one type: NumPy's select takes no scalars beside JAX's arrays.
    numbers = [xp.full(met.shape, int(status)) for status in statuses]
    status = xp.select(list(statuses.values()), numbers, int(Status.NOT_REACHED))
    end = fixed(xp.where(spent <= horizon, spent, horizon))
    masses = xp.where(sought & ~small, point.log_masses, flow_.logits)
    return time, status, end, masses
