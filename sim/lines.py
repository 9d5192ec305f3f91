"""The flow of a tabular policy as straight lines: where it is at each ``tau``.

With ``E_y = exp(theta_y)``, ``Z = sum E`` (one at the start), and time counted by ``d tau = dt / Z``, the
reciprocals ``x_y = 1 / E_y`` move along straight lines but for one common shift::

    x_y(tau) = 1 / p_y - r_y tau + W(tau),    prod_y x_y = prod_y 1 / p_y,    t = integral of Z d tau,

because ``d theta_y / d tau = E_y (r_y - V)`` and the flow conserves the sum of the logits. At each ``tau``
one scalar equation gives the smallest ``x``; the rest is explicit. The output whose line is lowest,
``1 / p_y - r_y tau``, is the modal one: the lower envelope of the lines is the itinerary of the flow, and its
breakpoints are where one output takes over from another. ``dV / d tau > 0`` and every ``x_y`` is convex in
``tau``.

Logits may differ in how fast they move, ``d theta_y / d tau = E_y (r_y - V) / mu_y``, as those of orthogonal
features do, ``mu_y`` being one over the squared norm. Then ``x_y = mu_y / E_y``, the lines start at
``mu_y / p_y``, and ``sum mu_y ln x_y`` is conserved.

Everything here is of one prompt of weight one, for many problems at a time; arrays have the outputs first and
the problems last, and may be NumPy's (nothing is compiled) or JAX's. Goals are met in
:mod:`goodteacher.sim.crossings`, time is told in :mod:`goodteacher.sim.quadrature`, derivatives are taken in
:mod:`goodteacher.sim.sensitivities`, and :mod:`goodteacher.sim.solved` brings problems to this form.
"""

import operator
from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from goodteacher.sim.clocks import Clocked
from goodteacher.sim.loops import fixed, repeat_while
from goodteacher.sim.validation import AnyArray, namespace

LARGEST = 1e303
_RAREST = -700.0  # log-probability; what is rarer comes up after all times that are numbers
_ROUNDING = 4.0 * np.finfo(float).eps
QUADRATIC = 1e-8  # step after which Newton's method is right to rounding
_CLOSE = 1e-4  # step after which a method of third order is right to rounding
_MOST_STEPS = 60


class Lines(NamedTuple):
    """Flows, and the lower envelopes of their lines.

    Attributes:
        logits: initial ones; an output that does not exist has one that is 700 below the normaliser, and the
            least reward.
        normalizer: ``ln sum exp(logits)``.
        rewards: of the outputs.
        inertia: ``mu``; ``None`` if that is one everywhere.
        start: the conserved product, of ``1 / x``.
        breakpoints: of the envelope, the first at 0; ``inf`` after the last.
        modal: the lowest line from each breakpoint to the next.
        clocked: what estimator is followed; ``None`` for the gradient. It changes no line, only the time.
    """

    logits: Float[AnyArray, "outputs n"]
    normalizer: Float[AnyArray, " n"]
    rewards: Float[AnyArray, "outputs n"]
    inertia: Float[AnyArray, "outputs n"] | None
    start: "Product"
    breakpoints: Float[AnyArray, "outputs n"]
    modal: Int[AnyArray, "outputs n"]
    clocked: Clocked | None = None

    @property
    def last(self) -> Int[AnyArray, " n"]:
        """The last segment."""
        return (self.breakpoints < np.inf).sum(0) - 1


class Position(NamedTuple):
    """A point of each flow: so far behind (or, if negative, before) a breakpoint."""

    anchor: Int[AnyArray, " n"]
    offset: Float[AnyArray, " n"]


class Base(NamedTuple):
    """The lines at a breakpoint.

    Attributes:
        gaps: heights over the lowest.
        ahead: rewards over that of the output that is modal from here on.
        behind: rewards over that of the output that was modal before.
        tau: of the breakpoint.
        inertia: as in :class:`Lines`.
        start: as in :class:`Lines`.
    """

    gaps: Float[AnyArray, "outputs n"]
    ahead: Float[AnyArray, "outputs n"]
    behind: Float[AnyArray, "outputs n"]
    tau: Float[AnyArray, " n"]
    inertia: Float[AnyArray, "outputs n"] | None
    start: "Product"


