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
    mass,
    pick,
    sums,
    upper,
    width,
)
from goodteacher.sim.loops import repeat, repeat_while, search
from goodteacher.sim.validation import AnyArray, namespace

_GRADING = 4.0  # highest power by which nodes crowd towards a breakpoint
_WARMING = 5  # passes, of two steps each, to find the smallest x at a first node


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


_NODES = ((6, 40), (8, 48), (16, 56), (32, 72), (64, 100))  # up to so many outputs
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
        anchor: the breakpoint at which the half begins, or ends.
        sign: 1 where it begins there, -1 where it ends.
        start: where the stretch comes nearest to the breakpoint, in tau from there.
        length: of tau.
    """

    anchor: Int[AnyArray, " n"]
    sign: Float[AnyArray, " n"]
    start: Float[AnyArray, " n"]
    length: Float[AnyArray, " n"]

    @property
    def end(self) -> Float[AnyArray, " n"]:
        """Where it is farthest from the breakpoint."""
        return self.start + self.length


def half(flow: Lines, number: Int[AnyArray, " n"]) -> Half:
    """The whole of the half of a segment of that number."""
    xp = namespace(flow.breakpoints, number)
    segment, second = number // 2, number % 2 == 1
    following = xp.minimum(segment + 1, len(flow.modal) - 1)
    length = 0.5 * (pick(flow.breakpoints, following) - pick(flow.breakpoints, segment))
    sign = xp.where(second, -1.0, 1.0)
    return Half(xp.where(second, following, segment), sign, xp.zeros(sign.shape), length)


def integral(flow: Lines, over: Half, by: Rule) -> Float[AnyArray, " n"]:
    """The integral over a stretch of the mass ``Z``, by that rule, or of ``Z / m`` under a clock."""
    if flow.clocked is not None:
        return _by_panels(flow, over)
    xp = namespace(flow.logits, over.length)
    nodes = by if xp is np else jax.tree.map(jnp.asarray, by)
    of = base(flow, over.anchor)
    faster = over.sign * xp.where(over.sign > 0, of.ahead, of.behind)
    weighted = faster if of.inertia is None else of.inertia * faster

    def gaps(offset: AnyArray) -> AnyArray:
        return xp.maximum(of.gaps - offset * faster, 0.0)

    power = grading(of, gaps(over.end), over.length * faster)

    def node(i: Any, carry: tuple[AnyArray, AnyArray, AnyArray]) -> tuple[AnyArray, AnyArray, AnyArray]:
        x, slopes, total = carry
        share = xp.exp(power * nodes.place[i])
        moved = over.length * share
        here = gaps(over.start + moved)
        x = x * xp.exp(xp.clip(power * (nodes.ahead[i] @ slopes), -30.0, 30.0))
        x = improved(x, sums(here, of, x))
        at = sums(here, of, x)
        slope = moved * (weighted * at.shares).sum(0) / (at.first * x)
        total = total + xp.where(nodes.weight[i] > 0, nodes.weight[i] * share * mass(x, at), 0.0)
        return improved(x, at), xp.stack([slope, slopes[0], slopes[1]]), total

    none = xp.zeros(over.length.shape)
    first = upper(gaps(over.start + over.length * xp.exp(power * nodes.place[0])), of)
    *_, total = repeat(xp, len(nodes.weight), node, (first, xp.zeros((3, *none.shape)), none))
    return over.length * power * total


# Under a clock ----------------------------------------------------------------------------

_LONGEST = 5.0  # panel, up to which the bend at a breakpoint is smooth enough for its nodes
_STEEPEST = 40.0  # of a panel's length times the power by which the integrand grows
_PANEL_NODES = 64


class Panels(NamedTuple):
    """How a stretch is divided: into panels of one length in ``z = asinh(offset / unit)``.

    Attributes:
        unit: of tau.
        start: the first panel's.
        length: of a panel.
        number: how many there are.
    """

    unit: Float[AnyArray, " n"]
    start: Float[AnyArray, " n"]
    length: Float[AnyArray, " n"]
    number: Int[AnyArray, " n"]

    def offset(self, panels: AnyArray) -> AnyArray:
        """The offset so many panels from the start."""
        z = self.start + self.length * panels
        return self.unit * namespace(z).sinh(z)

    def speed(self, panels: AnyArray) -> AnyArray:
        """Its derivative by ``z``."""
        z = self.start + self.length * panels
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
    end = xp.maximum(of.gaps - over.end * faster, 0.0)
    share = xp.abs(way) / (end + upper(end, of))
    degree = (share if of.inertia is None else of.inertia * share).sum(0) + 1.0
    unit = width(of)
    start, end = (xp.arcsinh(xp.minimum(offset / unit, LARGEST)) for offset in (over.start, over.end))
    whole = end - start
    longest = xp.minimum(_LONGEST, _STEEPEST / (degree * (1.0 + flow.clocked.clock.steepness)))
    count = xp.maximum(xp.ceil(whole / longest), 1.0)
    count = count if most is None else xp.minimum(count, most)
    return Panels(unit, start, whole / count, count.astype(int))


@functools.cache
def panel_rule() -> Rule:
    """The rule of a panel, on its share of the length."""
    points, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    return _warmed((points + 1.0) / 2.0, weights / 2.0)


def _panel(flow: Lines, over: Half, number: Int[AnyArray, " n"]) -> tuple[AnyArray, AnyArray]:
    """The integral of ``Z / m`` over a panel of a stretch, and whether it has another."""
    assert flow.clocked is not None
    clocked = flow.clocked
    xp = namespace(flow.logits, over.length)
    nodes = panel_rule() if xp is np else jax.tree.map(jnp.asarray, panel_rule())
    of = base(flow, over.anchor)
    faster = over.sign * xp.where(over.sign > 0, of.ahead, of.behind)
    weighted = faster if of.inertia is None else of.inertia * faster
    divided = panels(flow, of, over)

    def gaps(offset: AnyArray) -> AnyArray:
        return xp.maximum(of.gaps - xp.minimum(offset, over.end) * faster, 0.0)

    def node(i: Any, carry: tuple[AnyArray, AnyArray, AnyArray]) -> tuple[AnyArray, AnyArray, AnyArray]:
        x, slopes, total = carry
        speed = divided.speed(number + nodes.place[i])
        here = gaps(divided.offset(number + nodes.place[i]))
        x = x * xp.exp(xp.clip(divided.length * (nodes.ahead[i] @ slopes), -30.0, 30.0))
        x = improved(x, sums(here, of, x))
        at = sums(here, of, x)
        slope = speed * (weighted * at.shares).sum(0) / (at.first * x)
        shares = at.shares if of.inertia is None else of.inertia * at.shares
        spent = mass(x, at) * clocked.slowness(shares, over.sign * faster) * speed
        total = total + xp.where(nodes.weight[i] > 0, nodes.weight[i] * spent, 0.0)
        return improved(x, at), xp.stack([slope, slopes[0], slopes[1]]), total

    none = xp.zeros(over.length.shape)
    first = upper(gaps(divided.offset(number + nodes.place[0])), of)
    *_, total = repeat(xp, len(nodes.weight), node, (first, xp.zeros((3, *none.shape)), none))
    return divided.length * total, number + 1 < divided.number


class _Sum(NamedTuple):
    """Of panels, up to the next."""

    number: AnyArray
    total: AnyArray
    more: AnyArray  # whether there are others


def _by_panels(flow: Lines, over: Half) -> Float[AnyArray, " n"]:
    """The integral of ``Z / m`` over a stretch."""
    xp = namespace(flow.logits, over.length)

    def add(of: tuple[Lines, Half], so_far: _Sum) -> _Sum:
        spent, more = _panel(*of, so_far.number)
        return _Sum(so_far.number + 1, so_far.total + spent, more)

    none = xp.zeros(over.length.shape)
    return search(
        lambda so_far: so_far.more, add, (flow, over), _Sum(none.astype(int), none, none == 0.0)
    ).total


# Time ------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A position by the segment that it is in.

    Attributes:
        segment: its number.
        behind: tau since its start.
        before: tau up to its end.
        late: whether in its second half.
        close: whether so close to the end that next to nothing of the segment's mass is still before.
    """

    segment: Int[AnyArray, " n"]
    behind: Float[AnyArray, " n"]
    before: Float[AnyArray, " n"]
    late: Bool[AnyArray, " n"]
    close: Bool[AnyArray, " n"]

    @property
    def pieces(self) -> Int[AnyArray, " n"]:
        """How many stretches the time there is made of."""
        return 2 * self.segment + 1 + self.late + self.close


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
    length = xp.where(ends, 0.5 * (end - start), xp.inf)
    late = behind > length
    # The mass grows no faster than that power of tau.
    power = last + 1 if flow.inertia is None else flow.inertia.sum(0)
    return Place(segment, behind, before, late, late & (power * before < length))


