"""Where flows that are straight lines (:mod:`goodteacher.sim.lines`) are at given times.

The inverse of :func:`goodteacher.sim.quadrature.time`: which half of a segment holds a time, and where in it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from goodteacher.sim.lines import (
    LARGEST,
    QUADRATIC,
    Base,
    Lines,
    Position,
    base,
    log_masses,
    state,
    upper,
    width,
)
from goodteacher.sim.loops import repeat, repeat_while, search
from goodteacher.sim.quadrature import Half, Rule, gauss_rule, half, integral, rate_of_time, rule
from goodteacher.sim.validation import AnyArray, namespace

_NEAR = 1e-2  # step after which a search goes on with the better rule
_MOST_TRIALS = 60
_WIDEST = 1 << 14  # outputs side by side, from which nothing is gained by more
_COARSE_NODES = 14  # of the rule by which a time is searched for, before it is found with that of its half
_PLACES = 96  # between which the rate under a clock is taken for a power, to foresee where a time is
_BEYOND = 1e3  # how much farther than of the gradient that may be
_CUBIC = 1e-5  # step after which Halley's method is right to rounding, however many outputs there are


class _Walk(NamedTuple):
    """From half to half of the segments, up to given times.

    Attributes:
        number: of the next half.
        ended: when the flows are there.
        half: for each time ``[times, n]``, the half that holds it.
        begun: the time at the start of that half.
        end: the time at its end.
    """

    number: AnyArray
    ended: AnyArray
    half: AnyArray
    begun: AnyArray
    end: AnyArray


def at_times(
    flow: Lines, times: Float[AnyArray, "times n"]
) -> tuple[Position, Float[AnyArray, "outputs times n"]]:
    """Where the flows are at given times, and ``ln E`` there.

    The halves of the segments are integrated once for all times; in the one that holds a time, it is found by
    Newton's method: for all times side by side where these are few, for one after the other else.
    """
    xp = namespace(flow.logits, times)
    count = len(times)
    walk = _walk(flow, times)
    if xp is np or count * flow.logits.size <= _WIDEST:
        wide = jax.tree.map(lambda leaf: xp.tile(leaf, count), flow)
        found = _at_time(wide, times.ravel(), jax.tree.map(xp.ravel, walk))
        return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-1], *times.shape), found)
    each = (times, walk.half, walk.begun, walk.end)

    def look(at: tuple[AnyArray, ...]) -> tuple[Position, AnyArray]:
        return _at_time(flow, at[0], walk._replace(half=at[1], begun=at[2], end=at[3]))

    position, masses = jax.lax.map(look, each)
    return position, jnp.moveaxis(masses, 0, 1)


def _walk(flow: Lines, times: AnyArray) -> _Walk:
    xp = namespace(flow.logits, times)
    halves, latest = 2 * flow.last, times.max(0)
    count, side = halves.size, 1
    if xp is np:
        side = int(np.clip(_WIDEST // flow.logits.size, 1, max(halves.max(), 1)))

    def wide(leaf: AnyArray) -> AnyArray:
        return leaf if side == 1 else xp.tile(leaf, side)

    several = jax.tree.map(wide, flow)

    def go(walk: _Walk) -> _Walk:
        numbers = walk.number + xp.arange(side)[:, None] + xp.zeros(count, int)
        over = half(several, xp.minimum(numbers, halves).ravel())
        # The last segment has no end.
        on = numbers < halves
        over = over._replace(length=xp.where(on.ravel(), over.length, 0.0))
        spent = integral(several, over, rule(flow)).reshape(side, count)
        # What is no number is beyond all times.
        spent = xp.where(on & ~xp.isnan(spent), spent, xp.inf)
        ends = walk.ended + xp.cumsum(spent, axis=0)
        past = ends[:, None] < times
        return _Walk(
            walk.number + side,
            ends[-1],
            walk.half + past.sum(0),
            xp.maximum(walk.begun, xp.where(past, ends[:, None], 0.0).max(0)),
            xp.minimum(walk.end, xp.where(past, xp.inf, ends[:, None]).min(0)),
        )

    none = xp.zeros(times.shape)
    walk = _Walk(xp.zeros((), int), xp.zeros(count), none.astype(int), none, none + xp.inf)
    return repeat_while(xp, lambda walk: ((walk.number < halves) & (walk.ended < latest)).any(), go, walk)


class _Search(NamedTuple):
    """For a time in its half of a segment, by the length of the stretch from one of its ends.

    Attributes:
        log: of the length, to try.
        low: of one that is too short.
        high: of one that is too long.
        step: the last one.
        trials: so far.
        known: the length of a stretch whose time is known.
        spent: that time.
    """

    log: AnyArray
    low: AnyArray
    high: AnyArray
    step: AnyArray
    trials: AnyArray
    known: AnyArray
    spent: AnyArray


def _foreseen(
    flow: Lines, over: Half, of: Base, reach: AnyArray, target: AnyArray, outwards: AnyArray
) -> AnyArray:
    """The logarithm of about the length of the stretch that takes a time, under a clock.

    Args:
        flow: the problems.
        over: the half that holds the time.
        of: its breakpoint.
        reach: no place farther from there is looked at.
        target: the time, from the breakpoint on, or from the other end of the half.
        outwards: which of the two.
    """
    xp = namespace(flow.logits, target)
    unit = width(of)
    far = xp.arcsinh(xp.minimum(reach / unit, LARGEST))
    step = far / _PLACES

    def rate(i: Any) -> AnyArray:
        z = xp.where(outwards, i * step, far - i * step)
        x = state(of, over.sign * unit * xp.sinh(z)).x
        return xp.log(rate_of_time(flow, x) * unit * xp.cosh(z) * step)

    def go(i: Any, carry: tuple[AnyArray, AnyArray, AnyArray]) -> tuple[AnyArray, AnyArray, AnyArray]:
        spent, before, found = carry
        after = rate(i + 1.0)
        growth = after - before
        growth = xp.where(xp.abs(growth) < 1e-6, 1e-6, growth)
        more = xp.exp(before) * xp.expm1(growth) / growth
        share = xp.log1p((target - spent) / xp.exp(before) * growth) / growth
        here = (spent < target) & (spent + more >= target)
        return spent + more, after, xp.where(here, (i + share) * step, found)

    *_, found = repeat(xp, _PLACES, go, (xp.zeros(target.shape), rate(0.0), far))
    length = xp.where(outwards, xp.sinh(found), xp.sinh(far) - xp.sinh(far - found))
    return xp.log(unit * length)


def _at_time(flow: Lines, time: AnyArray, walk: _Walk) -> tuple[Position, AnyArray]:
    """Where the flows are at times of which the half is known."""
    xp = namespace(flow.logits, time)
    whole = half(flow, walk.half)
    of = base(flow, whole.anchor)
    endless, at_start = walk.half == 2 * flow.last, time <= 0
    # From the end of the half to which the time is closer: nothing that is known cancels.
    since, before = time - walk.begun, walk.end - time
    from_start = since <= before
    target = xp.where(from_start, since, before)
    outwards = from_start == (whole.sign > 0)  # from the breakpoint
    longest = xp.where(endless, np.log(LARGEST), xp.log(whole.length))
    share = xp.log(xp.maximum(target / (walk.end - walk.begun), 1e-300))
    beyond = xp.log(xp.maximum(target * upper(of.gaps, of), 1e-300))
    first = _Search(
        log=xp.where(endless, beyond, longest + share),
        low=xp.full(time.shape, -700.0),
        high=longest,
        step=xp.where(at_start, 0.0, xp.inf),
        trials=xp.zeros(time.shape, int),
        known=xp.zeros(time.shape),
        spent=xp.zeros(time.shape),
    )

    if flow.clocked is not None:
        reach = xp.where(endless, xp.minimum(_BEYOND * xp.exp(beyond), LARGEST), whole.length)
        near = _foreseen(flow, whole, of, reach, target, outwards)
        first = first._replace(log=xp.where((near > first.low) & (near < first.high), near, first.log))

    def offset(whole: Half, outwards: AnyArray, log: AnyArray) -> AnyArray:
        length = xp.exp(log)
        return whole.sign * xp.where(outwards, length, xp.maximum(whole.length - length, 0.0))

    def nearer(given: tuple[Lines, Half, Base, AnyArray, AnyArray], way: _Search, nodes: Rule) -> _Search:
        flow, whole, of, target, outwards = given
        length, here = xp.exp(way.log), offset(whole, outwards, way.log)
        known, spent = xp.zeros(length.shape), xp.zeros(length.shape)
        if flow.clocked is not None:
            # On from the last place, where that is near: panels are many, and next to none between trials.
            near = (way.known <= 2.0 * length) & (way.spent > 0) & (way.spent < xp.inf)
            known, spent = xp.where(near, way.known, 0.0), xp.where(near, way.spent, 0.0)
        shorter, longer = xp.minimum(known, length), xp.maximum(known, length)
        start = xp.where(outwards, shorter, xp.maximum(whole.length - longer, 0.0))
        more = integral(flow, whole._replace(start=start, length=longer - shorter), nodes)
        spent = spent + xp.where(length >= known, more, -more)
        # Of the logarithm of the integral, as a function of that of the length.
        miss = xp.log(spent / xp.where(target > 0, target, 1.0))
        # What is no number is too far.
        low = xp.where(miss <= 0, way.log, way.low)
        high = xp.where(miss < 0, way.high, way.log)
        at = state(of, here)
        rate = rate_of_time(flow, at.x)
        growth = length * rate / spent
        step = miss / growth
        if flow.clocked is None:
            # By Halley's method: the rate is the mass, of which the slope is known too.
            masses = (1.0 if flow.inertia is None else flow.inertia) / at.x
            slope = whole.sign * xp.where(outwards, -1.0, 1.0) * (masses * at.slope / at.x).sum(0)
            bend = 1.0 + length * slope / rate - growth
            step = step / (1.0 - xp.clip(0.5 * step * bend, -0.5, 0.5))
        moved = way.log - step
        moved = xp.where((moved >= low) & (moved <= high), moved, 0.5 * (low + high))
        return _Search(moved, low, high, xp.abs(moved - way.log), way.trials + 1, length, spent)

    def found(way: _Search, nodes: Rule, close: float) -> _Search:
        def far(way: _Search) -> AnyArray:
            return (way.step > close) & (way.trials < _MOST_TRIALS)

        return search(far, partial(nearer, nodes=nodes), (flow, whole, of, target, outwards), way)

    way, close = first, QUADRATIC
    if flow.clocked is None:
        way, close = first._replace(log=found(way, gauss_rule(_COARSE_NODES), _NEAR).log), _CUBIC
    ahead = offset(whole, outwards, found(way, rule(flow), close).log)
    position = Position(whole.anchor, xp.where(at_start, 0.0, ahead))
    return position, log_masses(flow, state(of, position.offset).x)
