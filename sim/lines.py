"""The flow of a tabular policy, solved: one root and one quadrature.

With ``E_y = exp(theta_y)``, ``Z = sum E`` (one at the start), and time counted by ``d tau = dt / Z``, the
reciprocals ``x_y = 1 / E_y`` move along straight lines but for one common shift::

    x_y(tau) = 1 / p_y - r_y tau + W(tau),    prod_y x_y = prod_y 1 / p_y,    t = integral of Z d tau,

because ``d theta_y / d tau = E_y (r_y - V)`` and the flow conserves the sum of the logits. At each ``tau``
one scalar equation gives the smallest ``x``; the rest is explicit. The output whose line is lowest,
``1 / p_y - r_y tau``, is the modal one: the lower envelope of the lines is the itinerary of the flow, and its
breakpoints are where one output takes over from another. ``dV / d tau > 0`` and every ``x_y`` is convex in
``tau``.

Everything here is of one prompt of weight one, for many problems at a time; arrays have the outputs first and
the problems last. :mod:`goodteacher.sim.solved` brings problems to this form.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_RAREST = -700.0  # log-probability; what is rarer comes up after all times that are numbers
_NODES = 40  # of the Gauss rule of a half segment
_GRADING = 4.0  # highest power by which nodes crowd towards a breakpoint
_LARGEST = 1e303
_ROUNDING = 4.0 * np.finfo(float).eps
_CLOSE = 1e-4  # step after which a method of third order is right to rounding
_MOST_STEPS = 60
_WARMING = 5  # passes, of two steps each, to find the smallest x at a first node


class Lines(NamedTuple):
    """Flows, and the lower envelopes of their lines.

    Attributes:
        logits: initial ones; an output that does not exist has one that is 700 below the normaliser, and the
            least reward.
        normalizer: ``ln sum exp(logits)``.
        rewards: of the outputs.
        breakpoints: of the envelope, the first at 0; ``inf`` after the last.
        modal: the lowest line from each breakpoint to the next.
    """

    logits: Float[Array, "outputs n"]
    normalizer: Float[Array, " n"]
    rewards: Float[Array, "outputs n"]
    breakpoints: Float[Array, "outputs n"]
    modal: Int[Array, "outputs n"]


class Position(NamedTuple):
    """A point of each flow: so far behind (or, if negative, before) a breakpoint."""

    anchor: Int[Array, " n"]
    offset: Float[Array, " n"]


class _Base(NamedTuple):
    """The lines at a breakpoint: their heights over the lowest, and rewards over those of two outputs."""

    gaps: Array
    ahead: Array  # over that of the output that is modal from here on
    behind: Array  # over that of the output that was modal before
    tau: Array


class _Product(NamedTuple):
    """A logarithm in two parts, ``log + ln 2 exponent``, of which one is exact."""

    log: Array
    exponent: Array

    @property
    def total(self) -> Array:
        return self.log + np.log(2.0) * self.exponent


class _Sums(NamedTuple):
    """What improves the smallest ``x``: ``ln prod p x``, and the sums of ``s = x_min / x`` and of squares."""

    excess: Array
    first: Array
    second: Array
    shares: Array


def _pick(rows: Array, index: Array) -> Array:
    return jnp.take_along_axis(rows, index[None], 0, mode="promise_in_bounds")[0]


def lines(logits: Float[Array, "outputs n"], rewards: Float[Array, "outputs n"]) -> Lines:
    """Envelopes of flows: from each modal output to the one whose line is the next to fall below."""
    normalizer = jax.nn.logsumexp(logits, axis=0)
    logits = jnp.maximum(logits, normalizer + _RAREST)
    modal = jnp.where(logits == logits.max(0), rewards, -jnp.inf).argmax(0)

    def follow(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        modal, tau = carry
        rise = rewards - _pick(rewards, modal)
        crossing = jnp.where(
            rise > 0, _height(logits, normalizer, modal) / jnp.where(rise > 0, rise, 1.0), jnp.inf
        )
        first = crossing.min(0)
        follower = jnp.where(crossing == first, rewards, -jnp.inf).argmax(0)
        found = first < _LARGEST
        modal = jnp.where(found, follower, modal)
        tau = jnp.where(found, jnp.maximum(first, tau), jnp.inf)
        return (modal, tau), (tau, modal)

    start = (modal, jnp.zeros(modal.shape))
    _, (taus, modals) = jax.lax.scan(follow, start, None, length=len(rewards) - 1)
    return Lines(
        logits,
        normalizer,
        rewards,
        jnp.concatenate([start[1][None], taus]),
        jnp.concatenate([modal[None], modals]),
    )


def _height(logits: Array, normalizer: Array, output: Array) -> Array:
    """``1 / p_y`` over that of an output, exact where the two are close."""
    of = _pick(logits, output)
    return jnp.exp(normalizer - of) * jnp.expm1(of - logits)


def _base(flow: Lines, anchor: Array) -> _Base:
    new, old = _pick(flow.modal, anchor), _pick(flow.modal, jnp.maximum(anchor - 1, 0))
    tau = _pick(flow.breakpoints, anchor)
    tau = jnp.where(tau < jnp.inf, tau, 0.0)
    ahead = flow.rewards - _pick(flow.rewards, new)
    behind = jnp.where(anchor > 0, flow.rewards - _pick(flow.rewards, old), ahead)
    # Over the line of the one to which it is closer: nothing that is equal to one of the two cancels.
    over_new = _height(flow.logits, flow.normalizer, new)
    over_old = jnp.where(anchor > 0, _height(flow.logits, flow.normalizer, old), over_new)
    closer = jnp.abs(over_old) < jnp.abs(over_new)
    height = jnp.where(closer, over_old, over_new)
    gaps = height - jnp.where(closer, behind, ahead) * tau
    gaps = jnp.where(gaps > _ROUNDING * jnp.abs(height), gaps, 0.0)
    output = jnp.arange(len(gaps))[:, None]
    meet = (output == new) | (output == old) & (anchor > 0)
    return _Base(jnp.where(meet, 0.0, gaps), ahead, behind, tau)


# The state ---------------------------------------------------------------------------

_MANTISSA = np.uint64((1 << 52) - 1)
_ONE = np.uint64(1023 << 52)
_SHIFTED = np.uint64(0x433 << 52)  # 2^52, of which the last bits are an integer


def _product(values: Array) -> _Product:
    """The product over the outputs by mantissas and exponents: one logarithm, and no overflow."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint64)
    mantissa = jax.lax.bitcast_convert_type((bits & _MANTISSA) | _ONE, jnp.float64)
    exponent = jax.lax.bitcast_convert_type(
        jax.lax.shift_right_logical(bits, np.uint64(52)) | _SHIFTED, jnp.float64
    )
    return _Product(jnp.log(mantissa.prod(0)), (exponent - (2.0**52 + 1023.0)).sum(0))


