"""Gradient flow ``d theta / dt = grad phi``: trajectories, and hitting times at any horizon.

Trajectories are diffrax's; hitting times are found by :mod:`goodteacher.sim.integrator`, whose cost grows
with the logarithm of the time.
"""

import enum
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Numbers
from goodteacher.sim.integrator import FIRST_STEP, Done, Problem, prepare, run_many, run_one, stuck
from goodteacher.sim.objective import expected_reward, gradient

SOLVER = diffrax.Dopri8()
HORIZON = 1e60
TOLERANCE = 1e-10  # hitting times are then good to a relative 1e-9 or better (benchmarks/accuracy.py)
MAX_STEPS = 100_000
LANES = 128


class Status(enum.IntEnum):
    """What became of a hitting time."""

    REACHED = 0
    NOT_REACHED = 1  # by the horizon, or ever: the time is inf
    NOT_CONVERGED = 2  # the steps ran out: the time is nan


class HittingTime(eqx.Module):
    """First times at which goals are met; every array has the batch's leading axis, if there is one.

    Attributes:
        time: ``[prompts]``; ``inf`` where not reached, ``nan`` where not converged.
        status: ``[prompts]``, of :class:`Status`.
        log_probabilities: ``[prompts, outputs]``: the policy at each prompt's own hitting time, or where
            it was seen that there is none.
        end: how far the integration went: the last hitting time, the horizon, or the time at which it was
            seen that the other goals are never met.
        steps: Runge-Kutta steps taken, rejected ones too.
    """

    time: Float[Array, "*batch prompts"]
    status: Int[Array, "*batch prompts"]
    log_probabilities: Float[Array, "*batch prompts outputs"]
    end: Float[Array, "*batch"]
    steps: Int[Array, "*batch"]


def _result(problem: Problem, done: Done, converged: Array) -> HittingTime:
    unfinished = done.pending[:-1] & stuck(done) & ~converged
    time = problem.time_scale * jnp.expm1(done.hit_log_time[:-1])
    status = jnp.where(jnp.isfinite(time), int(Status.REACHED), int(Status.NOT_REACHED))
    return HittingTime(
        time=jnp.where(unfinished, jnp.nan, time),
        status=jnp.where(unfinished, int(Status.NOT_CONVERGED), status),
        log_probabilities=jax.nn.log_softmax(done.hit_logits),
        end=problem.time_scale * jnp.expm1(done.end.log_time),
        steps=done.steps,
    )


def hitting_time(
    instance: Instance,
    goal: Goal,
    *,
    solver: diffrax.AbstractERK = SOLVER,
    tolerance: ArrayLike = TOLERANCE,
    horizon: ArrayLike = HORIZON,
    max_steps: ArrayLike = MAX_STEPS,
) -> HittingTime:
    """First time at which each prompt's goal is met along the gradient flow from the initial policy.

    May be jitted and vmapped (but see :func:`hitting_times` for many). ``time`` has a reverse-mode
    derivative with respect to everything in the instance and the goal, by the implicit function theorem;
    it is zero where the goal is not reached.

    Args:
        instance: the problem.
        goal: what is to be reached; the integration ends when every prompt has met its own.
        solver: an explicit Runge-Kutta method of diffrax.
        tolerance: error per step, of a logit or of the logarithm of the time.
        horizon: the time at which to give up.
        max_steps: Runge-Kutta steps after which to give up.

    Returns:
        A :class:`HittingTime` of arrays with leading axis prompts.

    Raises:
        ValueError: if the tolerance, the horizon or the number of steps is not positive.
    """
    _check_control(tolerance, horizon, max_steps)
    return _one(*_strong((instance, goal)), solver, tolerance, horizon, max_steps)


def hitting_times(
    instances: Instance,
    goals: Goal,
    *,
    solver: diffrax.AbstractERK = SOLVER,
    tolerance: ArrayLike = TOLERANCE,
    horizon: ArrayLike = HORIZON,
    max_steps: ArrayLike = MAX_STEPS,
    lanes: int = LANES,
) -> HittingTime:
    """Hitting times of many problems: :func:`hitting_time` over a leading axis of every array.

    Args:
        instances: a batch of problems of one shape, as ``jax.vmap`` makes it.
        goals: one for each.
        solver, tolerance, max_steps: as for :func:`hitting_time`.
        horizon: the time at which to give up; one for all, or one for each.
        lanes: how many problems are under way at a time.

    Returns:
        A :class:`HittingTime` of arrays with leading axes batch and prompts.

    Raises:
        ValueError: as :func:`hitting_time`, and if there is no problem or no lane.
    """
    horizon, lanes = _check_batch(instances, tolerance, horizon, max_steps, lanes)
    instances, goals = _strong((instances, goals))
    return _many(instances, goals, solver, tolerance, horizon, max_steps, lanes)


