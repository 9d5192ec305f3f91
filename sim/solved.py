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
from goodteacher.sim.loops import chosen, fixed
from goodteacher.sim.policies import LinearSoftmax, Tabular
from goodteacher.sim.quadrature import rate_of_time, time
from goodteacher.sim.sensitivities import Target, crossing_time, path
from goodteacher.sim.shortcut import shortcut
from goodteacher.sim.status import Status
from goodteacher.sim.validation import AnyArray, is_concrete, namespace

_BLOCK = 256  # problems side by side: what a core's nearest memory holds
_SHORTCUTS = (24, 96)  # nodes of the rules that are tried first where problems are many
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
    problems = _Problems(
        separate(instances, shared),
        _outputs_first(goals.values),
        goals.level.ravel(),
        increase.ravel(),
        is_possible(instances, goals).ravel(),
        xp.repeat(horizons, prompts),
    )
    spots = _found(xp, fixed(problems), only_trained)
    time, status, end, masses = _by_blocks(xp, _told, problems, spots)
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
    times = xp.repeat(horizons, instances.rewards.shape[1])

    def follow(prompts: Prompts, time: AnyArray) -> AnyArray:
        return _path(envelopes(prompts), time * prompts.weight)

    masses = _by_blocks(xp, follow, separate(instances, shared), times)
    return _log_probabilities(instances, masses, shared)


def trajectories(
    instances: Instance, times: Float[AnyArray, " n"], shared: Sharing | None
) -> Float[AnyArray, "n ..."]:
    """Parameters at given times, one for each problem. Differentiable. Args as above."""
    xp = namespace(*jax.tree.leaves((instances, times)))

    def follow(prompts: Prompts, time: AnyArray) -> AnyArray:
        flow = envelopes(prompts)
        return _path(flow, time * prompts.weight) + flow.normalizer

    each = xp.repeat(times, instances.rewards.shape[1])
    masses = _prompts_first(_by_blocks(xp, follow, separate(instances, shared), each), len(times))
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


def _by_blocks(xp: ModuleType, of: Callable[..., Any], *problems: Any) -> Any:
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


class _Problems(NamedTuple):
    """Prompts and their goals."""

    prompts: Prompts
    values: AnyArray
    level: AnyArray
    increase: AnyArray  # nan where the level says it all
    possible: AnyArray
    horizon: AnyArray

    @property
    def distance(self) -> AnyArray:
        """Of the values from the level; 0 for outputs that do not exist."""
        xp = namespace(*jax.tree.leaves(self))
        return xp.where(self.prompts.exists, self.values - self.level, 0.0)

    def met(self, flow: Lines) -> AnyArray:
        """Whether goals are met at the start."""
        xp, distance = namespace(*jax.tree.leaves(self)), self.distance
        p = xp.exp(flow.logits - flow.normalizer)
        # An expectation of which the difference from the level is rounding has reached it.
        missing, rounding = (p * distance).sum(0), np.finfo(float).eps * (p * xp.abs(distance)).sum(0)
        return xp.where(xp.isnan(self.increase), missing >= -rounding, self.increase <= 0)

    @property
    def signal(self) -> AnyArray:
        """Whether anything moves."""
        return (self.prompts.rewards != self.prompts.rewards[0]).any(0) & (self.prompts.weight > 0)

    def sought(self, flow: Lines) -> AnyArray:
        """Whether a goal has to be sought."""
        return self.possible & self.signal & ~self.met(flow)

    @property
    def trained(self) -> AnyArray:
        """Whether what is to rise is what is trained on."""
        xp = namespace(*jax.tree.leaves(self))
        return xp.all(~self.prompts.exists | (self.values == self.prompts.rewards), 0)


class _Spot(NamedTuple):
    """Where a goal is met, in numbers without derivatives."""

    position: Position
    log_masses: AnyArray
    spent: AnyArray  # of the time of a prompt of weight one
    small: AnyArray  # whether the goal is a small increase
    found: AnyArray
    never: AnyArray
    lost: AnyArray


def _found(xp: ModuleType, problems: _Problems, only_trained: bool) -> _Spot:
    """Where goals are met: of many, most by a shortcut."""
    thorough = partial(_searched, only_trained=only_trained)
    count, prompts = problems.level.size, problems.prompts
    if count <= _BLOCK or xp is np or prompts.clocked is not None or prompts.inertia is not None:
        return _by_blocks(xp, thorough, problems)[0]
    first, *others = (*(partial(_easily, nodes=nodes) for nodes in _SHORTCUTS), thorough)
    spots, certain = _by_blocks(xp, first, problems)
    for method in others:
        spots, certain = _improved(method, problems, spots, certain)
    return spots


