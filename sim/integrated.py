"""Gradient flow where it is integrated: any policy, with or without regularisation.

Trajectories are diffrax's; hitting times are found by :mod:`goodteacher.sim.integrator`, whose cost grows
with the logarithm of the time. What can be solved, :mod:`goodteacher.sim.flow` has solved instead; here it is
integrated like everything else.
"""

from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from goodteacher.sim.control import MAX_STEPS, SOLVER, TOLERANCE, Control, HittingTime
from goodteacher.sim.goals import Goal, excess, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.integrator import FIRST_STEP, Done, Problem, centred, prepare, run_many, run_one, stuck
from goodteacher.sim.objective import gradient, logit_gradient
from goodteacher.sim.policies import Tabular
from goodteacher.sim.status import Status

_ARRIVED = 1e-6  # probability of all other outputs


def hitting_time(instance: Instance, goal: Goal, control: Control) -> HittingTime:
    """As :func:`goodteacher.sim.flow.hitting_time`.

    ``time`` has a reverse-mode derivative, by the implicit function theorem.

    Raises:
        ValueError: if the solver is not explicit.
    """
    found = _one(instance, goal, np.asarray(False), _explicit(control))
    return eqx.tree_at(lambda r: r.time, found, _differentiable((instance, goal), found.time))


def hitting_times(
    instances: Instance, goals: Goal, horizons: Any, control: Control, lanes: int
) -> HittingTime:
    """As :func:`goodteacher.sim.flow.hitting_times`, with horizons of their own."""
    return _many(
        instances, goals, horizons, np.asarray(False), _without_horizon(control), min(lanes, len(horizons))
    )


def final_policy(
    instance: Instance, control: Control
) -> tuple[Float[Array, "prompts outputs"], Float[Array, ""]]:
    """As :func:`goodteacher.sim.flow.final_policy`."""
    result = _one(instance, None, np.asarray(True), _explicit(control))
    return result.log_probabilities, result.end


def final_policies(
    instances: Instance, horizons: Any, control: Control, lanes: int
) -> tuple[Float[Array, "batch prompts outputs"], Float[Array, " batch"]]:
    """As :func:`goodteacher.sim.flow.final_policies`, with horizons of their own."""
    result = _many(
        instances, None, horizons, np.asarray(True), _without_horizon(control), min(lanes, len(horizons))
    )
    return result.log_probabilities, result.end


def trajectory(instance: Instance, times: Any, control: Control) -> Float[Array, "times ..."]:
    """As :func:`goodteacher.sim.flow.trajectory`."""
    moved = _displacements(instance, times, control.solver, control.tolerance, int(control.max_steps))
    return instance.initial_parameters + moved


def _explicit(control: Control) -> Control:
    if not isinstance(control.solver, diffrax.AbstractERK):
        name = type(control.solver).__name__
        raise ValueError(f"solver is {name}; give an explicit Runge-Kutta method, such as diffrax.Dopri8()")
    return control


def _without_horizon(control: Control) -> Control:
    """With none: those of the problems count."""
    return eqx.tree_at(lambda c: c.horizon, _explicit(control), np.zeros(()))


def _nothing(instance: Instance) -> Goal:
    """The goal of a flow that waits for the horizon alone."""
    shape = instance.rewards.shape
    return Goal(jnp.asarray(np.zeros(shape)), jnp.asarray(np.ones(shape[:-1])))


def _velocity(time: Any, displacement: Any, instance: Any) -> Array:
    return gradient(instance, instance.initial_parameters + displacement)


@partial(jax.jit, static_argnames=("solver", "max_steps"))
def _displacements(
    instance: Instance,
    times: Array,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: ArrayLike,
    max_steps: int,
) -> Array:
    """By how much the parameters have moved at given times."""
    speed = jnp.abs(gradient(instance, instance.initial_parameters)).max()
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity),
        solver,
        t0=0.0,
        t1=times[-1],
        dt0=jnp.minimum(FIRST_STEP / jnp.maximum(speed, jnp.finfo(float).tiny), times[-1]),
        y0=jnp.zeros_like(instance.initial_parameters),
        args=instance,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=0.0, atol=jnp.asarray(tolerance)),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    return jnp.where(jnp.isfinite(solution.ys), solution.ys, jnp.nan)


def _separable(instance: Instance) -> bool:
    """Whether the prompts of an instance, or of each of a batch, are independent problems."""
    return isinstance(instance.policy, Tabular) and instance.rewards.shape[-2] > 1


def _apart(instance: Instance, goal: Goal) -> tuple[Instance, Goal]:
    """Every prompt of a tabular policy by itself, in its own leading axis; its weight is its speed.

    Integrated together, one that is at rest would hold the others to the short steps that it needs.
    """
    prompts = len(goal.level)
    common = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, prompts), _common(instance))
    rows = eqx.tree_at(_common, instance, (None, None), is_leaf=_is_none)
    rows, goal = jax.tree.map(lambda leaf: leaf[:, None], (rows, goal))
    return eqx.tree_at(_common, rows, common, is_leaf=_is_none), goal


def _common(instance: Instance) -> tuple[Any, Any]:
    """What all prompts of an instance have in common."""
    return instance.regularizer, instance.clock


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _together(found: HittingTime) -> HittingTime:
    """The results of the prompts of a problem as one."""
    return HittingTime(
        time=found.time[:, 0],
        status=found.status[:, 0],
        log_probabilities=found.log_probabilities[:, 0],
        end=found.end.max(),
        solved=found.solved.all(),
        steps=found.steps.sum(),
    )