def stretch(flow: Lines, to: Place, number: Int[AnyArray, " n"]) -> tuple[Half, Float[AnyArray, " n"]]:
    """One of the stretches that the time at a place is made of, and with which sign it counts; 0 if none is.

    All halves of the segments before; then of the segment itself what is behind, or its first half and what
    is behind of its second. Close to its end that is all of the second less what is still before, for times
    to differ by no rounding error of the whole.
    """
    xp = namespace(flow.logits, number)
    on = number < to.pieces
    extra = xp.where(on, number - 2 * to.segment, -1)
    whole = half(flow, xp.where(extra > 0, 2 * to.segment + 1, xp.minimum(number, 2 * to.segment)))
    start = xp.where((extra == 1) & ~to.close, xp.minimum(to.before, whole.length), 0.0)
    part = xp.where((extra == 0) & ~to.late, to.behind, xp.where(extra == 2, to.before, whole.length - start))
    counts = xp.where(on, xp.where(extra == 2, -1.0, 1.0), 0.0)
    return whole._replace(start=start, length=xp.where(on, part, 0.0)), counts


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
            done, spent = xp.ones(item.shape, bool), integral(own, over, rule(own))
            spent = xp.where(xp.isnan(spent), xp.inf, spent)  # of masses beyond all numbers
        else:
            spent, more = _panel(own, over, number)
            done = (counts == 0.0) | ~more
        total = total + _by_owner(xp, owner, xp.where(counts == 0.0, 0.0, counts * spent), count)
        item = xp.where(done, handed_out + xp.cumsum(done) - 1, item)
        handed_out, number = handed_out + done.sum(), xp.where(done, 0, number + 1)
        if xp is np:  # All have been handed out: what is done is left out.
            item, number = item[~done], number[~done]
        return handed_out, item, number, total

    items = xp.arange(together)
    first = (xp.full((), together), items, xp.zeros_like(items), xp.zeros(count))
    return repeat_while(xp, lambda carry: (carry[1] < ends[-1]).any(), work, first)[-1]


def _by_owner(xp: ModuleType, owner: AnyArray, values: AnyArray, count: int) -> AnyArray:
    if xp is np:
        return np.bincount(owner, values, count)
    return jax.ops.segment_sum(values, owner, count)


def rate_of_time(flow: Lines, x: Float[AnyArray, "outputs n"]) -> Float[AnyArray, " n"]:
    """``dt / d tau`` where flows are: the mass ``Z``, over the clock's ``m`` if there is one."""
    masses = 1.0 / x if flow.inertia is None else flow.inertia / x
    if flow.clocked is None:
        return masses.sum(0)
    rise = flow.rewards - pick(flow.rewards, masses.argmax(0))
    return masses.sum(0) * flow.clocked.slowness(masses / masses.max(0), rise)