def _sums(gaps: Array, start: _Product, x: Array) -> _Sums:
    values = x + gaps
    shares = x / values
    product = jax.tree.map(jnp.add, _product(values), start)
    return _Sums(product.total, shares.sum(0), (shares * shares).sum(0), shares)


def _improved(x: Array, sums: _Sums) -> Array:
    """A better smallest ``x``: by Halley's method where it is near, else by Newton's for ``ln x``.

    The excess is convex in ``ln x``, so that Newton's method never fails from the right.
    """
    step = sums.excess / sums.first
    halley = 1.0 - step / (1.0 + 0.5 * step * sums.second / sums.first)
    return x * jnp.where(jnp.abs(step) < 0.5, halley, jnp.exp(-step))


class _Solution(NamedTuple):
    """The smallest ``x``, and whether it is right to rounding."""

    x: Array
    sound: Array


def _solve(gaps: Array, start: _Product) -> _Solution:
    def excess(carry: tuple[Array, Array, Array]) -> Array:
        _, step, trials = carry
        return (jnp.abs(step) > _CLOSE).any() & (trials < _MOST_STEPS)

    def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, trials = carry
        sums = _sums(gaps, start, x)
        return _improved(x, sums), sums.excess / sums.first, trials + 1

    x = _upper(gaps, start)
    x, step, _ = jax.lax.while_loop(excess, improve, (x, jnp.full(x.shape, jnp.inf), jnp.zeros((), int)))
    return _Solution(x, jnp.abs(step) <= _CLOSE)


def _upper(gaps: Array, start: _Product) -> Array:
    """No less than the smallest ``x``: every gap left out makes the product smaller."""
    positive = gaps > 0
    equal = len(gaps) - positive.sum(0)
    rest = jax.tree.map(jnp.add, _product(jnp.where(positive, gaps, 1.0)), start).total
    log_next = jnp.log(jnp.where(positive, gaps, jnp.inf).min(0))
    two = jnp.where(log_next < jnp.inf, (log_next - rest) / (equal + 1), jnp.inf)
    return jnp.exp(jnp.minimum(jnp.minimum(-rest / equal, two), -start.total / len(gaps)))


# Time --------------------------------------------------------------------------------


class _Rule(NamedTuple):
    """A Gauss rule on (0, 1), and how a function of the logarithm gets from each node to the next.

    The first node comes several times, for the smallest ``x`` to be found there; after the last comes 1;
    these have no weight.

    Attributes:
        log_node: ``[nodes]``.
        weight: ``[nodes]``, by the logarithm of the node.
        ahead: ``[nodes, 3]``, weights of the function's slopes at the three nodes before: of the integral of
            the parabola through them.
    """

    log_node: np.ndarray
    weight: np.ndarray
    ahead: np.ndarray


