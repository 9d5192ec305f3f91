"""Integration of gradient flow up to events, of one problem or of many at once.

The independent variable is the distance that the logits travel, and the logarithm of time is one more
unknown: what takes 1e50 units of time is a few hundred logits away. Close to a stationary point, where the
velocity changes by a factor of e before the logits have moved at all, the independent variable counts these
factors instead, and what is asked of a step is relative to the velocity. Many problems are run in a fixed
number of lanes, each of which takes the next problem as soon as it has finished one; under a plain ``vmap``
all would wait for the slowest.
"""

from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from goodteacher.sim.goals import Goal, excess, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import (
    advantage,
    gradient,
    gradient_along,
    log_ratio_along,
    logit_gradient_rounding,
)
from goodteacher.sim.optima import DENSE, Limit, beyond, converged, limit_of
from goodteacher.sim.policies import Tabular
from goodteacher.sim.steppers import AMPLIFICATION, EULER_ORDER, extrapolated_euler_step, runge_kutta_step

FIRST_STEP = 0.1  # in logits
_ROOT_TOLERANCE = 1e-13  # in logits, or relative to the way there if that is shorter
_NO_SPEED = 1e-30  # squared, relative: nothing is divided by zero where nothing moves
_BEND = 4.0  # relative changes of the velocity per logit, up to which the logits alone measure the way
_LOST = 0.1  # of the velocity: a rounding error that decides where the flow goes
_BLURRED = 5e-10  # of a time: a typical error by rounding that makes it unknown
_AT_REST = 1e-10  # a step this short, in logits, is what stability leaves near a stationary point
_PATIENCE = 200  # explicit steps before a regularised problem is taken to be stiff
_SHORT = 1e-2  # of the way, a step that is kept short by stability
_NOISE = 4.0  # rounding errors: a velocity that is no larger is none
_STILL = 1e-12  # of a velocity, relative to its rate of change: what implicit steps leave of it
_ROUNDING = 1e-15  # of expected rewards
_DRAWS = 4  # of rounding errors
_CAREFUL = 0.1  # of the tolerance: errors of a distance that only shrinks add up, those at a saddle grow
_MOST_TRIALS = 60  # for the length of a step
_AT_END = 1e-6  # of a step: a peak so close to its end is the end


class _State(NamedTuple):
    """Where the flow is. One :class:`_State` more holds its derivative.

    The displacement from the initial parameters is small where they are not.
    """

    displacement: Array
    log_time: Array  # ln(1 + t / time_scale)


class _Point(NamedTuple):
    """A state with what is needed there; derivatives are by the distance travelled."""

    state: _State
    velocity: _State
    gap: Array  # [prompts + 1]: expectation minus level; last, log time minus that of the horizon
    slope: Array  # [prompts + 1]: derivative of the gap


class _Pace(NamedTuple):
    """How the way is measured at a point, ``ds = (|d logits / dt| + rate) dt``, and how well it is known.

    Near a saddle the velocity grows exponentially, and its rounding errors with it.
    """

    rate: Array  # in the problem's unit of time
    share: Array  # |d logits / ds|
    grows: Bool[Array, ""]  # whether the flow accelerates
    rounding: Array  # of share


class _Bracket(NamedTuple):
    """How far ahead a pending event is known to have happened; ``inf`` if that is not known."""

    ahead: Array
    gap: Array
    slope: Array


class _Lane(NamedTuple):
    """One problem under way."""

    point: _Point
    pace: _Pace
    blur: Array  # of the time, relative, by rounding errors that have grown
    travelled: Array
    step: Array  # the next step to try
    cruise: Array  # the step that the error control last asked for
    bracket: _Bracket
    pending: Array  # [prompts + 1]: events that have not happened
    hit_log_time: Array  # [prompts + 1]
    hit_logits: Array  # [prompts, outputs]
    steps: Array


class Problem(NamedTuple):
    """An instance with its goal, its unit of time, and the horizon in that unit (see ``log_time``).

    ``endless`` problems wait for the horizon alone. ``limit`` is ``None`` if it is not known.
    """

    instance: Instance
    goal: Goal
    endless: Bool[Array, ""]
    time_scale: Array
    rate: Array  # see _Pace, at the start
    log_horizon: ArrayLike
    limit: Limit | None

    def parameters(self, state: _State) -> Array:
        """Those of the policy."""
        return self.instance.initial_parameters + state.displacement


