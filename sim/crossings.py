"""Where flows that are straight lines (:mod:`goodteacher.sim.lines`) meet their goals."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from goodteacher.sim.lines import (
    LARGEST,
    QUADRATIC,
    Base,
    Lines,
    Position,
    State,
    base,
    initial,
    log_masses,
    pick,
    state,
    width,
)
from goodteacher.sim.loops import chosen, repeat, search
from goodteacher.sim.validation import AnyArray, namespace

_SMALL = 1e-3  # change of a logit, in which nothing hides
_SHORTEST = 1e-13
_EQUAL = 1e-15  # relative, of numbers between which there is hardly another
_MOST_TRIALS = 2000


class Crossing(NamedTuple):
    """The first point at which an expectation reaches a level.

    Attributes:
        position: there, or where it was seen that there is none.
        log_masses: ``ln E`` there.
        found: whether there is one.
        never: whether it is known that there is none.
        lost: whether the search failed. Where none of the three holds it went as far as numbers go.
    """

    position: Position
    log_masses: Float[AnyArray, "outputs n"]
    found: Bool[AnyArray, " n"]
    never: Bool[AnyArray, " n"]
    lost: Bool[AnyArray, " n"]


class _Odds(NamedTuple):
    """The logarithm of what is above a level over what is below, and its slope by tau."""

    log: AnyArray
    slope: AnyArray


def _odds(at: State, distance: AnyArray, inertia: AnyArray | None) -> _Odds:
    xp = namespace(at.x, distance)
    shares = at.least / at.x
    shares = shares if inertia is None else inertia * shares
    speeds = -at.slope / at.x
    above, below = xp.maximum(distance, 0.0) * shares, xp.maximum(-distance, 0.0) * shares
    up, down = above.sum(0), below.sum(0)
    return _Odds(xp.log(up / down), (above * speeds).sum(0) / up - (below * speeds).sum(0) / down)


def _closer(
    low: AnyArray, high: AnyArray, z: AnyArray, odds: _Odds, unit: AnyArray, known: AnyArray
) -> tuple[AnyArray, AnyArray]:
    """What to try after ``z = asinh(offset / unit)``, and whether that is the crossing to rounding.

    By Newton's method for the odds, if they are known, which are nearly linear in ``z``; else by bisection.
    """
    xp = namespace(z)
    move = -odds.log / (odds.slope * unit * xp.cosh(z))
    root = z + xp.clip(move, -5.0, 5.0 + 0.5 * xp.abs(z))
    near = xp.abs(root - z) <= QUADRATIC * (1.0 + xp.abs(z))
    within = known & (((root > low) & (root < high)) | near)
    close = near | (high - low <= _EQUAL * (1.0 + xp.abs(z)))
    return xp.where(within, root, 0.5 * (low + high)), close


def _z_of(offset: float | AnyArray, unit: AnyArray) -> AnyArray:
    """The ``z`` of an offset, whose ratio to the unit may be beyond all numbers."""
    xp = namespace(offset, unit)
    return xp.arcsinh(xp.minimum(offset / unit, LARGEST))


# Of the rewards that are trained on ------------------------------------------------------


class _Climb(NamedTuple):
    """A search between two ``z``, below the level and not below."""

    low: AnyArray
    high: AnyArray
    z: AnyArray  # to try
    close: AnyArray  # whether that is the crossing to rounding
    offset: AnyArray
    x: AnyArray
    found: AnyArray
    ended: AnyArray
    lost: AnyArray
    trials: AnyArray


def first_above(flow: Lines, distance: Float[AnyArray, "outputs n"]) -> Int[AnyArray, " n"]:
    """The breakpoint at which an output above a level comes up."""
    modal = namespace(flow.modal, distance).take_along_axis(distance, flow.modal, 0)
    return ((modal > 0) & (flow.breakpoints < np.inf)).argmax(0)


def trained_crossing(
    flow: Lines, distance: Float[AnyArray, "outputs n"], sought: Bool[AnyArray, " n"]
) -> Crossing:
    """The point at which the expectation of the trained rewards, which only rises, reaches a level.

    It is near the breakpoint where an output above the level comes up, and found by Newton's method for the
    logarithm of what is above over what is below, which is nearly linear in ``asinh(offset / width)``.

    Args:
        flow: the problems.
        distance: of the rewards from the level, which is below the best of them and above their expectation
            at the start; 0 for outputs that do not exist.
        sought: where to search at all.
    """
    xp = namespace(flow.logits, distance)
    anchor = first_above(flow, distance)
    of = base(flow, anchor)
    unit = width(of)
    far = _z_of(LARGEST, unit)

    def waiting(climb: _Climb) -> AnyArray:
        return ~(climb.found | climb.ended | climb.lost)

    def attempt(given: tuple[Base, AnyArray, AnyArray, AnyArray], climb: _Climb) -> _Climb:
        of, distance, unit, far = given
        z = climb.z
        offset = unit * xp.sinh(z)
        at = state(of, offset)
        odds = _odds(at, distance, of.inertia)
        # What is no number is too far.
        below = at.sound & (odds.log < 0)
        low, high = xp.where(below, z, climb.low), xp.where(below, climb.high, z)
        root, close = _closer(low, high, z, odds, unit, at.sound)
        found = climb.close & at.sound
        beyond = (below & (z >= far)) | (climb.close & ~at.sound)
        return _Climb(
            low,
            high,
            xp.minimum(root, far),
            close,
            offset,
            at.x,
            found=found & ~beyond,
            ended=beyond,
            lost=climb.trials >= _MOST_TRIALS,
            trials=climb.trials + 1,
        )

    zeros = xp.zeros(unit.shape)
    no = zeros > 0
    first = _Climb(
        low=-_z_of(of.tau, unit),
        high=2.0 * far,
        z=zeros,
        close=no,
        offset=zeros,
        x=initial(flow),
        found=no,
        ended=~(sought & (unit > 0)),  # where masses are beyond all numbers
        lost=no,
        trials=zeros.astype(int),
    )
    climb = search(waiting, attempt, (of, distance, unit, far), first)
    return Crossing(
        Position(anchor, climb.offset),
        log_masses(flow, climb.x),
        climb.found,
        no,
        climb.lost & ~climb.found & ~climb.ended,
    )


# Of any values ---------------------------------------------------------------------------


def _peak(way: AnyArray, before: _Odds, after: _Odds) -> AnyArray:
    """At which share of a step the cubic through both ends has a maximum above zero; inf without one."""
    xp = namespace(way)
    a, b, climb = before.slope * way, after.slope * way, after.log - before.log
    cubic, square = a + b - 2.0 * climb, 3.0 * climb - 2.0 * a - b
    share = a / (xp.sqrt(square**2 - 3.0 * cubic * a) - square)
    top = before.log + share * (a + share * (square + share * cubic))
    return xp.where((share > 0.0) & (share < 0.99) & (top > 0), share, xp.inf)


class _Search(NamedTuple):
    """How far a flow is known not to have reached the level, and how far it is known to have."""

    half: AnyArray  # of a segment
    fresh: AnyArray  # whether it has just come to that half
    z: AnyArray  # asinh(offset / width) from the breakpoint of the half
    offset: AnyArray  # of z
    state: State  # at z
    step: AnyArray  # of z, to try
    high: AnyArray  # z at which the level has been reached; inf if that is not known
    close: AnyArray  # whether the next trial is the crossing to rounding
    found: AnyArray
    never: AnyArray
    lost: AnyArray
    ended: AnyArray
    trials: AnyArray


def crossing(flow: Lines, distance: Float[AnyArray, "outputs n"], sought: Bool[AnyArray, " n"]) -> Crossing:
    """The first point at which the expectation of any values reaches a level that it is below at the start.

    Every ``x`` is convex along a flow: between two points it is below the larger end and above the tangent.
    That bounds what is above the level, and what is below; a step is taken where the one stays less than the
    other. It bounds the speeds ``u = (r - V) / x`` of the logits too, for ``V`` rises, and so by how much the
    odds, what is above over what is below in logarithms, bend: their second derivative is that of two
    ``logsumexp``, of which each is a variance of ``u``, at most ``max u^2``, and a mean of ``u' = u^2 -
    V'/x``, where ``V'/x <= sum mu u^2``. A step is also taken where that cannot bring them to zero. Else it
    is quartered, until no logit changes by more than a thousandth. Then as :func:`trained_crossing`.

    Args:
        flow: the problems.
        distance: of the values from the level; 0 for outputs that do not exist.
        sought: where to search at all.
    """
    xp = namespace(flow.logits, distance)

    def parts(distance: AnyArray, inertia: AnyArray | None) -> tuple[AnyArray, AnyArray]:
        """What is above the level, and what is below."""
        heavy = distance if inertia is None else inertia * distance
        return xp.maximum(heavy, 0.0), xp.maximum(-heavy, 0.0)

    def forever(at: State, of: Base, distance: AnyArray) -> AnyArray:
        """Whether the level is not reached from here on in the last segment.

        There the smallest ``x`` falls to zero, others of the best reward stay so far above it, and those of
        the rest move away. Of the best, those below the level that are no farther than the nearest above it
        gain on all that are: the ratios of their ``x`` grow.
        """
        above, below = parts(distance, of.inertia)
        best = of.ahead == 0.0
        most = xp.where(best, 0.0, above / xp.maximum(at.x - at.least, 1e-300)).sum(0)
        nearest = xp.where(best & (above > 0), at.x, xp.inf).min(0)
        leading = xp.where(best, above, 0.0).sum(0)
        holding = xp.where(best & (at.x <= nearest), below, 0.0)
        least = (holding / at.x).sum(0) - leading / nearest
        # A line that falls below all others only beyond the largest numbers is none of those that move away.
        return (of.ahead <= 0.0).all(0) & (most < least)

    def waiting(so_far: _Search) -> AnyArray:
        return ~(so_far.found | so_far.never | so_far.lost | so_far.ended)

    def attempt(given: tuple[Lines, AnyArray], so_far: _Search) -> _Search:
        flow, distance = given
        outputs, last, inertia = len(flow.modal), flow.last, flow.inertia
        above, below = parts(distance, inertia)
        segment, second = so_far.half // 2, so_far.half % 2 == 1
        following = xp.minimum(segment + 1, outputs - 1)
        of = base(flow, xp.where(second, following, segment))
        unit = width(of)
        far = _z_of(LARGEST, unit)
        middle = 0.5 * (pick(flow.breakpoints, following) - pick(flow.breakpoints, segment))
        middle = xp.where(segment < last, _z_of(middle, unit), far)
        bracketed = so_far.high < xp.inf
        end = xp.where(bracketed, xp.minimum(so_far.high, far), xp.where(second, 0.0, middle))
        low = xp.where(so_far.fresh, xp.where(second, -middle, 0.0), so_far.z)
        z = xp.minimum(low + so_far.step, end)
        before, offset = unit * xp.sinh(low), unit * xp.sinh(z)
        old, new = so_far.state, state(of, offset)
        odds = _odds(new, distance, inertia)

        # Is it certain that nothing is reached between?
        way = offset - before
        turns = (old.slope < 0) & (new.slope > 0)
        bottom = xp.where(turns, old.x + old.slope * way, xp.minimum(old.x, new.x))
        most = (above / xp.where(bottom > 0, bottom, 1e-300)).sum(0)
        certain = most < (below / xp.maximum(old.x, new.x)).sum(0)
        # Nor where the odds, which bend so much at most, are below zero at both ends by more than that.
        odds_before = _odds(old, distance, inertia)
        fastest = xp.maximum(xp.abs(old.slope), xp.abs(new.slope)) / xp.where(bottom > 0, bottom, 1e-300)
        squares = fastest**2 if inertia is None else inertia * fastest**2
        bend = (4.0 * fastest.max(0) ** 2 + 2.0 * squares.sum(0)) * way**2 / 8.0
        certain = new.sound & (certain | (xp.maximum(odds_before.log, odds.log) + bend < 0))
        small = new.sound & (xp.abs(xp.log(new.x / old.x)).max(0) < _SMALL)
        share = _peak(way, odds_before, odds)
        hidden = ~certain & small & (odds.log < 0) & (share < 1)
        reached = ~bracketed & ~certain & small & (odds.log >= 0)
        passed = ~bracketed & (certain | (small & (odds.log < 0) & ~hidden))
        at_end = passed & (z >= end)
        on = at_end & (so_far.half < 2 * last)
        tried = z - low
        shrunk = ~bracketed & ~passed & ~reached & (tried < _SHORTEST * (1.0 + xp.abs(low)))
        step = xp.where(on, xp.inf, xp.where(hidden, share, xp.where(passed, 4.0, 0.25)) * tried)

        # Bracketed, now or before. What is no number is too far.
        inside, lower = bracketed | reached, bracketed & new.sound & (odds.log < 0)
        high = xp.where(inside & ~lower, z, so_far.high)
        z_low = xp.where(passed | lower, z, low)
        root, close = _closer(z_low, xp.minimum(high, far), z, odds, unit, new.sound)
        found = so_far.close & bracketed & new.sound
        moved = passed | lower | found
        return _Search(
            half=xp.where(on, so_far.half + 1, so_far.half),
            fresh=on,
            z=z_low,
            offset=xp.where(moved, offset, before),
            state=chosen(moved, new, old),
            step=xp.where(inside, root - z_low, step),
            high=high,
            close=inside & close,
            found=found,
            never=passed & (so_far.half == 2 * last) & forever(new, of, distance),
            lost=(shrunk & new.sound) | (~found & (so_far.trials >= _MOST_TRIALS)),
            ended=(at_end & ~on) | (~new.sound & (shrunk | (so_far.close & bracketed))),
            trials=so_far.trials + 1,
        )

    no = xp.zeros(sought.shape, bool)
    zeros = xp.zeros(sought.shape)
    x = initial(flow)
    share = x.min(0) / x if flow.inertia is None else flow.inertia * x.min(0) / x
    value = (flow.rewards * share).sum(0) / share.sum(0)
    first = _Search(
        half=zeros.astype(int),
        fresh=~no,
        z=zeros,
        offset=zeros,
        state=State(x, x.min(0), value - flow.rewards, ~no),
        step=zeros + xp.inf,
        high=zeros + xp.inf,
        close=no,
        found=no,
        never=no,
        lost=no,
        ended=~sought,
        trials=zeros.astype(int),
    )
    end = search(waiting, attempt, (flow, distance), first)
    segment, second = end.half // 2, end.half % 2
    position = Position(xp.minimum(segment + second, len(flow.modal) - 1), end.offset)
    return Crossing(position, log_masses(flow, end.state.x), end.found, end.never, end.lost)


# Of small increases ----------------------------------------------------------------------

_SMALL_WAY = 1e-3  # change of a logit, in which an increase is all but linear in tau
_LINEAR_STEPS = 6  # each gains three digits


def small_increase(
    flow: Lines, values: Float[AnyArray, "outputs n"], increase: Float[AnyArray, " n"]
) -> tuple[Position, Bool[AnyArray, " n"]]:
    """Where an expectation has risen by so little that the level has lost it to rounding.

    Returns:
        The position, and whether the increase is that small.
    """
    xp = namespace(flow.logits, values)
    p, x, faster, lift = _at_start(flow, values)
    speed = (p / x * lift * faster).sum(0)
    tau = increase / xp.where(speed > 0, speed, 1.0)
    small = (increase > 0) & (speed > 0) & (tau * xp.abs(faster / x).max(0) < _SMALL_WAY)
    tau = small_way(flow, values, increase, xp.where(small, tau, 0.0))
    return Position(xp.zeros(tau.shape, int), tau), small


def _at_start(flow: Lines, values: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
    """Probabilities, ``x``, and rewards and values over their expectations, from the modal output's."""
    xp = namespace(flow.logits, values)
    log_p = flow.logits - flow.normalizer
    p, modal = xp.exp(log_p), log_p.argmax(0)

    def centred(of: AnyArray) -> AnyArray:
        relative = of - pick(of, modal)
        return relative - (p * relative).sum(0)

    return p, initial(flow), centred(flow.rewards), centred(values)