def _rule() -> _Rule:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    points = np.append((points + 1.0) / 2.0, 1.0)
    logs, weights = np.log(points), np.append(weights, 0.0) / 2.0 / points
    ahead = np.zeros((len(points), 3))
    for i in range(1, len(points)):
        known = logs[max(i - 3, 0) : i][::-1] - logs[i - 1]
        powers = np.arange(len(known))
        integrals = (logs[i] - logs[i - 1]) ** (powers + 1) / (powers + 1)
        ahead[i, : len(known)] = np.linalg.solve(known[None] ** powers[:, None], integrals)
    before = np.zeros(_WARMING)
    return _Rule(
        np.append(before + logs[0], logs),
        np.append(before, weights),
        np.append(before[:, None] + np.zeros(3), ahead, axis=0),
    )


def _grading(end: Array, start: _Product, way: Array) -> Array:
    """The power by which nodes crowd towards a breakpoint, where the integrand bends.

    In between it is a polynomial, of a degree that many outputs make large: the less of it is near the
    breakpoint, and the lower the power has to be for the rule to be exact.

    Args:
        end: gaps at the far end.
        start: of the product.
        way: by how much the gaps have changed since the breakpoint.
    """
    degree = (jnp.abs(way) / (end + _upper(end, start))).sum(0)
    # A whole number, for else the integrand has a root at the breakpoint.
    return jnp.clip(jnp.floor(_NODES / (1.0 + degree)), 1.0, _GRADING)


class _Piece(NamedTuple):
    """What happens from a breakpoint on, or up to it."""

    time: Array
    x: Array  # at the far end