def _norm(vector: Array) -> Array:
    # In units of the largest: squares would underflow from times of 1e154 on. The unit needs no derivative,
    # and that of a maximum is nan where a program computes the vector twice and rounds it differently.
    unit = jax.lax.stop_gradient(jnp.maximum(jnp.abs(vector).max(), jnp.finfo(float).tiny))
    return unit * jnp.sqrt(((vector / unit) ** 2).sum() + _NO_SPEED)


def _speed(instance: Instance, parameters: Array, velocity: Array) -> Array:
    """Euclidean norm of the logits' velocity."""
    return _norm(instance.policy.pushforward(parameters, velocity))


def _field(problem: Problem, rate: Array, state: _State) -> _State:
    """The flow by the way ``s``, ``d theta / ds = grad phi / (|d logits / dt| + rate)``.

    A stall, where log-probabilities change like ln t, and an escape, where they change like -ln(t* - t),
    both become straight lines; so does ln t in a stall.
    """
    parameters = problem.parameters(state)
    velocity = gradient_along(problem.instance, state.displacement)
    speed = _speed(problem.instance, parameters, velocity) * problem.time_scale + rate
    speed = jnp.maximum(speed, jnp.finfo(float).tiny)
    return _State(velocity * (problem.time_scale / speed), jnp.exp(-state.log_time) / speed)


def _straight(instance: Instance) -> bool:
    """Whether the logits move whenever the velocity changes: without regularisation, where each is free."""
    return isinstance(instance.policy, Tabular) and instance.regularizer is None


def _change(instance: Instance, displacement: Array, velocity: Array) -> tuple[Array, Bool[Array, ""]]:
    """The relative rate at which the velocity changes along the flow, and whether it grows."""
    direction = velocity / jnp.maximum(_norm(velocity), jnp.finfo(float).tiny)
    change = jax.jvp(partial(gradient_along, instance), (displacement,), (direction,))[1]
    return _norm(change), (direction * change).sum() > 0


def _rounding(instance: Instance, displacement: Array) -> Array:
    """The size of the rounding error of the logits' velocity.

    That of every logit's gradient, with fixed random factors, goes the way of the gradient itself: what
    cancels in the sum of the gradient does not cancel there. Several draws of the factors, for with a few
    parameters one may cancel by chance.
    """
    parameters = instance.initial_parameters + displacement
    ratio = log_ratio_along(instance, displacement)
    error = logit_gradient_rounding(instance, instance.logits(parameters), ratio)
    factors = np.random.default_rng(0).normal(size=(_DRAWS, *error.shape))
    speeds = jax.vmap(lambda draw: _speed(instance, parameters, instance.policy.pullback(parameters, draw)))(
        error * factors
    )
    return _norm(speeds) / np.sqrt(_DRAWS)


def _start_pace(instance: Instance) -> tuple[Array, Array]:
    """The speed of the logits at the start, and the rate that is added to it."""
    start = instance.initial_parameters
    velocity = gradient(instance, start)
    speed = _speed(instance, start, velocity)
    if _straight(instance):
        return speed, jnp.zeros(())
    return speed, jnp.maximum(_change(instance, jnp.zeros_like(start), velocity)[0] - _BEND * speed, 0.0)


def _pace(problem: Problem, state: _State, velocity: _State, rate: Array) -> tuple[_Pace, Array]:
    """The pace that suits a point, and the factor from derivatives at the given ``rate`` to those at its."""
    instance, parameters = problem.instance, problem.parameters(state)
    one = jnp.ones(())
    if _straight(instance):
        return _Pace(rate, one, jnp.zeros((), bool), jnp.zeros(())), one
    clock = jnp.exp(-state.log_time) / velocity.log_time  # ds / dt
    speed = clock * _speed(instance, parameters, velocity.displacement)
    change, grows = _change(instance, state.displacement, velocity.displacement)
    rate = jnp.maximum(change * problem.time_scale - _BEND * speed, 0.0)
    own = jnp.maximum(speed + rate, jnp.finfo(float).tiny)
    rounding = _rounding(instance, state.displacement) * problem.time_scale / own
    return _Pace(rate, speed / own, grows, rounding), clock / own


