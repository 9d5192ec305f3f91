"""Goals of the trained rewards along flows of straight lines, where they are easily met.

Most flows meet their goal near one breakpoint, about which everything is smooth in ``z = asinh(offset /
width)``: the goal is found in some steps of Newton's method, and one Gauss rule over the whole way has the
time. From each place to the next the smallest ``x`` is foreseen, by the product of those of the two outputs
that meet at the breakpoint, which hardly changes.

It is believed where four things agree: the goal was found to rounding; the smallest ``x`` was foreseen at
every node; the last coefficients in Legendre's polynomials are small, of the mass, over ``m`` under a clock;
and the same rule integrates ``d(tau Z)/d tau``, of which the integral is known. Elsewhere, as after most
stalls, :mod:`goodteacher.sim.crossings` and :mod:`goodteacher.sim.quadrature` go from breakpoint to
breakpoint.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from goodteacher.sim.clocks import Clocked
from goodteacher.sim.crossings import first_above
from goodteacher.sim.lines import (
    Base,
    Lines,
    Position,
    Product,
    Sums,
    base,
    halley,
    improved,
    initial,
    mass,
    pick,
    rise,
    slope,
    sums,
    upper,
)
from goodteacher.sim.loops import repeat
from goodteacher.sim.validation import AnyArray, namespace

_KNOWN = 3  # places from which the next is foreseen
_LAST = 3  # coefficients
_LEAST_SHARE = 1e-3  # of the smallest x in what is foreseen for the pair's
_MOST_TAIL = 3e-6  # of the last coefficients; the rule is right to about their square
_MOST_MISS = 3e-12  # of the integral that is known
_MOST_STEP = 1e-2  # from what was foreseen, of which a high power counts
_TRIALS = 7  # to find the goal
_WARMING = 3  # steps to find the smallest x at the breakpoint
_FARTHEST = 50.0  # z
_CLOSE = 1e-7  # step of Newton's method, after which its place is right to rounding


class Way(NamedTuple):
    """A Gauss rule for the whole way.

    The first node comes twice, for it to be foreseen better, and the end comes last; both have no weight.

    Attributes:
        place: ``[nodes]``: the share of the way.
        weight: ``[nodes]``.
        last: ``[nodes, 3]``, weights of the last coefficients in Legendre's polynomials.
        values: ``[nodes, 3]``, weights of a function's values at the three places before, the start among
            them, and
        slopes: ``[nodes, 3]``, of its slopes there, for its value here: of Hermite's polynomial.
    """

    place: np.ndarray
    weight: np.ndarray
    last: np.ndarray
    values: np.ndarray
    slopes: np.ndarray


@functools.cache
def way_rule(nodes: int) -> Way:
    """The rule of so many nodes."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    degrees = np.arange(nodes - _LAST, nodes)
    polynomials = np.polynomial.legendre.legvander(points, nodes - 1)[:, degrees]
    last = polynomials * weights[:, None] * (degrees + 0.5)
    points, nothing = (points + 1.0) / 2.0, np.zeros((1, _LAST))
    place = np.concatenate([points[:1], points, [1.0]])
    weight = np.concatenate([[0.0], weights / 2.0, [0.0]])
    values, slopes = np.zeros((2, len(place), _KNOWN))
    for i, here in enumerate(place):
        before = np.append(place[max(i - _KNOWN, 0) : i][::-1], [0.0] * (i < _KNOWN))
        known, slots = np.unique(before, return_index=True)
        values[i, slots], slopes[i, slots] = _foreseen(known - here)
    return Way(place, weight, np.concatenate([nothing, last, nothing]), values, slopes)