class Product(NamedTuple):
    """The logarithm of a product in two parts, ``log + ln 2 exponent``, of which one is exact."""

    log: Float[AnyArray, " n"]
    exponent: Float[AnyArray, " n"]

    @property
    def total(self) -> Float[AnyArray, " n"]:
        """Both."""
        return self.log + np.log(2.0) * self.exponent

    def times(self, other: "Product") -> "Product":
        """The product of both."""
        return Product(self.log + other.log, self.exponent + other.exponent)


class Sums(NamedTuple):
    """What improves the smallest ``x``.

    Attributes:
        excess: ``sum mu ln x``, over what it should be.
        shares: ``s = x_min / x``.
        first: ``sum mu s``: the mass ``Z`` times the smallest ``x``.
        second: ``sum mu s^2``.
    """

    excess: Float[AnyArray, " n"]
    shares: Float[AnyArray, "outputs n"]
    first: Float[AnyArray, " n"]
    second: Float[AnyArray, " n"]


class State(NamedTuple):
    """Where flows are.

    Attributes:
        x: of every output.
        least: the smallest.
        slope: ``V - r``, of ``x`` by tau.
        sound: whether the smallest is found.
    """

    x: Float[AnyArray, "outputs n"]
    least: Float[AnyArray, " n"]
    slope: Float[AnyArray, "outputs n"]
    sound: Bool[AnyArray, " n"]


def pick(rows: AnyArray, index: Int[AnyArray, " n"]) -> AnyArray:
    """Of each column the row of that number."""
    if namespace(rows, index) is np:
        return np.take_along_axis(np.asarray(rows), np.asarray(index)[None], 0)[0]
    return jnp.take_along_axis(rows, index[None], 0, mode="promise_in_bounds")[0]


def lines(
    logits: Float[AnyArray, "outputs n"],
    rewards: Float[AnyArray, "outputs n"],
    inertia: Float[AnyArray, "outputs n"] | None = None,
) -> Lines:
    """Envelopes of flows: from each modal output to the one whose line is the next to fall below."""
    xp = namespace(logits, rewards)
    top = fixed(logits.max(0))
    normalizer = top + xp.log(xp.exp(logits - top).sum(0))
    lead = 0.0 if inertia is None else xp.log(inertia)
    logits = xp.maximum(logits, normalizer + lead + _RAREST)
    start = product(xp.exp(logits - lead - normalizer), inertia)
    none = xp.full(rewards.shape, xp.inf)
    flow = Lines(logits, normalizer, rewards, inertia, start, none, xp.zeros(rewards.shape, int))
    taus, modal = _itinerary(fixed(flow), fixed(logits - lead))
    flow = flow._replace(modal=modal)
    if xp is np:
        return flow._replace(breakpoints=taus)
    # In numbers as found; with the derivatives of where the lines of two modal outputs meet.
    before = jnp.concatenate([modal[:1], modal[:-1]])
    rise = jnp.take_along_axis(rewards, modal, 0) - jnp.take_along_axis(rewards, before, 0)
    depth = _depth(flow)
    of, other = jnp.take_along_axis(depth, before, 0), jnp.take_along_axis(depth, modal, 0)
    height = _above(normalizer, of, other)
    meet = jnp.where(rise > 0, height / jnp.where(rise > 0, rise, 1.0), 0.0)
    return flow._replace(breakpoints=taus + jnp.where(taus < jnp.inf, meet - fixed(meet), 0.0))


# The number of the next breakpoint; breakpoints and modal outputs so far; the last breakpoint, what is modal
# from there on, and whether flows get there.
_Walk = tuple[Any, AnyArray, AnyArray, AnyArray, AnyArray, AnyArray]