def _point(problem: Problem, state: _State, velocity: _State) -> _Point:
    instance, goal = problem.instance, problem.goal
    parameters = problem.parameters(state)
    probabilities = instance.probabilities(parameters)
    logit_velocity = instance.policy.pushforward(parameters, velocity.displacement)
    gap, rounding = excess(instance, goal, state.displacement)
    # No step is short enough to close a gap that is its own rounding error.
    gap = jnp.where(jnp.abs(gap) <= rounding, 0.0, gap)
    slope = (probabilities * advantage(probabilities, goal.values) * logit_velocity).sum(-1)
    return _Point(
        state,
        velocity,
        jnp.append(gap, state.log_time - problem.log_horizon),
        jnp.append(slope, velocity.log_time),
    )


class _Trial(NamedTuple):
    """One step from a point by one of the two methods."""

    state: _State
    error: _State
    share: Array  # of the velocity at the end, to be added to the error
    order: Array
    noise: Array  # what a step makes of rounding errors of the velocity, which no step is shortened for


def _explicit(solver: diffrax.AbstractAdaptiveSolver, problem: Problem, lane: _Lane) -> _Trial:
    order = solver.order(diffrax.ODETerm(lambda t, y, args: y))
    assert order is not None
    field = partial(_field, problem, lane.pace.rate)
    step = runge_kutta_step(solver, field, lane.point.state, lane.point.velocity, lane.step)
    return _Trial(*step, jnp.asarray(float(order)), jnp.asarray(8.0))


def _implicit(problem: Problem, lane: _Lane) -> _Trial:
    field = partial(_field, problem, lane.pace.rate)
    step = extrapolated_euler_step(field, lane.point.state, lane.step)
    return _Trial(*step, jnp.zeros(()), jnp.asarray(float(EULER_ORDER)), jnp.asarray(AMPLIFICATION))


def _may_be_stiff(instance: Instance) -> bool:
    return instance.regularizer is not None and instance.initial_parameters.shape[-1] <= DENSE


def _late(problem: Problem, lane: _Lane) -> Bool[Array, "*batch"]:
    """Whether steps are implicit by now."""
    return (lane.steps >= _PATIENCE) & _may_be_stiff(problem.instance)


def prepare(
    instance: Instance, goal: Goal, horizon: ArrayLike, endless: Bool[ArrayLike, ""] = False
) -> Problem:
    """The problem in units of the time in which the first unit of the way is travelled."""
    instance = centred(instance)
    speed, rate = _start_pace(instance)
    time_scale = 1.0 / jnp.where(speed + rate > 0, speed + rate, 1.0)
    log_horizon = jnp.log1p(horizon / time_scale)
    return Problem(
        instance,
        goal,
        jnp.asarray(endless),
        time_scale,
        rate * time_scale,
        log_horizon,
        limit_of(instance, goal),
    )


def centred(instance: Instance) -> Instance:
    """The same policy with the largest logit zero, where it is free: a constant blurs what is added to it."""
    if not isinstance(instance.policy, Tabular):
        return instance
    start = instance.initial_parameters
    exists = True if instance.mask is None else instance.mask
    highest = start.max(-1, keepdims=True, where=exists, initial=-jnp.inf)
    return eqx.tree_at(lambda i: i.initial_parameters, instance, start - highest)


def _start(problem: Problem) -> _Lane:
    """Before the first step, of no length, which finds out what is known of the initial policy.

    It is a step for what is needed at its end to be compiled once.
    """
    instance, zero = problem.instance, jnp.zeros(())
    events = len(problem.goal.level) + 1
    state = _State(jnp.zeros_like(instance.initial_parameters), zero)
    return _Lane(
        point=_Point(state, jax.tree.map(jnp.zeros_like, state), jnp.zeros(events), jnp.zeros(events)),
        pace=_Pace(problem.rate, zero + 1.0, jnp.zeros((), bool), zero),
        blur=zero,
        travelled=zero,
        step=zero,
        cruise=zero + FIRST_STEP,
        bracket=_Bracket(zero + jnp.inf, zero, zero),
        pending=jnp.ones(events, bool),
        hit_log_time=jnp.full(events, jnp.inf),
        hit_logits=jnp.zeros_like(problem.goal.values),
        steps=-jnp.ones((), int),
    )