def _improved(
    method: Callable[[_Problems], tuple[_Spot, AnyArray]],
    problems: _Problems,
    spots: _Spot,
    certain: AnyArray,
) -> tuple[_Spot, AnyArray]:
    """Tries another method where the spots are not certain, for so many problems at a time."""
    count, left = certain.size, (~certain).sum()
    order = jnp.pad(jnp.argsort(certain, stable=True), (0, -count % _BLOCK))

    def go(carry: tuple[AnyArray, _Spot, AnyArray]) -> tuple[AnyArray, _Spot, AnyArray]:
        done, *known = carry
        chosen = jax.lax.dynamic_slice(order, (done,), (_BLOCK,))
        new = method(jax.tree.map(lambda leaf: leaf[..., chosen], problems))
        where = jnp.where(done + jnp.arange(_BLOCK) < left, chosen, count)
        spots, certain = jax.tree.map(
            lambda old, of: old.at[..., where].set(of, mode="drop"), tuple(known), new
        )
        return done + _BLOCK, spots, certain

    return jax.lax.while_loop(lambda carry: carry[0] < left, go, (jnp.zeros((), int), spots, certain))[1:]


def _easily(problems: _Problems, nodes: int) -> tuple[_Spot, AnyArray]:
    """Where goals are met, and whether that is certain."""
    xp = namespace(*jax.tree.leaves(problems))
    flow = envelopes(problems.prompts)
    met = shortcut(flow, problems.distance, nodes)
    sought, no = problems.sought(flow), xp.zeros(problems.level.shape, bool)
    certain = ~sought | (met.certain & problems.trained & ~_small(flow, problems)[1])
    # What is not sought ends where it starts.
    start = Position(xp.zeros(sought.shape, int), xp.zeros(sought.shape))
    position, spent = chosen(sought, (met.position, met.time), (start, start.offset))
    return _Spot(position, met.log_masses, spent, no, sought & certain, no, no), certain


def _small(flow: Lines, problems: _Problems) -> tuple[Position, AnyArray]:
    xp = namespace(*jax.tree.leaves(problems))
    return small_increase(
        flow, problems.values, xp.where(xp.isnan(problems.increase), -1.0, problems.increase)
    )


def _searched(problems: _Problems, only_trained: bool) -> tuple[_Spot, AnyArray]:
    """Where goals are met, of which all is certain."""
    xp = namespace(*jax.tree.leaves(problems))
    flow, distance, trained = envelopes(problems.prompts), problems.distance, problems.trained
    sought = problems.sought(flow)
    slight, small = _small(flow, problems)
    small = small & sought
    point = trained_crossing(flow, distance, sought & ~small & trained)
    if not only_trained:
        other = crossing(flow, distance, sought & ~small & ~trained)
        point = chosen(trained, point, other)
    start = Position(xp.zeros(sought.shape, int), xp.zeros(sought.shape))
    position = chosen(small, slight, chosen(sought, point.position, start))
    found = sought & (point.found | small)
    spent = time(flow, position)
    spot = _Spot(position, point.log_masses, spent, small, found, sought & point.never, sought & point.lost)
    return spot, xp.ones(sought.shape, bool)


def _told(problems: _Problems, spot: _Spot) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
    """When goals are met, with what status, and where all ends: when, and with which ``ln E``."""
    prompts = problems.prompts
    xp = namespace(*jax.tree.leaves(problems))
    flow = envelopes(prompts)
    met, sought, small = problems.met(flow), problems.sought(flow), spot.small
    target = Target(problems.distance, problems.values, xp.where(small, problems.increase, 0.0), small)
    weight = xp.where(prompts.weight > 0, prompts.weight, 1.0)
    spent = crossing_time(flow, target, spot.position, spot.found, spot.spent) / weight
    lost = spot.lost | (sought & xp.isnan(spent))  # of a clock that is none with these rewards
    reached = spot.found & (spent <= problems.horizon)
    time = xp.where(met, 0.0, xp.where(reached, spent, xp.where(lost, xp.nan, xp.inf)))
    statuses = {
        Status.REACHED: met | reached,
        Status.OUT_OF_REACH: ~problems.possible,
        Status.NO_SIGNAL: ~problems.signal,
        Status.OPTIMUM: spot.never,
        Status.NOT_CONVERGED: lost,
    }
    # Of one type: NumPy's select takes no scalars beside JAX's arrays.
    numbers = [xp.full(met.shape, int(status)) for status in statuses]
    status = xp.select(list(statuses.values()), numbers, int(Status.NOT_REACHED))
    end = fixed(xp.where(spent <= problems.horizon, spent, problems.horizon))
    masses = xp.where(sought & ~small, spot.log_masses, fixed(flow.logits))
    return time, status, end, masses