def _itinerary(flow: Lines, depth: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Breakpoints, and what is modal from each on; after the last the same."""
    rewards, xp = flow.rewards, namespace(flow.rewards, depth)
    number = xp.arange(len(rewards))[:, None]
    modal = xp.where(depth == depth.max(0), rewards, -xp.inf).argmax(0)

    def follow(carry: _Walk) -> _Walk:
        i, taus, modals, tau, modal, found = carry
        taus = xp.where((number == i) & found, tau, taus)
        modals = xp.where(number >= i, modal, modals)
        rise = rewards - pick(rewards, modal)
        crossing = xp.where(rise > 0, _height(flow, modal) / xp.where(rise > 0, rise, 1.0), xp.inf)
        first = crossing.min(0)
        follower = xp.where(crossing == first, rewards, -xp.inf).argmax(0)
        found = first < LARGEST
        modal = xp.where(found, follower, modal)
        return i + 1, taus, modals, xp.where(found, xp.maximum(first, tau), tau), modal, found

    tau = xp.zeros(modal.shape)
    first = (xp.zeros((), int), flow.breakpoints, flow.modal, tau, modal, tau == 0.0)
    _, taus, modals, *_ = repeat_while(xp, lambda walk: walk[-1].any(), follow, first)
    return taus, modals


def _depth(flow: Lines) -> AnyArray:
    """The logarithm of ``1 / x`` at the start, but for the normaliser."""
    return flow.logits if flow.inertia is None else flow.logits - namespace(flow.inertia).log(flow.inertia)


def _height(flow: Lines, output: AnyArray) -> AnyArray:
    """The lines at the start over that of an output, exact where the two are close."""
    depth = _depth(flow)
    return _above(flow.normalizer, pick(depth, output), depth)


def _above(normalizer: AnyArray, depth: AnyArray, other: AnyArray) -> AnyArray:
    """The start of a line over that of another, from their depths."""
    xp = namespace(depth, other)
    return xp.exp(normalizer - depth) * xp.expm1(depth - other)


def initial(flow: Lines) -> Float[AnyArray, "outputs n"]:
    """``x`` at the start."""
    return namespace(flow.logits).exp(flow.normalizer - _depth(flow))


def log_masses(flow: Lines, x: Float[AnyArray, "outputs n"]) -> Float[AnyArray, "outputs n"]:
    """``ln E``."""
    xp = namespace(x)
    return -xp.log(x) if flow.inertia is None else xp.log(flow.inertia / x)


def base(flow: Lines, anchor: Int[AnyArray, " n"]) -> Base:
    """The lines at a breakpoint."""
    xp = namespace(flow.logits, anchor)
    new, old = pick(flow.modal, anchor), pick(flow.modal, xp.maximum(anchor - 1, 0))
    tau = pick(flow.breakpoints, anchor)
    tau = xp.where(tau < xp.inf, tau, 0.0)
    ahead = flow.rewards - pick(flow.rewards, new)
    behind = xp.where(anchor > 0, flow.rewards - pick(flow.rewards, old), ahead)
    # Over the line of the one to which it is closer: nothing that is equal to one of the two cancels.
    over_new = _height(flow, new)
    over_old = xp.where(anchor > 0, _height(flow, old), over_new)
    closer = xp.abs(over_old) < xp.abs(over_new)
    height = xp.where(closer, over_old, over_new)
    gaps = height - xp.where(closer, behind, ahead) * tau
    gaps = xp.where(gaps > _ROUNDING * xp.abs(height), gaps, 0.0)
    output = xp.arange(len(gaps))[:, None]
    meet = (output == new) | (output == old) & (anchor > 0)
    return Base(xp.where(meet, 0.0, gaps), ahead, behind, tau, flow.inertia, flow.start)


def rise(of: Base, offset: Float[AnyArray, " n"]) -> Float[AnyArray, "outputs n"]:
    """Rewards over that of the modal output of the segment."""
    return namespace(offset).where(offset > 0, of.ahead, of.behind)


def gaps(of: Base, offset: Float[AnyArray, " n"]) -> Float[AnyArray, "outputs n"]:
    """Heights of the lines over the lowest."""
    line = of.gaps - offset * rise(of, offset)
    return line - namespace(line).minimum(line.min(0), 0.0)


# The smallest x ----------------------------------------------------------------------

_TOGETHER = 1000  # mantissas, of which each is below two
_MANTISSA = np.uint64((1 << 52) - 1)
_ONE = np.uint64(1023 << 52)
_SHIFTED = np.uint64(0x433 << 52)  # 2^52, of which the last bits are an integer


def product(values: Float[AnyArray, "outputs n"], powers: Float[AnyArray, "outputs n"] | None) -> Product:
    """The product over the outputs, of powers if they are given.

    By mantissas and exponents if not: one logarithm for so many outputs that it does not overflow.
    """
    xp = namespace(values)
    if powers is not None:
        log = (powers * xp.log(values)).sum(0)
        return Product(log, xp.zeros(log.shape))
    bits = values.view(np.uint64)
    mantissa = ((bits & _MANTISSA) | _ONE).view(np.float64)
    exponent = ((bits >> np.uint64(52)) | _SHIFTED).view(np.float64)
    parts = [mantissa[first : first + _TOGETHER] for first in range(0, len(mantissa), _TOGETHER)]
    log = reduce(operator.add, [xp.log(part.prod(0)) for part in parts])
    return Product(log, (exponent - (2.0**52 + 1023.0)).sum(0))


def sums(gaps: Float[AnyArray, "outputs n"], of: Base, x: Float[AnyArray, " n"]) -> Sums:
    """What improves the smallest ``x``."""
    values = x + gaps
    shares = x / values
    weighted = shares if of.inertia is None else of.inertia * shares
    excess = product(values, of.inertia).times(of.start).total
    return Sums(excess, shares, weighted.sum(0), (weighted * shares).sum(0))


def improved(x: Float[AnyArray, " n"], at: Sums) -> Float[AnyArray, " n"]:
    """A better smallest ``x``: by Halley's method where it is near, else by Newton's for ``ln x``.

    The excess is convex in ``ln x``, so that Newton's method never fails from the right.
    """
    xp = namespace(x)
    step = at.excess / at.first
    return xp.where(xp.abs(step) < 0.5, halley(x, at), x * xp.exp(-step))


def halley(x: Float[AnyArray, " n"], at: Sums) -> Float[AnyArray, " n"]:
    """A better smallest ``x``, where it is near."""
    step = at.excess / at.first
    return x * (1.0 - step / (1.0 + 0.5 * step * at.second / at.first))


def mass(x: Float[AnyArray, " n"], at: Sums) -> Float[AnyArray, " n"]:
    """``Z`` where the excess vanishes, to the order of Halley's method."""
    bend = 0.5 * at.excess * at.second / at.first**2
    return at.first / x * (1.0 + bend) / (1.0 - bend)


def smallest(
    gaps: Float[AnyArray, "outputs n"], of: Base
) -> tuple[Float[AnyArray, " n"], Bool[AnyArray, " n"]]:
    """The smallest ``x``, and whether it is right to rounding."""
    xp = namespace(gaps)

    def far(carry: tuple[AnyArray, AnyArray, Any]) -> Any:
        _, step, trials = carry
        return (xp.abs(step) > _CLOSE).any() & (trials < _MOST_STEPS)

    def improve(carry: tuple[AnyArray, AnyArray, Any]) -> tuple[AnyArray, AnyArray, Any]:
        x, _, trials = carry
        at = sums(gaps, of, x)
        return improved(x, at), at.excess / at.first, trials + 1

    x = upper(gaps, of)
    x, step, _ = repeat_while(xp, far, improve, (x, xp.full(x.shape, xp.inf), xp.zeros((), int)))
    return x, xp.abs(step) <= _CLOSE


def upper(gaps: Float[AnyArray, "outputs n"], of: Base) -> Float[AnyArray, " n"]:
    """No less than the smallest ``x``: every gap left out makes the product smaller."""
    xp = namespace(gaps)
    positive = gaps > 0
    rest = product(xp.where(positive, gaps, 1.0), of.inertia).times(of.start).total
    nearest = xp.where(positive, gaps, xp.inf)
    log_next = xp.log(nearest.min(0))
    if of.inertia is None:
        every, equal, following = len(gaps), len(gaps) - positive.sum(0), 1.0
    else:
        every, equal = of.inertia.sum(0), xp.where(positive, 0.0, of.inertia).sum(0)
        following = pick(of.inertia, nearest.argmin(0))
    two = xp.where(log_next < xp.inf, (following * log_next - rest) / (equal + following), xp.inf)
    return xp.exp(xp.minimum(xp.minimum(-rest / equal, two), -of.start.total / every))


def state(of: Base, offset: Float[AnyArray, " n"]) -> State:
    """Where flows are, so far from a breakpoint."""
    over, faster = gaps(of, offset), rise(of, offset)
    least, sound = smallest(over, of)
    x = least + over
    return State(x, least, slope(of, faster, least / x), sound)


def width(of: Base) -> Float[AnyArray, " n"]:
    """About the unit of tau at a breakpoint: that of a logit at the largest of their speeds."""
    xp = namespace(of.gaps)
    least = upper(of.gaps, of)
    least = improved(least, sums(of.gaps, of, least))
    x = least + of.gaps
    falling = slope(of, of.ahead, least / x)
    return 1.0 / xp.maximum(xp.abs(falling / x).max(0), 1.0 / LARGEST)


def slope(of: Base, faster: AnyArray, shares: AnyArray) -> AnyArray:
    """``V - r``, from rewards over any one, and shares."""
    weighted = shares if of.inertia is None else of.inertia * shares
    return (weighted * faster).sum(0) / weighted.sum(0) - faster