def _begun(problem: Problem, lane: _Lane, point: _Point, pace: _Pace) -> _Lane:
    """After that step."""
    met = point.gap >= 0
    possible = jnp.append(is_possible(problem.instance, problem.goal) & ~problem.endless, True)
    return lane._replace(
        point=point,
        pace=pace,
        step=lane.cruise,
        pending=~met & possible,
        hit_log_time=jnp.where(met, 0.0, jnp.inf),
        hit_logits=problem.instance.logits(problem.instance.initial_parameters),
        steps=lane.steps + 1,
    )


def _waiting(problem: Problem, pending: Array) -> Bool[Array, "*batch"]:
    return (pending[..., :-1].any(-1) | problem.endless) & pending[..., -1]


def _lost(lane: _Lane) -> Bool[Array, "*batch"]:
    """Whether where the flow goes from here is decided by rounding errors."""
    return (lane.pace.grows | (lane.steps == 0)) & ~(lane.pace.rounding < _LOST * lane.pace.share)


def _active(problem: Problem, lane: _Lane, max_steps: ArrayLike) -> Bool[Array, "*batch"]:
    pace, step = lane.pace, lane.cruise
    implicit = _late(problem, lane)
    short = (step <= _SHORT) | (problem.endless & implicit)
    slow = short & (jnp.minimum(step, 1.0) * pace.share <= _AT_REST)
    still = jnp.maximum(_NOISE * pace.rounding, jnp.where(implicit, _STILL, 0.0))
    rests = (slow | (pace.share <= still)) & ~pace.grows
    sound = ~rests & ~_lost(lane) & (step > _AT_REST)
    return _waiting(problem, lane.pending) & sound & (lane.steps < max_steps)


def _inverse_hermite(width: Array, start: tuple[Array, Array], end: tuple[Array, Array]) -> Array:
    """Where a function that rises from below zero to above it vanishes, by cubic inverse interpolation.

    Given its values and slopes at 0 and at ``width``. The middle, if the interpolating inverse may not be
    monotone (Fritsch and Carlson 1980), for then it can point to one end again and again.
    """
    (g0, d0), (g1, d1) = start, end
    rise = g1 - g0
    s = -g0 / rise
    root = width * s * s * (3.0 - 2.0 * s) + rise * s * (1.0 - s) ** 2 / d0 - rise * s * s * (1.0 - s) / d1
    sound = (3.0 * width * jnp.minimum(d0, d1) >= rise) & (root > 0) & (root < width)
    return jnp.where(sound, root, 0.5 * width)


def _hump(width: Array, start: _Point, end: _Point) -> tuple[Array, Array]:
    """Where inside a step each gap has a local maximum (Hermite cubic), and how high that may be.

    Twice the height over the higher end that has not crossed, to be safe. ``-inf`` without one, and if the
    gap has crossed for good: then the crossing is the first.
    """
    a, b = start.slope * width, end.slope * width
    rise = end.gap - start.gap
    cubic = a + b - 2.0 * rise
    square = 3.0 * rise - 2.0 * a - b
    s = a / (jnp.sqrt(square**2 - 3.0 * cubic * a) - square)  # nan if it is monotone
    peak = start.gap + s * (a + s * (square + s * cubic))
    base = jnp.where(end.gap < 0, jnp.maximum(start.gap, end.gap), start.gap)
    # A step that ends on a peak has its peak there, not an ulp before it, again and again.
    dips = (b > 0) & (s < 1.0 - _AT_END)
    inside = (s > 0) & (s < 1) & (peak - base > _ROUNDING) & ((end.gap < 0) | dips)
    return s * width, jnp.where(inside, 2.0 * peak - base, -jnp.inf)


def _leading(point: _Point, pending: Array) -> tuple[Array, Array, Array]:
    """Gap and slope of the pending event that is closest, and its number."""
    closest = jnp.where(pending, point.gap, -jnp.inf).argmax()
    return jnp.where(pending[closest], point.gap[closest], -jnp.inf), point.slope[closest], closest