@jax.jit
def _one(instance: Instance, goal: Goal | None, endless: Array, control: Control) -> HittingTime:
    goal = goal or _nothing(instance)
    if _separable(instance):
        one = jax.vmap(_one, in_axes=(0, 0, None, None))
        return _together(one(*_apart(instance, goal), endless, control))
    problem = jax.lax.stop_gradient(prepare(instance, goal, control.horizon, endless))
    done, converged = run_one(problem, control.solver, control.tolerance, control.max_steps)
    return jax.lax.stop_gradient(_result(problem, control.horizon, done, converged))


@partial(jax.jit, static_argnames="lanes")
def _many(
    instances: Instance, goals: Goal | None, horizons: Array, endless: Array, control: Control, lanes: int
) -> HittingTime:
    goals = goals or jax.vmap(_nothing)(instances)
    endless = jnp.broadcast_to(endless, horizons.shape)
    if _separable(instances):
        count, prompts = goals.level.shape
        rows = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.vmap(_apart)(instances, goals)
        )
        each = partial(jnp.repeat, repeats=prompts)
        found = _many(*rows, each(horizons), each(endless), control, lanes)
        return jax.vmap(_together)(
            jax.tree.map(lambda leaf: leaf.reshape(count, prompts, *leaf.shape[1:]), found)
        )
    problems = jax.vmap(prepare)(instances, goals, horizons, endless)
    done, converged, _ = run_many(problems, control.solver, control.tolerance, control.max_steps, lanes)
    return jax.vmap(_result)(problems, horizons, done, converged)


def _result(problem: Problem, horizon: ArrayLike, done: Done, converged: Array) -> HittingTime:
    instance, goal = problem.instance, problem.goal
    pending, halted = done.pending[:-1], stuck(problem, done)
    time = problem.time_scale * jnp.expm1(done.hit_log_time[:-1])
    resting = jnp.where(halted, converged, _at_the_best(instance, problem.parameters(done.end)))
    status = jnp.select(
        [
            jnp.isfinite(time),
            ~is_possible(instance, goal),
            ~_has_signal(instance),
            pending & halted & (done.steps == 0),
            jnp.isnan(time),
            pending & halted & ~converged,
            ~pending | resting,  # what is not pending any more was seen to be beyond the optimum
        ],
        [
            jnp.asarray(int(status))
            for status in (
                Status.REACHED,
                Status.OUT_OF_REACH,
                Status.NO_SIGNAL,
                Status.STATIONARY,
                Status.NOT_CONVERGED,
                Status.NOT_CONVERGED,
                Status.OPTIMUM,
            )
        ],
        int(Status.NOT_REACHED),
    )
    end = problem.time_scale * jnp.expm1(done.end.log_time)
    final = jnp.where(halted & ~converged.all(), end, horizon)
    final = jnp.where(jnp.isnan(done.hit_log_time[-1]), jnp.nan, final)
    return HittingTime(
        time=jnp.where(status == Status.NOT_CONVERGED, jnp.nan, time),
        status=status,
        log_probabilities=jax.nn.log_softmax(done.hit_logits),
        end=jnp.where(problem.endless, final, end),
        solved=jnp.zeros((), bool),
        steps=done.steps,
    )


def _has_signal(instance: Instance) -> Bool[Array, " prompts"]:
    """Whether the objective of a prompt pulls its policy anywhere at the start."""
    pull = logit_gradient(instance, instance.logits(instance.initial_parameters))
    return (pull != 0).any(-1)


def _at_the_best(instance: Instance, parameters: Array) -> Bool[Array, " prompts"]:
    """Whether a policy has come to what is trained on, where nothing regularises: it stays there."""
    if instance.regularizer is not None:
        return jnp.zeros(len(instance.rewards), bool)
    probabilities = instance.probabilities(parameters)
    rewards = jnp.where(probabilities > 0, instance.rewards, -jnp.inf)
    best = rewards == rewards.max(-1, keepdims=True)
    return probabilities.sum(-1, where=~best) < _ARRIVED


@jax.jit
def _differentiable(problem: tuple[Instance, Goal], time: Array) -> Array:
    """The hitting times as a differentiable function of the problem."""
    if not _separable(problem[0]):
        return _implicit(problem, time)
    return jax.vmap(_implicit)(_apart(*problem), time[:, None])[:, 0]


@eqx.filter_custom_vjp
def _implicit(problem: tuple[Instance, Goal], time: Array) -> Array:
    """The same, of prompts that are integrated together."""
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
    reached = jnp.isfinite(time) & (time > 0)  # what is met at the start is so for all problems close by
    order = jnp.argsort(jnp.where(reached, time, 0.0))
    times = jnp.where(reached, time, 0.0)[order]

    def missing(problem: tuple[Instance, Goal]) -> tuple[Array, Array]:
        """Each prompt's expectation minus its level at its own, fixed hitting time, and its rate."""
        instance, goal = problem
        instance = centred(instance)
        moved = _displacements(instance, times, SOLVER, TOLERANCE, MAX_STEPS)[jnp.argsort(order)]

        def gap(displacement: Array) -> Array:
            return excess(instance, goal, displacement)[0]

        def moving(displacement: Array) -> tuple[Array, Array]:
            return jax.jvp(gap, (displacement,), (_velocity(None, displacement, instance),))

        gaps, slopes = jax.vmap(moving)(moved)
        return jnp.diagonal(gaps), jax.lax.stop_gradient(jnp.diagonal(slopes))

    def implicit_time(problem: tuple[Instance, Goal]) -> Array:
        gaps, slopes = missing(problem)
        return -(jnp.where(reached, cotangent / slopes, 0.0) * gaps).sum()

    return eqx.filter_grad(implicit_time)(problem)