def final_policy(
    instance: Instance,
    *,
    solver: diffrax.AbstractERK = SOLVER,
    tolerance: ArrayLike = TOLERANCE,
    horizon: ArrayLike = HORIZON,
    max_steps: ArrayLike = MAX_STEPS,
) -> tuple[Float[Array, "prompts outputs"], Float[Array, ""]]:
    """Where the gradient flow is at the horizon; where it has come to rest before, it is still there.

    Args and errors as for :func:`hitting_time`.

    Returns:
        Log-probabilities, and the time at which they are those of the policy: the horizon, or an earlier
        one if the steps ran out.
    """
    _check_control(tolerance, horizon, max_steps)
    return _last(_strong(instance), solver, tolerance, horizon, max_steps)


def final_policies(
    instances: Instance,
    *,
    solver: diffrax.AbstractERK = SOLVER,
    tolerance: ArrayLike = TOLERANCE,
    horizon: ArrayLike = HORIZON,
    max_steps: ArrayLike = MAX_STEPS,
    lanes: int = LANES,
) -> tuple[Float[Array, "batch prompts outputs"], Float[Array, " batch"]]:
    """Where many gradient flows are at the horizon: :func:`final_policy` over a leading axis of every array.

    Args and errors as for :func:`hitting_times`.
    """
    horizon, lanes = _check_batch(instances, tolerance, horizon, max_steps, lanes)
    return _last_of_many(_strong(instances), solver, tolerance, horizon, max_steps, lanes)


def trajectory(
    instance: Instance,
    times: Numbers,
    *,
    solver: diffrax.AbstractAdaptiveSolver = SOLVER,
    tolerance: ArrayLike = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Float[Array, "times ..."]:
    """Parameters along the gradient flow, at given times. Differentiable in the instance.

    Args:
        instance: the problem.
        times: ascending, not negative; for instance log-spaced.
        solver: any solver of diffrax with an error estimate; an implicit one for stiff problems.
        tolerance: error per step, of a parameter.
        max_steps: Runge-Kutta steps after which to give up; the remaining rows are then ``nan``.

    Returns:
        Parameters with a leading axis over the times.

    Raises:
        ValueError: if the times are empty, negative, not finite or not ascending, or the tolerance is not
            positive.
    """
    times = jnp.asarray(times, float)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"times has shape {list(times.shape)}; give a list of at least one time")
    if not isinstance(times, Tracer):
        ascending = np.all(np.diff(times) >= 0)
        if not (ascending and times[0] >= 0 and np.isfinite(times[-1])):
            raise ValueError("times must be finite, not negative and ascending")
    _check_control(tolerance, 1.0, max_steps)
    return _trajectory(instance, times, solver, tolerance, max_steps)


def _velocity(time: Any, parameters: Any, instance: Any) -> Array:
    return gradient(instance, parameters)


@partial(jax.jit, static_argnames=("solver", "max_steps"))
def _trajectory(
    instance: Instance,
    times: Array,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: ArrayLike,
    max_steps: int,
) -> Array:
    speed = jnp.abs(gradient(instance, instance.initial_parameters)).max()
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity),
        solver,
        t0=0.0,
        t1=times[-1],
        dt0=jnp.minimum(FIRST_STEP / jnp.maximum(speed, jnp.finfo(float).tiny), times[-1]),
        y0=instance.initial_parameters,
        args=instance,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=0.0, atol=jnp.asarray(tolerance)),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    return jnp.where(jnp.isfinite(solution.ys), solution.ys, jnp.nan)