def _advance(problem: Problem, lane: _Lane, trial: _Trial, tolerance: ArrayLike) -> _Lane:
    """Takes a step that was tried, rejects it, or shortens it for an event inside it."""
    instance = problem.instance
    start, step, pending = lane.point, lane.step, lane.pending
    state, error, rest, order, noise = trial
    velocity = _field(problem, lane.pace.rate, state)
    error = jax.tree.map(lambda of, slope: of + rest * slope, error, velocity)
    end = _point(problem, state, velocity)
    pace, stretch = _pace(problem, state, velocity, lane.pace.rate)
    begun = _begun(problem, lane, end, pace)

    # Error control on logits, where an error is a relative error of a probability, and on ln t; where the
    # velocity changes before they do, relative to it, but to no less than rounding leaves.
    careful = instance.regularizer is not None or lane.pace.rate > 0
    tolerance = jnp.where(careful, _CAREFUL, 1.0) * tolerance
    logit_error = instance.policy.pushforward(problem.parameters(start.state), error.displacement)
    share = jnp.minimum(lane.pace.share, pace.share)
    rounding = jnp.maximum(lane.pace.rounding, pace.rounding)
    allowed = tolerance * share + noise * step * rounding
    size = jnp.maximum(
        jnp.abs(logit_error).max() / allowed,
        jnp.abs(error.log_time) / (tolerance * -jnp.expm1(-state.log_time)),
    )
    if instance.regularizer is not None:
        missed = _missed(problem, end, step, logit_error, tolerance)
        size = jnp.maximum(size, jnp.where(pending[:-1], missed, 0.0).max())
    accurate = size <= 1.0  # false for nan
    growth = 0.9 * jnp.maximum(size, 1e-30) ** (-1.0 / order)
    asked = step * jnp.where(jnp.isfinite(growth), jnp.clip(growth, 0.2, 8.0), 0.2)
    shortened = accurate & (step < lane.cruise)
    cruise = jnp.where(shortened, jnp.maximum(lane.cruise, asked), asked)

    gap0, slope0, _ = _leading(start, pending)
    gap1, slope1, _ = _leading(end, pending)
    # A peak inside the step that may touch its level is stepped onto.
    peak_at, peak = _hump(step, start, end)
    peak_at = jnp.where(pending & (peak >= 0), peak_at, jnp.inf).min()
    humped = accurate & (peak_at < step)
    crossed = accurate & ~humped & (gap1 >= 0)
    taken = accurate & ~crossed & ~humped

    point = jax.tree.map(partial(jnp.where, taken), end, start)
    travelled = lane.travelled + jnp.where(taken, step, 0.0)
    bracket = _Bracket(
        jnp.where(crossed, step, lane.bracket.ahead - jnp.where(taken, step, 0.0)),
        jnp.where(crossed, gap1, lane.bracket.gap),
        jnp.where(crossed, slope1, lane.bracket.slope),
    )

    # Root finding: steps end at the estimated crossing until Newton's method sees it close to either end.
    low = (jnp.where(taken, gap1, gap0), jnp.where(taken, slope1, slope0))
    bracketed = jnp.isfinite(bracket.ahead)
    root = _inverse_hermite(bracket.ahead, low, (bracket.gap, bracket.slope))
    # No closer than what changes the displacement at all, of those that do move.
    fastest = jnp.maximum(jnp.abs(start.velocity.displacement).max(), jnp.finfo(float).tiny)
    moving = jnp.abs(start.state.displacement * (start.velocity.displacement / fastest)).max() / fastest
    ulp = jnp.finfo(float).eps * moving
    near = _ROOT_TOLERANCE * jnp.minimum(jnp.minimum(1.0, cruise), travelled + root)
    close = jnp.maximum(near, 4.0 * ulp)
    at_end = crossed & (gap1 <= slope1 * close)
    found = at_end | (bracketed & ((-low[0] <= low[1] * close) | (bracket.ahead <= close)))
    point = jax.tree.map(partial(jnp.where, at_end), end, point)
    # The closest by its number: what it equals may have been computed twice, and rounded differently.
    gap, _, closest = _leading(point, pending)
    met = found & pending & ((point.gap >= gap) | (point.gap >= 0) | (jnp.arange(len(pending)) == closest))
    awaited = pending & ~met
    if problem.limit is not None:
        hopeless = beyond(problem.limit, instance.log_probabilities(problem.parameters(point.state)))
        awaited &= ~jnp.append(hopeless, False)
    followed = pending[:-1] | problem.endless

    # A time is as uncertain as the rounding of the velocity makes it for as long as the flow accelerates.
    before, after = lane.point.state.log_time, point.state.log_time
    earlier = jnp.exp(before - after) * jnp.expm1(-before) / jnp.expm1(-after)  # the share of the time
    blurring = jnp.where(lane.pace.grows, lane.pace.rounding / lane.pace.share, 0.0)
    blur = jnp.where(after > before, lane.blur * earlier + blurring * (1.0 - earlier), lane.blur)
    hit = jnp.where(blur < _BLURRED, point.state.log_time, jnp.nan)

    # The pace changes with the point, but not between the ends of a bracket.
    pace = jax.tree.map(partial(jnp.where, taken), pace, lane.pace)
    stretch = jnp.where(taken & ~bracketed, stretch, 1.0)
    pace = pace._replace(rate=jnp.where(bracketed, lane.pace.rate, pace.rate))
    velocity = jax.tree.map(lambda leaf: leaf * stretch, point.velocity)
    next_step = jnp.where(bracketed & ~found, jnp.minimum(root, cruise), cruise)
    advanced = _Lane(
        point=point._replace(velocity=velocity, slope=point.slope * stretch),
        pace=pace,
        blur=blur,
        travelled=travelled + jnp.where(at_end, step, 0.0),
        step=jnp.where(humped, peak_at, next_step) / stretch,
        cruise=cruise / stretch,
        bracket=bracket._replace(ahead=jnp.where(found, jnp.inf, bracket.ahead)),
        pending=awaited,
        hit_log_time=jnp.where(met, hit, lane.hit_log_time),
        hit_logits=jnp.where(
            followed[:, None], instance.logits(problem.parameters(point.state)), lane.hit_logits
        ),
        steps=lane.steps + 1,
    )
    return jax.tree.map(partial(jnp.where, lane.steps < 0), begun, advanced)


