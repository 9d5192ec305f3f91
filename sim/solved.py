"""Gradient flow where it is solved (:mod:`goodteacher.sim.lines`): each output has a logit of its own.

Every prompt is a problem by itself (:mod:`goodteacher.sim.separation`), whose clock runs with its weight.
Functions take a batch: every array of an instance and of a goal has a leading axis. Given NumPy's arrays they
compile nothing.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from goodteacher.sim.crossings import crossing, small_increase, trained_crossing
from goodteacher.sim.goals import Goal, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.lines import Lines, Position, initial
from goodteacher.sim.loops import chosen, every, fixed, replaced
from goodteacher.sim.quadrature import rate_of_time, time
from goodteacher.sim.sensitivities import Target, crossing_time, path
from goodteacher.sim.separation import (
    Prompts,
    Sharing,
    envelopes,
    log_probabilities,
    outputs_first,
    parameters,
    separate,
    together,
)
from goodteacher.sim.shortcut import shortcut
from goodteacher.sim.status import Status
from goodteacher.sim.validation import AnyArray, namespace

_BLOCK = 256  # problems side by side on a processor: what a core's nearest memory holds
_WIDE_BLOCK = 1 << 17  # on an accelerator, which is busy with no fewer, and
_WIDE = 1 << 23  # outputs of all of them, of which some hundred arrays find room there
_SHORTCUTS = (24, 96)  # nodes of the rules that are tried first where problems are many:
_MANY = 1024  # so many that they gain more than it takes to compile them
_SEVERAL = 64  # so many where nothing is compiled


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
        shared: what :func:`goodteacher.sim.separation.sharing` says.
        only_trained: whether all goals are known to be of the rewards that are trained on.
    """
    count, prompts, _ = instances.rewards.shape
    xp = namespace(*jax.tree.leaves((instances, goals, horizons)))
    goals = eqx.tree_at(lambda goal: goal.values, goals, together(goals.values, shared))
    increase = xp.full(goals.level.shape, xp.nan) if goals.increase is None else goals.increase
    problems = _Problems(
        separate(instances, shared),
        outputs_first(goals.values),
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
        log_probabilities(instances, masses, shared),
        end.reshape(count, prompts).max(-1),
    )


def policies(
    instances: Instance, times: Float[AnyArray, "n times"], shared: Sharing | None
) -> Float[AnyArray, "n times prompts outputs"]:
    """Log-probabilities at times of each problem. Differentiable. Args as above."""

    def follow(prompts: Prompts, times: AnyArray) -> AnyArray:
        return _path(envelopes(prompts), times * prompts.weight)

    def told(masses: AnyArray) -> AnyArray:
        return log_probabilities(instances, masses, shared)

    return _at_times(follow, told, instances, times, shared)


def trajectories(
    instances: Instance, times: Float[AnyArray, "n times"], shared: Sharing | None
) -> Float[AnyArray, "n times ..."]:
    """Parameters at times of each problem. Differentiable. Args as above."""

    def follow(prompts: Prompts, times: AnyArray) -> AnyArray:
        flow = envelopes(prompts)
        return _path(flow, times * prompts.weight) + flow.normalizer

    def told(masses: AnyArray) -> AnyArray:
        return parameters(instances, masses, shared)

    return _at_times(follow, told, instances, times, shared)


def _at_times(
    follow: Callable[[Prompts, AnyArray], AnyArray],
    told: Callable[[AnyArray], AnyArray],
    instances: Instance,
    times: AnyArray,
    shared: Sharing | None,
) -> AnyArray:
    xp = namespace(*jax.tree.leaves((instances, times)))
    of_prompts = xp.repeat(times.T, instances.rewards.shape[1], axis=1)
    masses = _by_blocks(xp, follow, separate(instances, shared), of_prompts)
    return every(xp, told, xp.moveaxis(masses, 1, 0))


def _path(flow: Lines, times: AnyArray) -> AnyArray:
    """``ln E`` at given times; ``nan`` where the clock is none with these rewards."""
    return namespace(*jax.tree.leaves((flow, times))).where(_has_clock(flow), path(flow, times), np.nan)


def _has_clock(flow: Lines) -> AnyArray:
    """Whether the clock is one with these rewards, or none is asked for."""
    return ~namespace(flow.logits).isnan(rate_of_time(flow, initial(flow)))


def _block(problems: Any) -> int:
    """How many problems go side by side."""
    if jax.default_backend() == "cpu":
        return _BLOCK
    leaves = jax.tree.leaves(problems)
    outputs = max(leaf.size // leaf.shape[-1] for leaf in leaves)
    return min(max(_WIDE // outputs, _BLOCK), _WIDE_BLOCK, leaves[-1].shape[-1])


def _by_blocks(xp: ModuleType, of: Callable[..., Any], *problems: Any) -> Any:
    """A function of prompts, of so many at a time."""
    count = jax.tree.leaves(problems)[-1].shape[-1]
    block = _block(problems)
    if count <= block or xp is np:
        return of(*problems)
    blocks = -(-count // block)

    def split(leaf: AnyArray) -> AnyArray:
        pad = [(0, 0)] * (leaf.ndim - 1) + [(0, blocks * block - count)]
        return jnp.moveaxis(jnp.pad(leaf, pad, mode="edge").reshape(*leaf.shape[:-1], blocks, block), -2, 0)

    def join(leaf: AnyArray) -> AnyArray:
        return jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)[..., :count]

    return jax.tree.map(join, jax.lax.map(lambda block: of(*block), jax.tree.map(split, problems)))


# Goals, met -----------------------------------------------------------------------------


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
    many = _MANY if xp is jnp else _SEVERAL
    if problems.level.size <= many or problems.prompts.inertia is not None:
        return _by_blocks(xp, thorough, problems)[0]
    first, *others = (*(partial(_easily, nodes=nodes) for nodes in _SHORTCUTS), thorough)
    spots, certain = _by_blocks(xp, first, problems)
    for method in others:
        spots, certain = _tried_again(xp, method, problems, spots, certain)
    return spots


def _tried_again(
    xp: ModuleType,
    method: Callable[[_Problems], tuple[_Spot, AnyArray]],
    problems: _Problems,
    spots: _Spot,
    certain: AnyArray,
) -> tuple[_Spot, AnyArray]:
    """Tries another method where the spots are not certain, for so many problems at a time."""
    if xp is np:
        left = ~certain
        if not left.any():
            return spots, certain
        new = method(jax.tree.map(lambda leaf: leaf[..., left], problems))
        return replaced((spots, certain), left, new)
    count, left = certain.size, (~certain).sum()
    block = _block(problems)
    order = jnp.pad(jnp.argsort(certain, stable=True), (0, -count % block))

    def go(carry: tuple[AnyArray, _Spot, AnyArray]) -> tuple[AnyArray, _Spot, AnyArray]:
        done, *known = carry
        chosen = jax.lax.dynamic_slice(order, (done,), (block,))
        new = method(jax.tree.map(lambda leaf: leaf[..., chosen], problems))
        where = jnp.where(done + jnp.arange(block) < left, chosen, count)
        spots, certain = jax.tree.map(
            lambda old, of: old.at[..., where].set(of, mode="drop"), tuple(known), new
        )
        return done + block, spots, certain

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
    # Where nothing is found the time may be no number for being beyond all.
    lost = spot.lost | (sought & (~_has_clock(flow) | (spot.found & xp.isnan(spent))))
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
