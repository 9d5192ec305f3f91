"""When flows that are straight lines (:mod:`goodteacher.sim.lines`) are where: the integral of the mass.

Between breakpoints it is all but a polynomial of tau, and about them it bends: it is integrated by halves of
segments, by Gauss's rule with nodes that crowd towards the breakpoint.

Under a clock it is the integral of ``Z / m``, which may fall off like any power: under MaxRL every decade of
tau counts alike. Then a half is integrated by panels of ``asinh(offset / width)`` from the breakpoint, of
which the first holds the bend and the others powers, and which are as many as the decades ask for.
"""

import functools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from goodteacher.sim.lines import (
    LARGEST,
    Base,
    Lines,
    Position,
    base,
    improved,
    initial,
    log_masses,
    mass,
    pick,
    sums,
    upper,
    width,
)
from goodteacher.sim.loops import repeat, repeat_while, search
from goodteacher.sim.validation import AnyArray, namespace

QUADRATIC = 1e-8  # step after which Newton's method is right to rounding
_GRADING = 4.0  # highest power by which nodes crowd towards a breakpoint
_WARMING = 5  # passes, of two steps each, to find the smallest x at a first node
_MOST_TRIALS = 60  # to find a time in its half of a segment


class Rule(NamedTuple):
    """A Gauss rule, and how a function of the place gets from each node to the next.

    The first node comes several times, for the smallest ``x`` to be found there; after the last comes the
    end; these have no weight.

    Attributes:
        place: ``[nodes]``: the logarithm of a share of the way, or that share.
        weight: ``[nodes]``, by the place.
        ahead: ``[nodes, 3]``, weights of the function's slopes at the three nodes before: of the integral of
            the parabola through them.
    """

    place: np.ndarray
    weight: np.ndarray
    ahead: np.ndarray

    @property
    def gauss(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the nodes, and weights, of the rule alone."""
        return self.place[_WARMING:-1], self.weight[_WARMING:-1]


@functools.cache
def gauss_rule(nodes: int) -> Rule:
    """The rule of so many nodes on (0, 1), by logarithms."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    points = (points + 1.0) / 2.0
    return _warmed(np.log(points), weights / 2.0 / points, 0.0)


def _warmed(places: np.ndarray, weights: np.ndarray, end: float = 1.0) -> Rule:
    places, weights = np.append(places, end), np.append(weights, 0.0)
    ahead = np.zeros((len(places), 3))
    for i in range(1, len(places)):
        known = places[max(i - 3, 0) : i][::-1] - places[i - 1]
        powers = np.arange(len(known))
        integrals = (places[i] - places[i - 1]) ** (powers + 1) / (powers + 1)
        ahead[i, : len(known)] = np.linalg.solve(known[None] ** powers[:, None], integrals)
    before = np.zeros(_WARMING)
    return Rule(
        np.append(before + places[0], places),
        np.append(before, weights),
        np.append(before[:, None] + np.zeros(3), ahead, axis=0),
    )


_NODES = ((12, 40), (64, 100))  # up to so many outputs
_MOST_NODES = 160  # of more, or where powers differ, which makes the integrand less smooth


def rule(of: Lines | Base) -> Rule:
    """The one for a half segment of these flows, with which times are right to 1e-11."""
    outputs = len(of.breakpoints if isinstance(of, Lines) else of.gaps)
    fewer = (nodes for most, nodes in _NODES if outputs <= most and of.inertia is None)
    return gauss_rule(next(fewer, _MOST_NODES))


def grading(
    of: Base, end: Float[AnyArray, "outputs n"], way: Float[AnyArray, "outputs n"]
) -> Float[AnyArray, " n"]:
    """The power by which nodes crowd towards a breakpoint, where the integrand bends.

    In between it is a polynomial, of a degree that many outputs make large: the less of it is near the
    breakpoint, and the lower the power has to be for the rule to be exact.

    Args:
        of: the breakpoint.
        end: gaps at the far end.
        way: by how much the gaps have changed since the breakpoint.
    """
    xp = namespace(end)
    share = xp.abs(way) / (end + upper(end, of))
    degree = (share if of.inertia is None else of.inertia * share).sum(0)
    # A whole number, for else the integrand has a root at the breakpoint.
    return xp.clip(xp.floor(len(rule(of).gauss[0]) / (1.0 + degree)), 1.0, _GRADING)


class Half(NamedTuple):
    """A stretch of tau within half a segment.

    Attributes:
        anchor: the breakpoint from which (or to which) it goes.
        sign: 1 from it on, -1 up to it.
        length: of tau.
    """

    anchor: Int[AnyArray, " n"]
    sign: Float[AnyArray, " n"]
    length: Float[AnyArray, " n"]


def half(flow: Lines, number: Int[AnyArray, " n"]) -> Half:
    """The whole of the half of a segment of that number."""
    xp = namespace(flow.breakpoints, number)
    segment, second = number // 2, number % 2 == 1
    following = xp.minimum(segment + 1, len(flow.modal) - 1)
    length = 0.5 * (pick(flow.breakpoints, following) - pick(flow.breakpoints, segment))
    return Half(xp.where(second, following, segment), xp.where(second, -1.0, 1.0), length)


class _Piece(NamedTuple):
    time: AnyArray
    x: AnyArray  # at the far end


def _piece(flow: Lines, over: Half) -> _Piece:
    """The integral over a stretch of the mass ``Z``, or of ``Z / m`` under a clock."""
    if flow.clocked is not None:
        return _by_panels(flow, over)
    xp = namespace(flow.logits, over.length)
    nodes = rule(flow) if xp is np else jax.tree.map(jnp.asarray, rule(flow))
    of = base(flow, over.anchor)
    faster = over.sign * xp.where(over.sign > 0, of.ahead, of.behind)
    weighted = faster if of.inertia is None else of.inertia * faster

    def gaps(offset: AnyArray) -> AnyArray:
        return xp.maximum(of.gaps - offset * faster, 0.0)

    power = grading(of, gaps(over.length), over.length * faster)

    def node(i: Any, carry: tuple[AnyArray, AnyArray, AnyArray]) -> tuple[AnyArray, AnyArray, AnyArray]:
        x, slopes, total = carry
        share = xp.exp(power * nodes.place[i])
        offset = over.length * share
        here = gaps(offset)
        x = x * xp.exp(xp.clip(power * (nodes.ahead[i] @ slopes), -30.0, 30.0))
        x = improved(x, sums(here, of, x))
        at = sums(here, of, x)
        slope = offset * (weighted * at.shares).sum(0) / (at.first * x)
        total = total + xp.where(nodes.weight[i] > 0, nodes.weight[i] * share * mass(x, at), 0.0)
        return improved(x, at), xp.stack([slope, slopes[0], slopes[1]]), total

    none = xp.zeros(over.length.shape)
    first = upper(gaps(over.length * xp.exp(power * nodes.place[0])), of)
    x, _, total = repeat(xp, len(nodes.weight), node, (first, xp.zeros((3, *none.shape)), none))
    return _Piece(over.length * power * total, x + gaps(over.length))


# Under a clock ----------------------------------------------------------------------------

_LONGEST = 5.0  # panel, up to which the bend at a breakpoint is smooth enough for its nodes
_STEEPEST = 40.0  # of a panel's length times the power by which the integrand grows
_PANEL_NODES = 32


class Panels(NamedTuple):
    """How a stretch is divided: into panels of one length in ``asinh(offset / unit)``.

    Attributes:
        unit: of tau.
        length: of a panel.
        number: how many there are.
    """

    unit: Float[AnyArray, " n"]
    length: Float[AnyArray, " n"]
    number: Int[AnyArray, " n"]

    def offset(self, z: AnyArray) -> AnyArray:
        """The offset at a place."""
        return self.unit * namespace(z).sinh(z)

    def speed(self, z: AnyArray) -> AnyArray:
        """Its derivative."""
        return self.unit * namespace(z).cosh(z)


def panels(flow: Lines, of: Base, over: Half, most: int | None = None) -> Panels:
    """How a stretch is divided under a clock.

    Args:
        flow: the problem.
        of: its breakpoint.
        over: the stretch.
        most: panels, which are longer, and good for less, where more were needed.
    """
    assert flow.clocked is not None
    xp = namespace(flow.logits, over.length)
    faster = over.sign * xp.where(over.sign > 0, of.ahead, of.behind)
    way = over.length * faster
    end = xp.maximum(of.gaps - way, 0.0)
    share = xp.abs(way) / (end + upper(end, of))
    degree = (share if of.inertia is None else of.inertia * share).sum(0) + 1.0
    unit = width(of)
    whole = xp.arcsinh(xp.minimum(over.length / unit, LARGEST))
    longest = xp.minimum(_LONGEST, _STEEPEST / (degree * (1.0 + flow.clocked.clock.steepness)))
    count = xp.maximum(xp.ceil(whole / longest), 1.0)
    count = count if most is None else xp.minimum(count, most)
    return Panels(unit, whole / count, count.astype(int))


@functools.cache
def panel_rule() -> Rule:
    """The rule of a panel, on its share of the length."""
    points, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    return _warmed((points + 1.0) / 2.0, weights / 2.0)


class _Panel(NamedTuple):
    time: AnyArray
    x: AnyArray  # at the far end
    more: AnyArray  # whether the stretch has another


def _panel(flow: Lines, over: Half, number: Int[AnyArray, " n"]) -> _Panel:
    """The integral of ``Z / m`` over a panel of a stretch."""
    assert flow.clocked is not None
    clocked = flow.clocked
    xp = namespace(flow.logits, over.length)
    nodes = panel_rule() if xp is np else jax.tree.map(jnp.asarray, panel_rule())
    of = base(flow, over.anchor)
    faster = over.sign * xp.where(over.sign > 0, of.ahead, of.behind)
    weighted = faster if of.inertia is None else of.inertia * faster
    divided = panels(flow, of, over)

    def gaps(offset: AnyArray) -> AnyArray:
        return xp.maximum(of.gaps - xp.minimum(offset, over.length) * faster, 0.0)

    def node(i: Any, carry: tuple[AnyArray, AnyArray, AnyArray]) -> tuple[AnyArray, AnyArray, AnyArray]:
        x, slopes, total = carry
        z = divided.length * (number + nodes.place[i])
        speed = divided.speed(z)
        here = gaps(divided.offset(z))
        x = x * xp.exp(xp.clip(divided.length * (nodes.ahead[i] @ slopes), -30.0, 30.0))
        x = improved(x, sums(here, of, x))
        at = sums(here, of, x)
        slope = speed * (weighted * at.shares).sum(0) / (at.first * x)
        shares = at.shares if of.inertia is None else of.inertia * at.shares
        spent = mass(x, at) * clocked.slowness(shares, over.sign * faster) * speed
        total = total + xp.where(nodes.weight[i] > 0, nodes.weight[i] * spent, 0.0)
        return improved(x, at), xp.stack([slope, slopes[0], slopes[1]]), total

    none = xp.zeros(over.length.shape)
    first = upper(gaps(divided.offset(divided.length * (number + nodes.place[0]))), of)
    x, _, total = repeat(xp, len(nodes.weight), node, (first, xp.zeros((3, *none.shape)), none))
    return _Panel(divided.length * total, x + gaps(over.length), number + 1 < divided.number)


# The number of the next panel; of those before the time, and x at their end; whether there is a next.
_Whole = tuple[AnyArray, AnyArray, AnyArray, AnyArray]


def _by_panels(flow: Lines, over: Half) -> _Piece:
    """The integral of ``Z / m`` over a stretch."""
    xp = namespace(flow.logits, over.length)

    def go(carry: _Whole) -> _Whole:
        number, total, x, more = carry
        panel = _panel(flow, over, number)
        time = total + xp.where(more, panel.time, 0.0)
        return number + 1, time, xp.where(more, panel.x, x), more & panel.more

    none = xp.zeros(over.length.shape)
    first = (none.astype(int), none, xp.zeros(flow.logits.shape), none == 0.0)
    _, time, x, _ = repeat_while(xp, lambda carry: carry[-1].any(), go, first)
    return _Piece(time, x)


# Time ------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A position by the segment that it is in.

    Attributes:
        segment: its number.
        behind: tau since its start.
        before: tau up to its end.
        late: whether in its second half.
    """

    segment: Int[AnyArray, " n"]
    behind: Float[AnyArray, " n"]
    before: Float[AnyArray, " n"]
    late: Bool[AnyArray, " n"]

    @property
    def pieces(self) -> Int[AnyArray, " n"]:
        """How many stretches the time there is made of."""
        return 2 * self.segment + namespace(self.late).where(self.late, 3, 1)


def place(flow: Lines, position: Position) -> Place:
    """The segment that a position is in."""
    xp = namespace(flow.logits, position.offset)
    last, taus = len(flow.modal) - 1, flow.breakpoints
    at = pick(taus, position.anchor)
    segment = xp.maximum((taus - at <= position.offset).sum(0) - 1, 0)
    following = xp.minimum(segment + 1, last)
    start, end = pick(taus, segment), pick(taus, following)
    ends = (segment < last) & (end < xp.inf)
    behind = xp.where(segment == position.anchor, position.offset, position.offset + (at - start))
    before = xp.where(following == position.anchor, -position.offset, (end - at) - position.offset)
    return Place(segment, behind, before, behind > xp.where(ends, 0.5 * (end - start), xp.inf))


def stretch(flow: Lines, to: Place, number: Int[AnyArray, " n"]) -> tuple[Half, Float[AnyArray, " n"]]:
    """One of the stretches that the time at a place is made of, and with which sign it counts.

    All halves of the segments before; then of the segment itself what is behind, or its first half, all of
    its second, and with the sign -1 what is still before.
    """
    xp = namespace(flow.logits, number)
    extra = number - 2 * to.segment
    whole = half(flow, xp.where(extra < 0, number, 2 * to.segment + (extra > 0)))
    part = xp.where((extra == 0) & ~to.late, to.behind, xp.where(extra == 2, to.before, whole.length))
    on = number < to.pieces
    counts = xp.where(on, xp.where(extra == 2, -1.0, 1.0), 0.0)
    return whole._replace(length=xp.where(on, part, 0.0)), counts


def time(flow: Lines, position: Position) -> Float[AnyArray, " n"]:
    """When the flows are there.

    Work is handed out by stretches, so that no flow waits for one that has more of them.
    """
    xp = namespace(flow.logits, position.offset)
    to, count = place(flow, position), position.offset.size
    ends = xp.cumsum(to.pieces)
    together = int(ends[-1]) if xp is np else count

    def work(carry: tuple[Any, AnyArray, AnyArray, AnyArray]) -> tuple[Any, AnyArray, AnyArray, AnyArray]:
        handed_out, item, number, total = carry
        owner = xp.minimum(xp.searchsorted(ends, item, side="right"), count - 1)
        own, its = jax.tree.map(lambda leaf: leaf[..., owner], (flow, to))
        over, counts = stretch(own, its, item - (ends - to.pieces)[owner])
        counts = xp.where(item < ends[-1], counts, 0.0)
        if flow.clocked is None:
            done, spent = xp.ones(item.shape, bool), _piece(own, over).time
            spent = xp.where(xp.isnan(spent), xp.inf, spent)  # of masses beyond all numbers
        else:
            panel = _panel(own, over, number)
            done, spent = (counts == 0.0) | ~panel.more, panel.time
        total = total + _by_owner(xp, owner, xp.where(counts == 0.0, 0.0, counts * spent), count)
        item = xp.where(done, handed_out + xp.cumsum(done) - 1, item)
        return handed_out + done.sum(), item, xp.where(done, 0, number + 1), total

    items = xp.arange(together)
    first = (xp.full((), together), items, xp.zeros_like(items), xp.zeros(count))
    return repeat_while(xp, lambda carry: (carry[1] < ends[-1]).any(), work, first)[-1]


def _by_owner(xp: ModuleType, owner: AnyArray, values: AnyArray, count: int) -> AnyArray:
    if xp is np:
        return np.bincount(owner, values, count)
    return jax.ops.segment_sum(values, owner, count)


# Positions at given times ----------------------------------------------------------------


def rate_of_time(flow: Lines, x: Float[AnyArray, "outputs n"]) -> Float[AnyArray, " n"]:
    """``dt / d tau`` where flows are: the mass ``Z``, over the clock's ``m`` if there is one."""
    masses = 1.0 / x if flow.inertia is None else flow.inertia / x
    if flow.clocked is None:
        return masses.sum(0)
    rise = flow.rewards - pick(flow.rewards, masses.argmax(0))
    return masses.sum(0) * flow.clocked.slowness(masses / masses.max(0), rise)


class _Journey(NamedTuple):
    """A flow on its way to a time."""

    half: AnyArray  # of a segment
    begun: AnyArray  # the time at its start
    ended: AnyArray  # the time at its end
    there: AnyArray  # whether the time is in that half
    log: AnyArray  # of the offset from the half's breakpoint, to try
    low: AnyArray
    high: AnyArray
    close: AnyArray  # whether the next trial is right to rounding
    x: AnyArray
    done: AnyArray
    trials: AnyArray


def at_time(flow: Lines, time: Float[AnyArray, " n"]) -> tuple[Position, Float[AnyArray, "outputs n"]]:
    """Where the flows are at given times, and ``ln E`` there.

    Half by half of the segments; in the one that holds the time, by Newton's method for the logarithm of the
    integral from its breakpoint, as a function of that of the offset.
    """
    xp = namespace(flow.logits, time)
    outputs, last = len(flow.modal), flow.last

    def go(journey: _Journey) -> _Journey:
        whole, there = half(flow, journey.half), journey.there
        length = xp.where(there, xp.exp(journey.log), whole.length)
        piece = _piece(flow, whole._replace(length=length))

        # In the half that holds the time.
        target = xp.where(whole.sign > 0, time - journey.begun, journey.ended - time)
        miss = xp.log(piece.time / xp.where(target > 0, target, 1.0))
        # What is no number is too far.
        low = xp.where(miss <= 0, journey.log, journey.low)
        high = xp.where(miss < 0, journey.high, journey.log)
        moved = journey.log - miss * piece.time / (length * rate_of_time(flow, piece.x))
        moved = xp.where((moved >= low) & (moved <= high), moved, 0.5 * (low + high))

        # On the way to it.
        ended = journey.begun + piece.time
        on = ~there & (ended < time)
        number = xp.where(on, journey.half + 1, journey.half)
        begun = xp.where(on, ended, journey.begun)
        endless = number == 2 * last
        left = xp.where(whole.sign > 0, time - begun, ended - time)
        inside = xp.log(whole.length) + xp.log(xp.maximum(left / piece.time, 1e-300))
        beyond = xp.log(xp.maximum((time - begun) * piece.x.min(0), 1e-300))
        return _Journey(
            number,
            begun,
            xp.where(there, journey.ended, ended),
            there | ~on | endless,
            xp.where(there, moved, xp.where(endless, beyond, inside)),
            xp.where(there, low, -700.0),
            xp.where(there, high, xp.where(endless, np.log(LARGEST), xp.log(whole.length))),
            there & (xp.abs(moved - journey.log) <= QUADRATIC),
            piece.x,
            journey.close,
            journey.trials + 1,
        )

    def under_way(journey: _Journey) -> AnyArray:
        return ~journey.done & (journey.trials < 2 * outputs + _MOST_TRIALS)

    zeros = xp.zeros(last.shape)
    at_start = time <= 0
    journey = _Journey(
        half=zeros.astype(int),
        begun=zeros,
        ended=zeros,
        there=last == 0,
        log=xp.log(xp.where(at_start, 1.0, time)),
        low=zeros - 700.0,
        high=zeros + np.log(LARGEST),
        close=zeros > 0,
        x=initial(flow),
        done=at_start,
        trials=zeros.astype(int),
    )
    journey = search(under_way, go, journey)
    found = half(flow, journey.half)
    offset = xp.where(at_start, 0.0, found.sign * xp.exp(journey.log))
    return Position(found.anchor, offset), log_masses(flow, journey.x)