def _missed(
    problem: Problem, end: _Point, step: Array, error: Array, tolerance: ArrayLike
) -> Float[Array, " prompts"]:
    """By how much the error of a step that ends next to an event changes its time, in what is tolerated.

    Along what is slow an expectation may hardly change, and all that is fast changes it: an error that the
    flow forgets within a step, but not before the event.

    Args:
        problem: of the lane.
        end: of the step.
        step: its length.
        error: of the logits.
        tolerance: of the time, relative, beyond what rounding of the expectation makes of it.
    """
    probabilities = problem.instance.probabilities(problem.parameters(end.state))
    pull = probabilities * advantage(probabilities, problem.goal.values)
    gap, slope = end.gap[:-1], jnp.maximum(end.slope[:-1], jnp.finfo(float).tiny)
    clock = end.velocity.log_time / -jnp.expm1(-end.state.log_time)
    _, rounding = excess(problem.instance, problem.goal, end.state.displacement)
    size = jnp.abs((pull * error).sum(-1)) / (tolerance * slope / clock + _NOISE * rounding)
    return jnp.where(jnp.abs(gap) < slope * step, size, 0.0)


class Done(NamedTuple):
    """What is kept of a lane when its problem is done."""

    pending: Array
    hit_log_time: Array
    hit_logits: Array
    end: _State
    lost: Bool[Array, "*batch"]  # whether it is unknown where the flow goes on to
    steps: Array


def _finished(lane: _Lane) -> Done:
    lost = _lost(lane) | lane.pace.grows
    return Done(lane.pending, lane.hit_log_time, lane.hit_logits, lane.point.state, lost, lane.steps)


def stuck(problem: Problem, done: Done) -> Bool[Array, "*batch"]:
    """Whether something is waited for although the horizon has not been reached."""
    return _waiting(problem, done.pending)


def _examine(problem: Problem, done: Done) -> Bool[Array, " prompts"]:
    return jax.lax.cond(
        stuck(problem, done) & ~done.lost,
        lambda: converged(problem.instance, problem.goal, problem.parameters(done.end)),
        lambda: jnp.zeros(problem.goal.level.shape, bool),
    )