def _piece(flow: Lines, start: _Product, anchor: Array, sign: Array, length: Array) -> _Piece:
    """From a breakpoint on (with sign -1: up to it) within one segment: the integral of the mass ``Z``."""
    rule = jax.tree.map(jnp.asarray, _rule())
    base = _base(flow, anchor)
    rise = sign * jnp.where(sign > 0, base.ahead, base.behind)

    def gaps(offset: Array) -> Array:
        return jnp.maximum(base.gaps - offset * rise, 0.0)

    power = _grading(gaps(length), start, length * rise)

    def node(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, slopes, total = carry
        share = jnp.exp(power * rule.log_node[i])
        offset = length * share
        here = gaps(offset)
        x = x * jnp.exp(jnp.clip(power * (rule.ahead[i] @ slopes), -30.0, 30.0))
        x = _improved(x, _sums(here, start, x))
        sums = _sums(here, start, x)
        # The mass where the excess vanishes, to the order of the method of Halley.
        bend = 0.5 * sums.excess * sums.second / sums.first**2
        mass = sums.first / x * (1.0 + bend) / (1.0 - bend)
        slope = offset * (rise * sums.shares).sum(0) / (sums.first * x)
        total = total + jnp.where(rule.weight[i] > 0, rule.weight[i] * share * mass, 0.0)
        return _improved(x, sums), jnp.stack([slope, slopes[0], slopes[1]]), total

    none = jnp.zeros(length.shape)
    first = _upper(gaps(length * jnp.exp(power * rule.log_node[0])), start)
    x, _, total = jax.lax.fori_loop(0, len(rule.weight), node, (first, jnp.zeros((3, *none.shape)), none))
    return _Piece(length * power * total, x + gaps(length))


class _Place(NamedTuple):
    """A position by the segment that it is in."""

    segment: Array
    behind: Array  # the segment's start
    before: Array  # its end
    half: Array  # of the segment's length
    late: Array  # whether in the second half


def _place(flow: Lines, position: Position) -> _Place:
    last = len(flow.modal) - 1
    taus = flow.breakpoints
    at = _pick(taus, position.anchor)
    segment = jnp.maximum((taus - at <= position.offset).sum(0) - 1, 0)
    following = jnp.minimum(segment + 1, last)
    start, end = _pick(taus, segment), _pick(taus, following)
    ends = (segment < last) & (end < jnp.inf)
    behind = jnp.where(segment == position.anchor, position.offset, position.offset + (at - start))
    before = jnp.where(following == position.anchor, -position.offset, (end - at) - position.offset)
    half = jnp.where(ends, 0.5 * (end - start), jnp.inf)
    return _Place(segment, behind, before, half, behind > half)


def time(flow: Lines, position: Position) -> Float[Array, " n"]:
    """When the flows are there: the integral of ``Z``, by halves of segments.

    Work is handed out by halves, so that no flow waits for one that has more of them.
    """
    start, place, count = _start(flow), _place(flow, position), position.offset.size
    pieces = 2 * place.segment + jnp.where(place.late, 3, 1)
    ends = jnp.cumsum(pieces)

    def hand_out(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        first, total = carry
        item = first + jnp.arange(count)
        on = item < ends[-1]
        owner = jnp.minimum(jnp.searchsorted(ends, item, side="right"), count - 1)
        own = jax.tree.map(lambda leaf: leaf[..., owner], flow)
        begun = jax.tree.map(lambda leaf: leaf[owner], start)
        its = jax.tree.map(lambda leaf: leaf[owner], place)
        number = item - (ends - pieces)[owner]
        extra = (
            number - 2 * its.segment
        )  # of the last segment: up to the middle, all from there, less the rest
        segment = jnp.where(extra < 0, number // 2, its.segment)
        second = jnp.where(extra < 0, number % 2 == 1, extra > 0)
        left = _pick(own.breakpoints, segment)
        right = _pick(own.breakpoints, jnp.minimum(segment + 1, len(own.modal) - 1))
        length = jnp.where(
            extra == 2, its.before, jnp.where((extra == 0) & ~its.late, its.behind, 0.5 * (right - left))
        )
        length = jnp.where(on, length, 0.0)
        spent = _piece(own, begun, segment + second, jnp.where(second, -1.0, 1.0), length).time
        spent = jnp.where(on, jnp.where(extra == 2, -spent, spent), 0.0)
        return first + count, total.at[owner].add(spent)

    none = jnp.zeros(())
    return jax.lax.while_loop(
        lambda carry: carry[0] < ends[-1], hand_out, (none.astype(ends.dtype), jnp.zeros(count))
    )[1]


def _start(flow: Lines) -> _Product:
    return _product(jnp.exp(flow.logits - flow.normalizer))


# States ------------------------------------------------------------------------------


class _State(NamedTuple):
    """Where flows are: all ``x``, the smallest one, and their slopes ``V - r`` by tau."""

    x: Array
    least: Array
    slope: Array
    sound: Array  # whether the smallest is found


def _rise(base: _Base, offset: Array) -> Array:
    """Rewards over that of the modal output of the segment."""
    return jnp.where(offset > 0, base.ahead, base.behind)


def _gaps(base: _Base, offset: Array) -> Array:
    """Heights of the lines over the lowest."""
    line = base.gaps - offset * _rise(base, offset)
    return line - jnp.minimum(line.min(0), 0.0)


def _state(base: _Base, start: _Product, offset: Array) -> _State:
    gaps, rise = _gaps(base, offset), _rise(base, offset)
    least, sound = _solve(gaps, start)
    x = least + gaps
    shares = least / x
    value = (shares * rise).sum(0) / shares.sum(0)
    return _State(x, least, value - rise, sound)


def _width(base: _Base, start: _Product) -> Array:
    """About the unit of tau at a breakpoint: that of a logit at the largest of their speeds."""
    least = _upper(base.gaps, start)
    least = _improved(least, _sums(base.gaps, start, least))
    x = least + base.gaps
    shares = least / x
    value = (shares * base.ahead).sum(0) / shares.sum(0)
    return 1.0 / jnp.maximum(jnp.abs((value - base.ahead) / x).max(0), 1.0 / _LARGEST)


# Goals -------------------------------------------------------------------------------

_QUADRATIC = 1e-8  # step after which Newton's method is right to rounding
_SMALL = 1e-3  # change of a logit, in which nothing hides
_SHORTEST = 1e-13
_MOST_TRIALS = 2000


class _Odds(NamedTuple):
    """The logarithm of what is above a level over what is below, and its slope by tau."""

    log: Array
    slope: Array


def _odds(state: _State, distance: Array) -> _Odds:
    shares = state.least / state.x
    speeds = -state.slope / state.x
    above, below = jnp.maximum(distance, 0.0) * shares, jnp.maximum(-distance, 0.0) * shares
    up, down = above.sum(0), below.sum(0)
    return _Odds(jnp.log(up / down), (above * speeds).sum(0) / up - (below * speeds).sum(0) / down)


_SMALL_WAY = 1e-3  # change of a logit, in which an increase is all but linear in tau
_LINEAR_STEPS = 6  # each gains three digits


def small_increase(
    flow: Lines, values: Float[Array, "outputs n"], increase: Float[Array, " n"]
) -> tuple[Position, Bool[Array, " n"]]:
    """Where an expectation has risen by so little that the level has lost it to rounding.

    Returns:
        The position, and whether the increase is that small.
    """
    p, rise, lift = _at_start(flow, values)
    speed = (p**2 * lift * rise).sum(0)
    tau = increase / jnp.where(speed > 0, speed, 1.0)
    small = (increase > 0) & (speed > 0) & (tau * jnp.abs(p * rise).max(0) < _SMALL_WAY)
    tau = _small_way(flow, values, increase, jnp.where(small, tau, 0.0))
    return Position(jnp.zeros(tau.shape, int), tau), small


def _at_start(flow: Lines, values: Array) -> tuple[Array, Array, Array]:
    """Probabilities, and rewards and values over their expectations, counted from the modal output's."""
    log_p = flow.logits - flow.normalizer
    p, modal = jnp.exp(log_p), jax.lax.stop_gradient(log_p).argmax(0)

    def centred(of: Array) -> Array:
        relative = of - _pick(of, modal)
        return relative - (p * relative).sum(0)

    return p, centred(flow.rewards), centred(values)


def _small_way(flow: Lines, values: Array, increase: Array, tau: Array) -> Array:
    """The tau of a small increase: by Newton's method with the slope at the start."""
    p, rise, lift = _at_start(flow, values)
    speed = (p**2 * lift * rise).sum(0)
    speed = jnp.where(speed > 0, speed, 1.0)

    def closer(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        tau, shift = carry
        # Of x = 1 / p + shift - rise tau, of which the product stays, in relative changes.
        for _ in range(2):
            change = p * (shift - rise * tau)
            shift = shift - jnp.log1p(change).sum(0) / (p / (1.0 + change)).sum(0)
        change = p * (shift - rise * tau)
        gain = -p * change / (1.0 + change)  # of E
        reached = (lift * gain).sum(0) / (1.0 + gain.sum(0))
        return tau + (increase - reached) / speed, shift

    return jax.lax.fori_loop(0, _LINEAR_STEPS, closer, (tau, jnp.zeros(tau.shape)))[0]


def _peak(width: Array, before: _Odds, after: _Odds) -> Array:
    """At which share of a step the cubic through both ends has a maximum above zero; inf without one."""
    a, b, climb = before.slope * width, after.slope * width, after.log - before.log
    cubic, square = a + b - 2.0 * climb, 3.0 * climb - 2.0 * a - b
    share = a / (jnp.sqrt(square**2 - 3.0 * cubic * a) - square)
    top = before.log + share * (a + share * (square + share * cubic))
    return jnp.where((share > 0.0) & (share < 0.99) & (top > 0), share, jnp.inf)


def _chosen(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), new, old)


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
    log_masses: Float[Array, "outputs n"]
    found: Bool[Array, " n"]
    never: Bool[Array, " n"]
    lost: Bool[Array, " n"]


class _Search(NamedTuple):
    """How far a flow is known not to have reached the level, and how far it is known to have."""

    half: Array  # of a segment
    fresh: Array  # whether it has just come to that half
    z: Array  # asinh(offset / width) from the breakpoint of the half
    offset: Array  # of z
    state: _State  # at z
    step: Array  # of z, to try
    high: Array  # z at which the level has been reached; inf if that is not known
    close: Array  # whether the next trial is the crossing to rounding
    found: Array
    never: Array
    lost: Array
    ended: Array
    trials: Array


def crossing(flow: Lines, distance: Float[Array, "outputs n"], trained: Bool[Array, " n"]) -> Crossing:
    """The first point at which the expectation of any values reaches a level that it is below at the start.

    Every ``x`` is convex along a flow: between two points it is below the larger end and above the tangent.
    That bounds what is above the level, and what is below; a step is taken where the one stays less than the
    other, and else quartered, until no logit changes by more than a thousandth. Expectations of the rewards
    that are trained on only rise, and cross near the breakpoint where an output above the level comes up.

    Then by Newton's method for the logarithm of what is above over what is below, which is nearly linear in
    ``asinh(offset / width)``.

    Args:
        flow: the problems.
        distance: of the values from the level; 0 for outputs that do not exist.
        trained: whether these are values of the rewards; the level is then below the best of them.
    """
    start = _start(flow)
    outputs = len(flow.modal)
    last = (flow.breakpoints < jnp.inf).sum(0) - 1
    above, below = jnp.maximum(distance, 0.0), jnp.maximum(-distance, 0.0)

    def forever(state: _State, base: _Base, half: Array) -> Array:
        """Whether the level is not reached from here on: in the last segment only the modal output rises."""
        best = base.ahead == 0.0
        most = jnp.where(best, jnp.inf, 1.0 / jnp.maximum(state.x - state.least, 1e-300))
        highest = jnp.where(above > 0, above * most, 0.0).sum(0)
        return (half == 2 * last) & (highest < jnp.where(best, below / state.x, 0.0).sum(0))

    def waiting(search: _Search) -> Array:
        return ~(search.found | search.never | search.lost | search.ended)

    def attempt(search: _Search) -> _Search:
        segment, second = search.half // 2, search.half % 2 == 1
        following = jnp.minimum(segment + 1, outputs - 1)
        anchor = jnp.where(second, following, segment)
        base = _base(flow, anchor)
        width = _width(base, start)
        far = jnp.arcsinh(jnp.minimum(_LARGEST / width, _LARGEST))
        middle = 0.5 * (_pick(flow.breakpoints, following) - _pick(flow.breakpoints, segment))
        middle = jnp.where(segment < last, jnp.arcsinh(middle / width), far)
        bracketed = search.high < jnp.inf
        end = jnp.where(bracketed, jnp.minimum(search.high, far), jnp.where(second, 0.0, middle))
        low = jnp.where(search.fresh, jnp.where(second, -middle, 0.0), search.z)
        # Of the trained rewards, from the breakpoint, which may be behind the start of the segment.
        at_once = search.fresh & bracketed
        low = jnp.where(at_once, -jnp.arcsinh(base.tau / width), low)
        z = jnp.where(at_once, 0.0, jnp.minimum(low + search.step, end))
        before, offset = width * jnp.sinh(low), width * jnp.sinh(z)
        old, new = search.state, _state(base, start, offset)
        odds = _odds(new, distance)

        # Is it certain that nothing is reached between?
        way = offset - before
        turns = (old.slope < 0) & (new.slope > 0)
        bottom = jnp.where(turns, old.x + old.slope * way, jnp.minimum(old.x, new.x))
        most = (above / jnp.where(bottom > 0, bottom, 1e-300)).sum(0)
        certain = new.sound & (most < (below / jnp.maximum(old.x, new.x)).sum(0))
        small = new.sound & (jnp.abs(jnp.log(new.x / old.x)).max(0) < _SMALL)
        share = _peak(way, _odds(old, distance), odds)
        hidden = ~certain & small & (odds.log < 0) & (share < 1)
        reached = ~bracketed & ~certain & small & (odds.log >= 0)
        passed = ~bracketed & (certain | (small & (odds.log < 0) & ~hidden))
        at_end = passed & (z >= end)
        on = at_end & (search.half < 2 * last)
        tried = z - low
        shrunk = ~bracketed & ~passed & ~reached & (tried < _SHORTEST * (1.0 + jnp.abs(low)))
        step = jnp.where(on, jnp.inf, jnp.where(hidden, share, jnp.where(passed, 4.0, 0.25)) * tried)

        # Bracketed, now or before.
        inside = bracketed | reached
        lower = bracketed & new.sound & (odds.log < 0)
        # What is no number is too far.
        high = jnp.where(inside & ~(odds.log < 0), z, search.high)
        z_low = jnp.where(passed | lower, z, low)
        move = -odds.log / (odds.slope * width * jnp.cosh(z))
        root = z + jnp.clip(move, -5.0, 5.0 + 0.5 * jnp.abs(z))
        near = jnp.abs(root - z) <= _QUADRATIC * (1.0 + jnp.abs(z))
        within = new.sound & (((root > z_low) & (root < high)) | near)
        root = jnp.where(within, root, 0.5 * (z_low + jnp.minimum(high, far)))
        found = search.close & bracketed & new.sound
        moved = passed | lower | found
        return _Search(
            half=jnp.where(on, search.half + 1, search.half),
            fresh=on,
            z=z_low,
            offset=jnp.where(moved, offset, before),
            state=_chosen(moved, new, old),
            step=jnp.where(inside, root - z_low, step),
            high=high,
            close=inside & (near | (high - z_low <= _QUADRATIC * _QUADRATIC * (1.0 + jnp.abs(z)))),
            found=found,
            never=passed & forever(new, base, search.half),
            lost=(shrunk & new.sound) | (~found & (search.trials >= _MOST_TRIALS)),
            ended=(at_end & ~on) | (~new.sound & (shrunk | (search.close & bracketed))),
            trials=search.trials + 1,
        )

    zeros = jnp.zeros(last.shape)
    no = zeros > 0
    x = jnp.exp(flow.normalizer - flow.logits)
    value = (flow.rewards / x).sum(0)
    modal = jnp.take_along_axis(distance, flow.modal, 0, mode="promise_in_bounds")
    anchor = ((modal > 0) & (flow.breakpoints < jnp.inf)).argmax(0)
    search = _Search(
        half=jnp.where(trained, 2 * anchor, 0),
        fresh=~no,
        z=zeros,
        offset=zeros,
        state=_State(x, x.min(0), value - flow.rewards, ~no),
        step=zeros + jnp.inf,
        high=jnp.where(trained, _LARGEST, jnp.inf),
        close=no,
        found=no,
        never=no,
        lost=no,
        ended=no,
        trials=zeros.astype(int),
    )
    search = jax.lax.while_loop(
        lambda search: waiting(search).any(),
        lambda search: _chosen(waiting(search), attempt(search), search),
        search,
    )
    segment, second = search.half // 2, search.half % 2
    position = Position(jnp.minimum(segment + second, outputs - 1), search.offset)
    return Crossing(position, -jnp.log(search.state.x), search.found, search.never, search.lost)


# Positions at given times --------------------------------------------------------------


class _Journey(NamedTuple):
    """A flow on its way to a time."""

    half: Array  # of a segment
    begun: Array  # the time at its start
    ended: Array  # the time at its end
    there: Array  # whether the time is in that half
    log: Array  # of the offset from the half's breakpoint, to try
    low: Array
    high: Array
    close: Array  # whether the next trial is right to rounding
    x: Array
    done: Array
    trials: Array


def at_time(flow: Lines, time: Float[Array, " n"]) -> tuple[Position, Float[Array, "outputs n"]]:
    """Where the flows are at given times, and ``ln E`` there.

    Half by half of the segments; in the one that holds the time, by Newton's method for the logarithm of the
    integral from its breakpoint, as a function of that of the offset.
    """
    start = _start(flow)
    outputs = len(flow.modal)
    last = (flow.breakpoints < jnp.inf).sum(0) - 1

    def places(half: Array) -> tuple[Array, Array, Array]:
        """Anchor, sign and length of a half."""
        segment, second = half // 2, half % 2 == 1
        following = jnp.minimum(segment + 1, outputs - 1)
        length = 0.5 * (_pick(flow.breakpoints, following) - _pick(flow.breakpoints, segment))
        return jnp.where(second, following, segment), jnp.where(second, -1.0, 1.0), length

    def go(journey: _Journey) -> _Journey:
        anchor, sign, whole = places(journey.half)
        there = journey.there
        length = jnp.where(there, jnp.exp(journey.log), whole)
        piece = _piece(flow, start, anchor, sign, length)

        # In the half that holds the time.
        target = jnp.where(sign > 0, time - journey.begun, journey.ended - time)
        miss = jnp.log(piece.time / jnp.where(target > 0, target, 1.0))
        # What is no number is too far.
        low = jnp.where(miss <= 0, journey.log, journey.low)
        high = jnp.where(miss < 0, journey.high, journey.log)
        moved = journey.log - miss * piece.time / (length * (1.0 / piece.x).sum(0))
        moved = jnp.where((moved >= low) & (moved <= high), moved, 0.5 * (low + high))

        # On the way to it.
        ended = journey.begun + piece.time
        on = ~there & (ended < time)
        half = jnp.where(on, journey.half + 1, journey.half)
        begun = jnp.where(on, ended, journey.begun)
        endless = half == 2 * last
        left = jnp.where(sign > 0, time - begun, ended - time)
        inside = jnp.log(whole) + jnp.log(jnp.maximum(left / piece.time, 1e-300))
        beyond = jnp.log(jnp.maximum((time - begun) * piece.x.min(0), 1e-300))
        return _Journey(
            half,
            begun,
            jnp.where(there, journey.ended, ended),
            there | ~on | endless,
            jnp.where(there, moved, jnp.where(endless, beyond, inside)),
            jnp.where(there, low, -700.0),
            jnp.where(there, high, jnp.where(endless, np.log(_LARGEST), jnp.log(whole))),
            there & (jnp.abs(moved - journey.log) <= _QUADRATIC),
            piece.x,
            journey.close,
            journey.trials + 1,
        )

    def under_way(journey: _Journey) -> Array:
        return ~journey.done & (journey.trials < 2 * outputs + _MOST_STEPS)

    zeros = jnp.zeros(last.shape)
    at_start = time <= 0
    journey = _Journey(
        half=zeros.astype(int),
        begun=zeros,
        ended=zeros,
        there=last == 0,
        log=jnp.log(jnp.where(at_start, 1.0, time)),
        low=zeros - 700.0,
        high=zeros + np.log(_LARGEST),
        close=zeros > 0,
        x=jnp.exp(flow.normalizer - flow.logits),
        done=at_start,
        trials=zeros.astype(int),
    )
    journey = jax.lax.while_loop(
        lambda journey: under_way(journey).any(),
        lambda journey: _chosen(under_way(journey), go(journey), journey),
        journey,
    )
    anchor, sign, _ = places(journey.half)
    return Position(anchor, jnp.where(at_start, 0.0, sign * jnp.exp(journey.log))), -jnp.log(journey.x)


# Derivatives -----------------------------------------------------------------------------
#
# What follows is not how positions and times are found but how they change with the problem: from values
# that are held fixed, one step of Halley's method, or two of Newton's, have the first and second derivatives
# of what they converge to. The nodes of the integral move with the breakpoints, about which the mass bends.


def _fixed(tree: Any) -> Any:
    return jax.tree.map(jax.lax.stop_gradient, tree)


def _with_derivatives(value: Array, formula: Array) -> Array:
    return jax.lax.stop_gradient(value - formula) + formula


def _smooth_state(flow: Lines, base: _Base, start: _Product, offset: Array) -> _State:
    rise = _rise(base, offset)
    line = base.gaps - offset * rise
    lowest = _fixed(line).argmin(0)
    gaps = line - jnp.where(_pick(_fixed(line), lowest) < 0, _pick(line, lowest), 0.0)
    least, sound = _fixed(_solve(_fixed(gaps), start))
    excess = (jnp.log(least + gaps) + flow.logits - flow.normalizer).sum(0)
    excess = excess - jax.lax.stop_gradient(excess)
    shares = least / (least + gaps)
    first, second = shares.sum(0), (shares**2).sum(0)
    least = least * (1.0 - excess / (first + 0.5 * excess * second / first))
    x = least + gaps
    shares = least / x
    return _State(x, least, (shares * rise).sum(0) / shares.sum(0) - rise, sound)


def _smooth_time(flow: Lines, position: Position) -> Array:
    """:func:`time`, by all halves of all segments, those with nothing to add too."""
    start, place = _fixed(_start(flow)), _place(flow, position)
    rule = _rule()
    logs, weights = (jnp.asarray(of[_WARMING:-1]) for of in (rule.log_node, rule.weight))
    last = len(flow.modal) - 1

    def piece(anchor: Array, sign: Array, length: Array) -> Array:
        base = _base(flow, anchor)
        end = _fixed(sign * length)
        power = _fixed(_grading(_gaps(base, end), start, end * _rise(base, end)))

        def node(total: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
            log, weight = at
            share = jnp.exp(power * log)
            state = _smooth_state(flow, base, start, sign * length * share)
            return total + weight * share * (1.0 / state.x).sum(0), None

        return length * power * jax.lax.scan(node, jnp.zeros(length.shape), (logs, weights))[0]

    def add(total: Array, number: Array) -> tuple[Array, None]:
        before = number // 2
        extra = number - 2 * last
        segment = jnp.where(extra < 0, before, place.segment)
        second = jnp.where(extra < 0, number % 2 == 1, extra > 0)
        following = jnp.minimum(segment + 1, last)
        on = jnp.where(extra < 0, before < place.segment, (extra == 0) | place.late)
        whole = 0.5 * (_pick(flow.breakpoints, following) - _pick(flow.breakpoints, segment))
        length = jnp.where((extra == 0) & ~place.late, place.behind, whole)
        length = jnp.where(on, jnp.where(extra == 2, place.before, length), 0.0)
        spent = piece(jnp.where(second, following, segment), jnp.where(second, -1.0, 1.0), length)
        return total + jnp.where(extra == 2, -1.0, 1.0) * jnp.where(on, spent, 0.0), None

    return jax.lax.scan(add, jnp.zeros(place.behind.shape), jnp.arange(2 * last + 3))[0]


def _smooth_root(flow: Lines, position: Position, distance: Array) -> Array:
    """The offset at which the expectation of the distance vanishes."""
    base, start, offset = _base(flow, position.anchor), _fixed(_start(flow)), _fixed(position.offset)
    first = None
    for _ in range(2):
        state = _smooth_state(flow, base, start, offset)
        shares = state.least / state.x
        gap = (distance * shares).sum(0)
        # The root is exact where the derivative is taken.
        first = jax.lax.stop_gradient(gap) if first is None else first
        rate = -(distance * shares * state.slope / state.x).sum(0)
        centre = (shares * state.slope / state.x).sum(0) / shares.sum(0)
        offset = offset - (gap - first) / (rate + gap * centre)
    return offset


class Target(NamedTuple):
    """What an expectation is to reach.

    Attributes:
        distance: of the values from the level; 0 for outputs that do not exist.
        values: themselves.
        increase: of their expectation, where it is small; else nothing depends on it.
        small: whether it is.
    """

    distance: Float[Array, "outputs n"]
    values: Float[Array, "outputs n"]
    increase: Float[Array, " n"]
    small: Bool[Array, " n"]


@jax.custom_jvp
def crossing_time(
    flow: Lines, target: Target, position: Position, found: Bool[Array, " n"]
) -> Float[Array, " n"]:
    """When flows are at a position, as a function of the target that is met there; constant where none is."""
    return time(flow, position)


@crossing_time.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    flow, target, position, found = primals

    def smooth(of: Lines, to: Target) -> Array:
        of = of._replace(modal=flow.modal)
        offset = jnp.where(
            target.small,
            _small_way(of, to.values, to.increase, jnp.where(target.small, _fixed(position.offset), 0.0)),
            _smooth_root(of, position, to.distance),
        )
        return jnp.where(found, _smooth_time(of, Position(position.anchor, offset)), 0.0)

    _, tangent = jax.jvp(smooth, (flow, target), tangents[:2])
    return crossing_time(*primals), tangent


@jax.custom_jvp
def path(flow: Lines, time: Float[Array, " n"]) -> Float[Array, "outputs n"]:
    """``ln E`` where flows are at given times: logits, of the sum that the flow conserves. Differentiable."""
    return at_time(flow, time)[1]


@path.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    flow, at = primals
    position, log_masses = _fixed(at_time(*_fixed(primals)))

    def smooth(of: Lines, at: Array) -> Array:
        of = of._replace(modal=flow.modal)
        start, offset = _fixed(_start(of)), _fixed(position.offset)
        base = _base(of, position.anchor)
        first = None
        for _ in range(2):
            spent = _smooth_time(of, Position(position.anchor, offset)) - at
            first = jax.lax.stop_gradient(spent) if first is None else first
            offset = offset - (spent - first) / (1.0 / _smooth_state(of, base, start, offset).x).sum(0)
        return -jnp.log(_smooth_state(of, base, start, offset).x)

    _, tangent = jax.jvp(smooth, (flow, at), tangents[:2])
    return log_masses, tangent
