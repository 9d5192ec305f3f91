"""Gradient flow where it is integrated: any policy, with or without regularisation.

By :mod:`goodteacher.sim.integrator`, whose cost grows with the logarithm of the time; derivatives are by
diffrax, along time itself. What can be solved, :mod:`goodteacher.sim.flow` has solved instead; here it is
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

from goodteacher.sim.batching import as_batch, filled, only
from goodteacher.sim.control import MAX_STEPS, TOLERANCE, Control, HittingTime
from goodteacher.sim.goals import Goal, excess, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.integrator import (
    FIRST_STEP,
    Done,
    Problem,
    centred,
    prepare,
    run_many,
    run_one,
    run_through,
    stuck,
)
from goodteacher.sim.objective import gradient, logit_gradient
from goodteacher.sim.policies import Tabular
from goodteacher.sim.status import Status
from goodteacher.sim.validation import AnyArray, is_concrete, namespace

SOLVER = diffrax.Dopri8()  # unless another is given
_ARRIVED = 1e-6  # probability of all other outputs
_LEAST_LANES = 8  # of the prompts of one problem
_TOGETHER = 128  # paths; all wait for the longest


def hitting_time(instance: Instance, goal: Goal, control: Control) -> HittingTime:
    """As :func:`goodteacher.sim.flow.hitting_time`.

    ``time`` has a reverse-mode derivative, by the implicit function theorem.

    Raises:
        ValueError: if the solver is not explicit.
    """
    control = _explicit(control)
    if _is_batched(instance, goal, control):
        return only(
            hitting_times(*as_batch((instance, goal, control.horizon)), control=control, lanes=_LEAST_LANES)
        )
    found = _one(instance, goal, np.asarray(False), control)
    return eqx.tree_at(lambda r: r.time, found, _differentiable((instance, goal), found.time))


def hitting_times(
    instances: Instance, goals: Goal, horizons: Any, control: Control, lanes: int
) -> HittingTime:
    """As :func:`goodteacher.sim.flow.hitting_times`, with horizons of their own."""
    return _batch(instances, goals, horizons, np.asarray(False), control, lanes)


def final_policy(
    instance: Instance, control: Control
) -> tuple[Float[Array, "prompts outputs"], Float[Array, ""]]:
    """As :func:`goodteacher.sim.flow.final_policy`."""
    control = _explicit(control)
    if _is_batched(instance, control):
        return only(
            final_policies(*as_batch((instance, control.horizon)), control=control, lanes=_LEAST_LANES)
        )
    result = _one(instance, None, np.asarray(True), control)
    return result.log_probabilities, result.end


def final_policies(
    instances: Instance, horizons: Any, control: Control, lanes: int
) -> tuple[Float[Array, "batch prompts outputs"], Float[Array, " batch"]]:
    """As :func:`goodteacher.sim.flow.final_policies`, with horizons of their own."""
    result = _batch(instances, None, horizons, np.asarray(True), control, lanes)
    return result.log_probabilities, result.end


def trajectories(
    instances: Instance, times: Float[AnyArray, "batch times"], control: Control
) -> Float[Array, "batch times ..."]:
    """As :func:`goodteacher.sim.flow.trajectories`.

    Raises:
        ValueError: if the solver is not explicit.
    """
    moved = _moved((instances, jnp.asarray(times)), _explicit(control))
    return instances.initial_parameters[:, None] + moved


@jax.jit
def _along(instances: Instance, times: Array, control: Control) -> Array:
    """By how much the parameters of each problem have moved at its times, ``[batch, times, ...]``."""
    if isinstance(instances.policy, Tabular) and instances.rewards.shape[1] > 1:
        count, prompts, _ = instances.rewards.shape
        rows, _, of_rows = _rows(instances, None, times)
        moved = _along(rows, of_rows, control)[:, :, 0]
        return jnp.moveaxis(moved.reshape(count, prompts, *moved.shape[1:]), 1, 2)

    def together(instances: Instance, times: Array) -> Array:
        goals = jax.vmap(_nothing)(instances)
        problems = jax.vmap(prepare)(instances, goals, times[:, -1], jnp.ones(len(times), bool))
        problems = jax.lax.stop_gradient(problems)
        return run_through(problems, times, control.solver, control.tolerance, control.max_steps)

    count = len(times)
    if count <= _TOGETHER:
        return together(instances, times)
    blocks = -(-count // _TOGETHER)

    def split(leaf: Array) -> Array:
        pad = [(0, blocks * _TOGETHER - count)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, pad, mode="edge").reshape(blocks, _TOGETHER, *leaf.shape[1:])

    moved = jax.lax.map(lambda block: together(*block), jax.tree.map(split, (instances, times)))
    return moved.reshape(-1, *moved.shape[2:])[:count]


@eqx.filter_custom_vjp
def _moved(paths: tuple[Instance, Array], control: Control) -> Array:
    """The same as a differentiable function of the problems and the times."""
    return _along(*paths, control)


@_moved.def_fwd
def _(perturbed: Any, paths: tuple[Instance, Array], control: Control) -> tuple[Array, None]:
    return _along(*paths, control), None


@_moved.def_bwd
def _(
    residuals: None, cotangent: Array, perturbed: Any, paths: tuple[Instance, Array], control: Control
) -> tuple[Instance, Array]:
    def weighed(paths: tuple[Instance, Array]) -> Array:
        def moved(instance: Instance, times: Array) -> Array:
            return _displacements(instance, times, control.solver, control.tolerance, MAX_STEPS)

        return (cotangent * jax.vmap(moved)(*paths)).sum()

    return eqx.filter_grad(weighed)(paths)


def _given(control: Control) -> Control:
    if control.solver is not None:
        return control
    return eqx.tree_at(lambda c: c.solver, control, SOLVER, is_leaf=lambda leaf: leaf is None)


def _explicit(control: Control) -> Control:
    control = _given(control)
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


def _is_batched(*problem: Any) -> bool:
    """Whether a problem is one of a batch like others, for which one program may be there already."""
    return isinstance(problem[0].policy, Tabular) and is_concrete(*jax.tree.leaves(problem))


def _batch(
    instances: Instance,
    goals: Goal | None,
    horizons: AnyArray,
    endless: AnyArray,
    control: Control,
    lanes: int,
) -> HittingTime:
    """The flows of a batch; of tabular policies, every prompt by itself."""
    control = _without_horizon(control)

    def run(instances: Instance, goals: Goal | None, horizons: AnyArray) -> HittingTime:
        return _many(instances, goals, horizons, endless, control, min(lanes, len(horizons)))

    if not isinstance(instances.policy, Tabular):
        return filled(run, instances, goals, horizons)
    count, prompts, _ = instances.rewards.shape
    found = filled(run, *_rows(instances, goals, horizons))

    def by_problem(leaf: AnyArray) -> AnyArray:
        return namespace(leaf).asarray(leaf).reshape(count, prompts, *leaf.shape[1:])

    return jax.device_put(_together(jax.tree.map(by_problem, found)))


def _rows(instances: Instance, goals: Goal | None, horizons: AnyArray) -> tuple[Any, ...]:
    """Every prompt of a batch as a problem of its own, as :func:`_apart`."""
    problems = instances, goals, horizons
    xp = namespace(*jax.tree.leaves(problems))
    if xp is np:
        problems = jax.device_get(problems)
    instances, goals, horizons = problems
    prompts = instances.rewards.shape[1]
    common, horizons = jax.tree.map(
        lambda leaf: xp.repeat(leaf, prompts, axis=0), (_common(instances), horizons)
    )
    rows = eqx.tree_at(_common, instances, (None, None), is_leaf=_is_none)
    rows, goals = jax.tree.map(lambda leaf: leaf.reshape(-1, 1, *leaf.shape[2:]), (rows, goals))
    return eqx.tree_at(_common, rows, common, is_leaf=_is_none), goals, horizons


def _separable(instance: Instance) -> bool:
    """Whether the prompts of an instance are independent problems."""
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
    """The results of the prompts of a problem, or of each of a batch, as one."""
    first = found.time[..., 0], found.status[..., 0], found.log_probabilities[..., 0, :]
    whole = found.end.max(-1), found.solved.all(-1), found.steps.sum(-1)
    return eqx.tree_at(
        lambda f: (f.time, f.status, f.log_probabilities, f.end, f.solved, f.steps), found, first + whole
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