def run_one(
    problem: Problem,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: ArrayLike,
    max_steps: ArrayLike,
) -> tuple[Done, Bool[Array, "..."]]:
    """Integrates until every goal is met, the horizon is reached, the flow rests or the steps run out.

    Returns:
        How it ended, and for every prompt whether the policy has converged there, short of the goal.
    """

    def explicit(lane: _Lane) -> _Trial:
        return _explicit(solver, problem, lane)

    def trial(lane: _Lane) -> _Trial:
        if not _may_be_stiff(problem.instance):
            return explicit(lane)
        return jax.lax.cond(_late(problem, lane), partial(_implicit, problem), explicit, lane)

    def move(lane: _Lane) -> _Lane:
        return _advance(problem, lane, trial(lane), tolerance)

    lane = jax.lax.while_loop(lambda lane: _active(problem, lane, max_steps), move, _start(problem))
    done = _finished(lane)
    return done, _examine(problem, done)


def _trials(
    problems: Problem,
    solver: diffrax.AbstractAdaptiveSolver,
    lanes: _Lane,
    wanted: Array,
) -> _Trial:
    """Of many lanes. No step is implicit, which takes long, unless one that is wanted has to be."""
    trials = jax.vmap(partial(_explicit, solver))(problems, lanes)
    if not _may_be_stiff(problems.instance):
        return trials
    late = wanted & _late(problems, lanes)
    return jax.lax.cond(
        late.any(), lambda: _select(late, jax.vmap(_implicit)(problems, lanes), trials), lambda: trials
    )


def _moved_on(
    problems: Problem,
    lanes: _Lane,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: ArrayLike,
    max_steps: ArrayLike,
) -> _Lane:
    """After one more step of all that have not ended."""
    active = _active(problems, lanes, max_steps)
    trials = _trials(problems, solver, lanes, active)
    moved = jax.vmap(_advance, in_axes=(0, 0, 0, None))(problems, lanes, trials, tolerance)
    return _select(active, moved, lanes)


def _select(condition: Array, new: Any, old: Any) -> Any:
    """``new`` in the lanes where the condition holds, ``old`` in the others."""

    def select(a: Array, b: ArrayLike) -> Array:
        axes = max(a.ndim, jnp.ndim(b)) - condition.ndim
        return jnp.where(condition.reshape(*condition.shape, *[1] * axes), a, b)

    return jax.tree.map(select, new, old)


def run_many(
    problems: Problem,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: ArrayLike,
    max_steps: ArrayLike,
    lanes: int,
) -> tuple[Done, Bool[Array, "..."], Int[Array, ""]]:
    """:func:`run_one` over a leading axis of ``problems``, ``lanes`` of them at a time.

    Returns:
        As :func:`run_one`, and how often all lanes were moved: the share of useful work is
        ``steps.sum() / (moves * lanes)``.
    """
    count = problems.time_scale.size

    move = partial(_moved_on, solver=solver, tolerance=tolerance, max_steps=max_steps)

    def hand_out(index: Array) -> tuple[Problem, _Lane]:
        problem = jax.tree.map(lambda leaf: leaf[jnp.minimum(index, count - 1)], problems)
        return problem, jax.vmap(_start)(problem)

    def idle_lanes(problem: Problem, lane: _Lane, index: Array) -> Array:
        return ~_active(problem, lane, max_steps) & (index < count)

    def tick(carry: Any) -> Any:
        problem, lane, index, moves, _ = carry
        lane = move(problem, lane)
        return problem, lane, index, moves + 1, idle_lanes(problem, lane, index).sum()

    def refill(carry: Any) -> Any:
        problem, lane, index, waiting, moves, done = carry
        # A refill costs a tenth of a step; doing it for fewer idle lanes costs more than it saves.
        enough = jnp.minimum(max(lanes // 16, 1), (index < count).sum())
        problem, lane, index, moves, _ = jax.lax.while_loop(
            lambda carry: carry[-1] < enough,
            tick,
            (problem, lane, index, moves, idle_lanes(problem, lane, index).sum()),
        )
        idle = idle_lanes(problem, lane, index)
        slot = jnp.where(idle & (index >= 0), index, count)
        done = jax.tree.map(lambda all, new: all.at[slot].set(new, mode="drop"), done, _finished(lane))
        index = jnp.where(idle, jnp.minimum(waiting + jnp.cumsum(idle) - 1, count), index)
        problem, fresh = hand_out(index)
        return problem, _select(idle, fresh, lane), index, waiting + idle.sum(), moves, done

    # Lanes are idle at first, with nothing to hand in: one program hands out the first problems and others.
    nothing = -jnp.ones(lanes, int)
    problem, lane = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), jax.eval_shape(hand_out, nothing))
    done = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype), _finished(lane))
    none = jnp.zeros((), int)
    *_, moves, done = jax.lax.while_loop(
        lambda carry: (carry[2] < count).any(), refill, (problem, lane, nothing, none, none, done)
    )

    converged = jax.lax.cond(
        stuck(problems, done).any(),
        lambda: jax.lax.map(lambda pair: _examine(*pair), (problems, done)),
        lambda: jnp.zeros(problems.goal.level.shape, bool),
    )
    return done, converged, moves