def small_way(
    flow: Lines,
    values: Float[AnyArray, "outputs n"],
    increase: Float[AnyArray, " n"],
    tau: Float[AnyArray, " n"],
) -> Float[AnyArray, " n"]:
    """The tau of a small increase, from one that is near: by Newton's method with the slope at the start."""
    xp = namespace(flow.logits, values)
    p, x, faster, lift = _at_start(flow, values)
    inertia = 1.0 if flow.inertia is None else flow.inertia
    speed = (p / x * lift * faster).sum(0)
    speed = xp.where(speed > 0, speed, 1.0)

    def closer(_: Any, carry: tuple[AnyArray, AnyArray]) -> tuple[AnyArray, AnyArray]:
        tau, shift = carry
        # Of x = x(0) + shift - rise tau, of which the product stays, in relative changes.
        for _ in range(2):
            change = (shift - faster * tau) / x
            residue = (inertia * xp.log1p(change)).sum(0)
            shift = shift - residue / (inertia / x / (1.0 + change)).sum(0)
        change = (shift - faster * tau) / x
        gain = -p * change / (1.0 + change)  # of E
        reached = (lift * gain).sum(0) / (1.0 + gain.sum(0))
        return tau + (increase - reached) / speed, shift

    return repeat(xp, _LINEAR_STEPS, closer, (tau, xp.zeros(tau.shape)))[0]