def _strong(tree: Any) -> Any:
    """Without weak types (of what Python's numbers went into): they would compile everything anew."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), tree)


@partial(jax.jit, static_argnames="solver")
def _one(
    instance: Instance,
    goal: Goal,
    solver: diffrax.AbstractERK,
    tolerance: ArrayLike,
    horizon: ArrayLike,
    max_steps: ArrayLike,
) -> HittingTime:
    problem = jax.lax.stop_gradient(prepare(instance, goal, horizon))
    result = _result(problem, *run_one(problem, solver, tolerance, max_steps))
    result = jax.lax.stop_gradient(result)
    return eqx.tree_at(lambda r: r.time, result, _implicit((instance, goal), result.time))


@partial(jax.jit, static_argnames=("solver", "lanes"))
def _many(
    instances: Instance,
    goals: Goal,
    solver: diffrax.AbstractERK,
    tolerance: ArrayLike,
    horizon: ArrayLike,
    max_steps: ArrayLike,
    lanes: int,
) -> HittingTime:
    problems = jax.vmap(prepare)(instances, goals, horizon)
    done, converged, _ = run_many(problems, solver, tolerance, max_steps, lanes)
    return jax.vmap(_result)(problems, done, converged)


@partial(jax.jit, static_argnames="solver")
def _last(
    instance: Instance,
    solver: diffrax.AbstractERK,
    tolerance: ArrayLike,
    horizon: ArrayLike,
    max_steps: ArrayLike,
) -> tuple[Array, Array]:
    problem = _endless(instance, horizon)
    return _ended(problem, horizon, *run_one(problem, solver, tolerance, max_steps))


@partial(jax.jit, static_argnames=("solver", "lanes"))
def _last_of_many(
    instances: Instance,
    solver: diffrax.AbstractERK,
    tolerance: ArrayLike,
    horizon: Array,
    max_steps: ArrayLike,
    lanes: int,
) -> tuple[Array, Array]:
    problems = jax.vmap(_endless)(instances, horizon)
    done, converged, _ = run_many(problems, solver, tolerance, max_steps, lanes)
    return jax.vmap(_ended)(problems, horizon, done, converged)


def _endless(instance: Instance, horizon: ArrayLike) -> Problem:
    """The problem of waiting for what never comes: a low output 1e100 times as likely as all the others."""
    exists = True if instance.mask is None else instance.mask
    rewards = jnp.where(exists, instance.rewards, jnp.inf)
    lowest = jnp.arange(rewards.shape[-1]) == rewards.argmin(-1)[:, None]
    out_of_reach = Goal(jnp.where(lowest, 1.0, -1e100), jnp.zeros(len(rewards)))
    return prepare(instance, out_of_reach, horizon)._replace(limit=None)


def _ended(problem: Problem, horizon: ArrayLike, done: Done, converged: Array) -> tuple[Array, Array]:
    result = _result(problem, done, converged)
    return result.log_probabilities, jnp.where(stuck(done) & ~converged, result.end, horizon)


def _check_control(tolerance: ArrayLike, horizon: ArrayLike, max_steps: ArrayLike) -> None:
    settings = {"tolerance": tolerance, "horizon": horizon, "max_steps": max_steps}
    for name, value in settings.items():
        if not isinstance(value, Tracer) and not np.all((np.asarray(value) > 0) & np.isfinite(value)):
            raise ValueError(f"{name} is {value}; give a positive, finite number")


def _check_batch(
    instances: Instance, tolerance: ArrayLike, horizon: ArrayLike, max_steps: ArrayLike, lanes: int
) -> tuple[Array, int]:
    """A horizon for each problem, and no more lanes than problems."""
    _check_control(tolerance, horizon, max_steps)
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}; give at least 1")
    count = instances.rewards.shape[0]
    if count == 0:
        raise ValueError("instances holds no problem; give at least one")
    if jnp.shape(horizon) not in ((), (count,)):
        raise ValueError(f"horizon has shape {list(jnp.shape(horizon))}; give one number, or {count}")
    return jnp.broadcast_to(jnp.asarray(horizon, float), (count,)), min(lanes, count)


@eqx.filter_custom_vjp
def _implicit(problem: tuple[Instance, Goal], time: Array) -> Array:
    """The hitting time as a differentiable function of the problem."""
    return time


@_implicit.def_fwd
def _(perturbed: Any, problem: tuple[Instance, Goal], time: Array) -> tuple[Array, None]:
    return time, None


@_implicit.def_bwd
def _(
    residuals: None,
    cotangent: Array,
    perturbed: Any,
    problem: tuple[Instance, Goal],
    time: Array,
) -> tuple[Instance, Goal]:
    reached = jnp.isfinite(time)
    order = jnp.argsort(jnp.where(reached, time, 0.0))
    times = jnp.where(reached, time, 0.0)[order]

    def excess(problem: tuple[Instance, Goal]) -> tuple[Array, Array]:
        """Each prompt's expectation minus its level at its own, fixed hitting time, and its rate."""
        instance, goal = problem
        parameters = trajectory(instance, times)[jnp.argsort(order)]

        def gap(parameters: Array) -> Array:
            return expected_reward(instance.probabilities(parameters), goal.values) - goal.level

        def moving(parameters: Array) -> tuple[Array, Array]:
            return jax.jvp(gap, (parameters,), (gradient(instance, parameters),))

        gaps, slopes = jax.vmap(moving)(parameters)
        return jnp.diagonal(gaps), jax.lax.stop_gradient(jnp.diagonal(slopes))

    def implicit_time(problem: tuple[Instance, Goal]) -> Array:
        gaps, slopes = excess(problem)
        return -(jnp.where(reached, cotangent / slopes, 0.0) * gaps).sum()

    return eqx.filter_grad(implicit_time)(problem)