# Paths -----------------------------------------------------------------------------------


class _Search(NamedTuple):
    """For the lengths of steps that end at times.

    Attributes:
        step: to try.
        low: one that is too short.
        high: one that is too long.
        displacement: at its end.
        found: whether that is known: what Newton's method still changed was the root of a tolerance.
    """

    step: Array
    low: Array
    high: Array
    displacement: Array
    found: Array


def run_through(
    problems: Problem,
    times: Float[Array, "problems times"],
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: ArrayLike,
    max_steps: ArrayLike,
) -> Float[Array, "problems times ..."]:
    """Past all of some times, side by side.

    The step that passes a time is taken again, as short as is needed.

    Args:
        problems: endless ones, up to the last of their times.
        times: of each, ascending.
        solver: an explicit method.
        tolerance: of each step.
        max_steps: of all together.

    Returns:
        How far the parameters have moved; ``nan`` from where the steps ran out or rounding decides on.
    """
    log_times = jnp.log1p(times / problems.time_scale[:, None]).T

    def go(carry: tuple[_Lane, _Lane]) -> tuple[_Lane, _Lane]:
        lanes, before = carry
        moved = _moved_on(problems, lanes, solver, tolerance, max_steps)
        here, there = lanes.point.state.log_time, moved.point.state.log_time
        return moved, _select((here < log_times) & (log_times <= there), lanes, before)

    start = jax.vmap(_start)(problems)
    first = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(log_times), *leaf.shape)), start)
    end, before = jax.lax.while_loop(
        lambda carry: _active(problems, carry[0], max_steps).any(), go, (start, first)
    )
    # A flow at rest stays where it is.
    rests = ~_finished(end).lost & (end.steps < max_steps)
    last = _select(~end.pending[:, -1] | rests, end.point.state.displacement, jnp.nan)
    beyond = log_times > end.point.state.log_time
    # One time after the other: together, all would wait for implicit steps.
    between = jax.lax.map(
        lambda at: _between(problems, at[0], at[1], at[2], solver, tolerance), (before, log_times, beyond)
    )
    return jnp.moveaxis(_select(beyond, last, between), 0, 1)


def _between(
    problems: Problem,
    lanes: _Lane,
    log_times: Array,
    known: Array,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: ArrayLike,
) -> Array:
    """Displacements at a time of each problem, in the step that its lane is about to take, if not known."""
    start, none = lanes.point, jnp.zeros(log_times.shape)
    axes = tuple(range(1, start.state.displacement.ndim))

    def nearer(carry: tuple[_Search, Array]) -> tuple[_Search, Array]:
        search, trials = carry
        trial = _trials(problems, solver, lanes._replace(step=search.step), ~search.found)
        state = trial.state
        velocity = jax.vmap(_field)(problems, lanes.pace.rate, state)
        missing = log_times - state.log_time
        low = jnp.where(missing >= 0, search.step, search.low)
        high = jnp.where(missing <= 0, search.step, search.high)
        step = search.step + missing / velocity.log_time
        step = jnp.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        change = step - search.step
        moved = state.displacement + jnp.expand_dims(change, axes) * velocity.displacement
        new = _Search(step, low, high, moved, change**2 <= tolerance * step**2)
        return _select(search.found, search, new), trials + 1

    first = (log_times - start.state.log_time) / jnp.maximum(start.velocity.log_time, jnp.finfo(float).tiny)
    search = _Search(
        jnp.clip(first, 0.0, lanes.step), none, lanes.step, jnp.zeros_like(start.state.displacement), known
    )
    return jax.lax.while_loop(
        lambda carry: (carry[1] < _MOST_TRIALS) & ~carry[0].found.all(), nearer, (search, jnp.zeros((), int))
    )[0].displacement
