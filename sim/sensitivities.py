"""How positions and times of flows that are straight lines change with the problem.

Not how they are found: from values that are held fixed, one step of Halley's method, or two of Newton's, have
the first and second derivatives of what they converge to. The nodes of the integral move with the
breakpoints, about which the mass bends.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from goodteacher.sim.crossings import small_way
from goodteacher.sim.lines import (
    Base,
    Lines,
    Position,
    State,
    base,
    initial,
    log_masses,
    pick,
    rise,
    smallest,
)
from goodteacher.sim.loops import fixed
from goodteacher.sim.positions import at_times
from goodteacher.sim.quadrature import (
    Half,
    grading,
    panel_rule,
    panels,
    place,
    rate_of_time,
    rule,
    stretch,
)
from goodteacher.sim.validation import AnyArray, namespace

_MOST_PANELS = 8  # for derivatives under a clock: up to 17 decades of tau in half a segment


class Target(NamedTuple):
    """What an expectation is to reach.

    Attributes:
        distance: of the values from the level; 0 for outputs that do not exist.
        values: themselves.
        increase: of their expectation, where it is small; else nothing depends on it.
        small: whether it is.
    """

    distance: Float[AnyArray, "outputs n"]
    values: Float[AnyArray, "outputs n"]
    increase: Float[AnyArray, " n"]
    small: Bool[AnyArray, " n"]


def crossing_time(
    flow: Lines,
    target: Target,
    position: Position,
    found: Bool[AnyArray, " n"],
    spent: Float[AnyArray, " n"],
) -> Float[AnyArray, " n"]:
    """The time at a position as a function of the target that is met there; constant where none is.

    Args:
        flow: the problems.
        target: of each.
        position: where it is met.
        found: whether it is.
        spent: the time as a number.
    """
    if namespace(flow.logits, position.offset) is np:
        return spent
    return _crossing_time(flow, target, position, found, spent)


def path(flow: Lines, times: Float[AnyArray, "times n"]) -> Float[AnyArray, "outputs times n"]:
    """``ln E`` where flows are at given times: logits, of the sum that the flow conserves. Differentiable."""
    if namespace(flow.logits, times) is np:
        return at_times(flow, times)[1]
    return _path(flow, times)


def _state(flow: Lines, of: Base, offset: AnyArray) -> State:
    faster = rise(of, offset)
    line = of.gaps - offset * faster
    lowest = fixed(line).argmin(0)
    gaps = line - jnp.where(pick(fixed(line), lowest) < 0, pick(line, lowest), 0.0)
    least, sound = fixed(smallest(*fixed((gaps, of))))
    inertia = 1.0 if flow.inertia is None else flow.inertia
    excess = (inertia * jnp.log((least + gaps) / initial(flow))).sum(0)
    excess = excess - fixed(excess)
    shares = least / (least + gaps)
    first, second = (inertia * shares).sum(0), (inertia * shares**2).sum(0)
    least = least * (1.0 - excess / (first + 0.5 * excess * second / first))
    x = least + gaps
    shares = inertia * least / x
    return State(x, least, (shares * faster).sum(0) / shares.sum(0) - faster, sound)


def _time(flow: Lines, position: Position) -> AnyArray:
    """:func:`goodteacher.sim.quadrature.time`, by as many stretches as there can be."""
    to = place(flow, position)

    def add(total: AnyArray, number: AnyArray) -> tuple[AnyArray, None]:
        over, counts = stretch(flow, to, jnp.full(to.segment.shape, number))
        of = base(flow, over.anchor)

        def node(total: AnyArray, at: tuple[AnyArray, AnyArray]) -> tuple[AnyArray, None]:
            share, weight = at
            here = _state(flow, of, over.sign * (over.start + over.length * share))
            return total + weight * rate_of_time(flow, here.x), None

        spent = over.length * jax.lax.scan(node, jnp.zeros(counts.shape), _nodes(flow, of, over))[0]
        return total + jnp.where(counts == 0.0, 0.0, counts * spent), None

    most = 2 * len(flow.modal) + 1
    return jax.lax.scan(add, jnp.zeros(to.behind.shape), jnp.arange(most))[0]


def _nodes(flow: Lines, of: Base, over: Half) -> tuple[AnyArray, AnyArray]:
    """Shares of a stretch, ``[nodes, n]``, and their weights, without derivatives."""
    flow, of, over = fixed((flow, of, over))
    if flow.clocked is None:
        logs, weights = (jnp.asarray(each)[:, None] for each in rule(flow).gauss)
        end = over.sign * over.end
        faster = rise(of, end)
        power = grading(of, jnp.maximum(of.gaps - end * faster, 0.0), over.sign * over.length * faster)
        shares = jnp.exp(power * logs)
        return shares, weights * power * shares
    divided, length = panels(flow, of, over, _MOST_PANELS), jnp.where(over.length > 0, over.length, 1.0)
    places, weights = panel_rule().gauss
    number = np.arange(_MOST_PANELS)
    at = (number[:, None] + places).reshape(-1, 1)
    within = np.repeat(number, len(places))[:, None] < divided.number
    at = jnp.where(within, at, 0.0)
    weights = np.tile(weights, _MOST_PANELS)[:, None] * divided.length * divided.speed(at)
    moved = divided.offset(at) - over.start
    return moved / length, jnp.where(within, weights, 0.0) / length


def _root(flow: Lines, position: Position, distance: AnyArray) -> AnyArray:
    """The offset at which the expectation of the distance vanishes."""
    of, offset = base(flow, position.anchor), fixed(position.offset)
    inertia = 1.0 if flow.inertia is None else flow.inertia
    first = None
    for _ in range(2):
        here = _state(flow, of, offset)
        shares = inertia * here.least / here.x
        gap = (distance * shares).sum(0)
        # The root is exact where the derivative is taken.
        first = fixed(gap) if first is None else first
        rate = -(distance * shares * here.slope / here.x).sum(0)
        centre = (shares * here.slope / here.x).sum(0) / shares.sum(0)
        offset = offset - (gap - first) / (rate + gap * centre)
    return offset


@jax.custom_jvp
def _crossing_time(
    flow: Lines, target: Target, position: Position, found: AnyArray, spent: AnyArray
) -> AnyArray:
    return spent


@_crossing_time.defjvp
def _(primals: Any, tangents: Any) -> tuple[AnyArray, AnyArray]:
    flow, target, position, found, _ = primals

    def smooth(of: Lines, to: Target) -> AnyArray:
        of = of._replace(modal=flow.modal)
        near = jnp.where(target.small, fixed(position.offset), 0.0)
        offset = jnp.where(
            target.small,
            small_way(of, to.values, to.increase, near),
            _root(of, position, to.distance),
        )
        return jnp.where(found, _time(of, Position(position.anchor, offset)), 0.0)

    _, tangent = jax.jvp(smooth, (flow, target), tangents[:2])
    return _crossing_time(*primals), tangent


@jax.custom_jvp
def _path(flow: Lines, times: AnyArray) -> AnyArray:
    return at_times(flow, times)[1]


@_path.defjvp
def _(primals: Any, tangents: Any) -> tuple[AnyArray, AnyArray]:
    flow, times = primals
    positions, masses = fixed(at_times(*fixed(primals)))

    def smooth(of: Lines, times: AnyArray) -> AnyArray:
        of = of._replace(modal=flow.modal)
        return jax.lax.map(lambda at: _moved(of, *at), (positions, times)).swapaxes(0, 1)

    _, tangent = jax.jvp(smooth, (flow, times), tangents[:2])
    return masses, tangent


def _moved(flow: Lines, position: Position, time: AnyArray) -> AnyArray:
    """``ln E`` at a time as a function of the flow, from where it is found to be."""
    offset, here = fixed(position.offset), base(flow, position.anchor)
    first = None
    for _ in range(2):
        spent = _time(flow, Position(position.anchor, offset)) - time
        first = fixed(spent) if first is None else first
        offset = offset - (spent - first) / rate_of_time(flow, _state(flow, here, offset).x)
    return log_masses(flow, _state(flow, here, offset).x)