def _foreseen(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of values and slopes at known places for the value at 0 of the polynomial that has them."""
    scale = np.abs(known).max()
    if scale == 0.0:
        return np.ones(1), np.zeros(1)
    powers, places = np.arange(2 * len(known))[:, None], known / scale
    slopes = powers * places ** np.maximum(powers - 1, 0)
    at_zero = np.where(powers[:, 0] == 0, 1.0, 0.0)
    values, slopes = np.split(np.linalg.solve(np.concatenate([places**powers, slopes], 1), at_zero), 2)
    return values, slopes * scale


class _Corner(NamedTuple):
    """A breakpoint, in units in which the product of all ``x`` is about one, and ``z = 0`` there.

    Attributes:
        of: the lines.
        unit: of tau, that of ``z``.
        rise: of the rewards of the two outputs that meet there; where a flow starts it is one output, twice.
        scale: of ``x``, a power of two.
        start: one over the product.
    """

    of: Base
    unit: AnyArray
    rise: AnyArray
    scale: AnyArray
    start: AnyArray

    def sums(self, gaps: AnyArray, x: AnyArray) -> Sums:
        """:func:`goodteacher.sim.lines.sums`, where the product is nearly what it should be."""
        values = x + gaps
        shares, product = x / values, values.prod(0) * self.start
        part = (product - 1.0) / (product + 1.0)
        square = part**2
        log = 2.0 * part * (1.0 + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square / 7.0)))
        return Sums(log, shares, shares.sum(0), (shares**2).sum(0))

    def at(self, z: AnyArray) -> "_Here":
        """The lines at a ``z``."""
        xp = namespace(z)
        less_one = xp.expm1(z)
        sinh = 0.5 * (less_one + less_one / xp.exp(z))
        offset = self.unit * sinh
        faster = rise(self.of, offset)
        line = self.of.gaps - offset * faster
        lowest = xp.minimum(line.min(0), 0.0)
        return _Here(
            offset,
            self.unit * xp.sqrt(1.0 + sinh**2),
            faster,
            line - lowest,
            lowest,
            xp.abs(offset) * self.rise,
        )


class _Here(NamedTuple):
    offset: AnyArray
    speed: AnyArray  # d tau / d z
    faster: AnyArray  # rewards over that of the lower of the pair
    gaps: AnyArray
    lowest: AnyArray  # line, below the lower one of the pair
    apart: AnyArray  # the lines of the pair

    def foreseen(self, log_product: AnyArray) -> AnyArray:
        """The smallest ``x`` from the logarithm of the product of the pair's."""
        xp = namespace(log_product)
        product = xp.exp(log_product)
        lower = 2.0 * product / (self.apart + xp.sqrt(self.apart**2 + 4.0 * product))
        return xp.maximum(lower + self.lowest, _LEAST_SHARE * lower)

    def log_product(self, x: AnyArray) -> AnyArray:
        """The logarithm of the product of the pair's from the smallest ``x``."""
        lower = x - self.lowest
        return namespace(x).log(lower * (lower + self.apart))

    def pair_speed(self, x: AnyArray, value: AnyArray, rise: AnyArray) -> AnyArray:
        """The slope of that by ``z``."""
        xp, lower = namespace(x), x - self.lowest
        other = xp.where(self.offset > 0, -rise, rise)
        return self.speed * (value / lower + (value - other) / (lower + self.apart))


def _corner(flow: Lines, anchor: AnyArray) -> tuple[_Corner, AnyArray]:
    """A breakpoint, and the smallest ``x`` there."""
    xp = namespace(flow.logits, anchor)
    of, outputs = base(flow, anchor), len(flow.modal)
    exponent = xp.round(flow.start.total / (outputs * np.log(2.0)))
    scale = xp.ldexp(xp.ones(exponent.shape), exponent.astype(int))
    gaps, ahead, behind = (scale * each for each in (of.gaps, of.ahead, of.behind))
    rest = Product(flow.start.log, flow.start.exponent - outputs * exponent)
    of = Base(gaps, ahead, behind, of.tau, None, rest)
    x = upper(gaps, of)
    for _ in range(_WARMING):
        x = improved(x, sums(gaps, of, x))
    shares = x / (x + gaps)
    unit = x / xp.abs(slope(of, ahead, shares) * shares).max(0)
    return _Corner(of, unit, pick(behind, pick(flow.modal, anchor)), scale, xp.exp(rest.total)), x


class _Trial(NamedTuple):
    """Where a goal is sought."""

    z: AnyArray
    log_product: AnyArray  # foreseen there
    step: AnyArray  # of Newton's method that led there, however far it went


def _goal(corner: _Corner, x: AnyArray, guess: AnyArray, start: AnyArray, distance: AnyArray) -> _Trial:
    """Where the odds of what is above a level vanish, which are nearly linear in ``z``.

    Args:
        corner: the breakpoint.
        x: the smallest there.
        guess: ``z`` to try first.
        start: that of the start.
        distance: of the rewards from the level.
    """
    xp = namespace(start, distance)
    of = corner.of
    above, below = xp.maximum(distance, 0.0), xp.maximum(-distance, 0.0)

    def attempt(_: Any, trial: _Trial) -> _Trial:
        here = corner.at(trial.z)
        x = here.foreseen(trial.log_product)
        x = improved(x, sums(here.gaps, of, x))
        x = halley(x, corner.sums(here.gaps, x))
        shares = x / (x + here.gaps)
        value = (here.faster * shares).sum(0) / shares.sum(0)
        up, down = above * shares, below * shares
        speeds = shares * (here.faster - value)
        more, less = up.sum(0), down.sum(0)
        climb = here.speed / x * ((up * speeds).sum(0) / more - (down * speeds).sum(0) / less)
        move = -xp.log(more / less) / climb
        z = xp.clip(trial.z + xp.clip(move, -5.0, 5.0 + 0.5 * xp.abs(trial.z)), start, _FARTHEST)
        log_product = here.log_product(x) + (z - trial.z) * here.pair_speed(x, value, corner.rise)
        return _Trial(z, log_product, move)

    none = xp.zeros(start.shape)
    first = xp.clip(guess, start, _FARTHEST)
    shares = x / (x + of.gaps)
    value = (of.ahead * shares).sum(0) / shares.sum(0)
    speed = corner.unit / x * (2.0 * value + corner.rise)
    return repeat(xp, _TRIALS, attempt, _Trial(first, 2.0 * xp.log(x) + first * speed, none))


def _guess(flow: Lines, anchor: AnyArray, distance: AnyArray) -> AnyArray:
    """Where the goal would be if there were no outputs but the pair."""
    xp = namespace(flow.logits, distance)
    new = pick(distance, pick(flow.modal, anchor))
    old = pick(distance, pick(flow.modal, xp.maximum(anchor - 1, 0)))
    return xp.where(anchor > 0, xp.clip(0.5 * xp.log(-old / new), -2.0, 2.0), 0.0)


class _Along(NamedTuple):
    """What is known of a way up to a node."""

    logs: AnyArray  # [3, n]: of the product of the pair's x at the last places
    slopes: AnyArray  # [3, n]: of these by the share of the way
    time: AnyArray
    mass: AnyArray  # the integral of Z, which is the time but for a clock
    known: AnyArray  # that of d(tau Z)/d tau
    last: AnyArray  # [3, n]: coefficients
    step: AnyArray  # the largest from what was foreseen
    end: AnyArray  # tau Z


def _way(
    corner: _Corner, start: AnyArray, end: AnyArray, x: AnyArray, nodes: int, clocked: Clocked | None
) -> _Along:
    """The integrals between two ``z``, from ``x`` of the outputs at the first."""
    xp = namespace(start, end)
    of, length = corner.of, end - start
    way = way_rule(nodes) if xp is np else jax.tree.map(jnp.asarray, way_rule(nodes))

    def node(i: Any, along: _Along) -> _Along:
        here = corner.at(start + length * way.place[i])
        first = here.foreseen(
            (way.values[i][:, None] * along.logs + way.slopes[i][:, None] * along.slopes).sum(0)
        )
        x = halley(first, corner.sums(here.gaps, first))
        at = corner.sums(here.gaps, x)
        # V, and dZ/dtau, where the excess vanishes, to second order.
        better, squares = halley(x, at), at.shares**2
        step = better / x - 1.0
        value = (here.faster * at.shares).sum(0) / at.first
        spread = (here.faster * squares).sum(0) - value * at.second
        cubes = ((here.faster - value) * squares * at.shares).sum(0)
        moved = -spread / at.first * step
        climb = (spread - 2.0 * cubes * step - moved * at.second) / x**2
        total, value, tau = mass(x, at), value + moved, of.tau + here.offset

        spent = total
        if clocked is not None:
            spent = total * clocked.slowness(better / (better + here.gaps), here.faster / corner.scale)
        weight, speed = way.weight[i] * length * here.speed, length * here.speed
        grows = length * here.pair_speed(better, value, corner.rise)
        return _Along(
            xp.stack([here.log_product(better), along.logs[0], along.logs[1]]),
            xp.stack([grows, along.slopes[0], along.slopes[1]]),
            along.time + weight * spent,
            along.mass + weight * total,
            along.known + weight * (total + tau * climb),
            along.last + way.last[i][:, None] * (speed * spent),
            xp.where(i > 0, xp.maximum(along.step, xp.abs(better / first - 1.0)), 0.0),
            tau * total,
        )

    here, none = corner.at(start), xp.zeros(start.shape)
    least = x.min(0)
    shares = least / x
    value = (here.faster * shares).sum(0) / shares.sum(0)
    grows = length * here.pair_speed(least, value, corner.rise)
    known = xp.stack([here.log_product(least), none, none]), xp.stack([grows, none, none])
    first = _Along(*known, none, none, none, xp.zeros((_LAST, *none.shape)), none, none)
    return repeat(xp, len(way_rule(nodes).place), node, first)


class Met(NamedTuple):
    """Where and when a goal is met.

    Attributes:
        position: there.
        log_masses: ``ln E`` there.
        time: then, right to 1e-11.
        certain: whether all that holds; elsewhere the rest means nothing.
    """

    position: Position
    log_masses: Float[AnyArray, "outputs n"]
    time: Float[AnyArray, " n"]
    certain: Bool[AnyArray, " n"]


def shortcut(flow: Lines, distance: Float[AnyArray, "outputs n"], nodes: int) -> Met:
    """Where flows of inertia one meet a goal of the trained rewards, if that is easy.

    Args:
        flow: the problems.
        distance: as in :func:`goodteacher.sim.crossings.trained_crossing`.
        nodes: of the rule.
    """
    xp = namespace(flow.logits, distance)
    anchor = first_above(flow, distance)
    corner, x = _corner(flow, anchor)
    start = -xp.arcsinh(corner.of.tau / corner.unit)
    trial = _goal(corner, x, _guess(flow, anchor, distance), start, distance)
    along = _way(corner, start, trial.z, corner.scale * initial(flow), nodes, flow.clocked)
    certain = xp.abs(trial.step) < _CLOSE * (1.0 + xp.abs(trial.z))
    certain &= along.step < _MOST_STEP
    certain &= xp.abs(along.known - along.end) < _MOST_MISS * along.mass
    certain &= (along.last**2).sum(0) < (_MOST_TAIL * along.time) ** 2
    here = corner.at(trial.z)
    x = here.foreseen(along.logs[0]) + here.gaps
    return Met(Position(anchor, here.offset), xp.log(corner.scale / x), corner.scale * along.time, certain)
