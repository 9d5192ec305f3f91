"""Gradient flow ``d theta / dt = grad phi``: trajectories, and hitting times at any horizon.

Trajectories are diffrax's; hitting times are found by :mod:`goodteacher.sim.integrator`, whose cost grows
with the logarithm of the time.
"""

from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from goodteacher.sim.goals import Goal, excess, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.integrator import FIRST_STEP, Done, Problem, centred, prepare, run_many, run_one, stuck
from goodteacher.sim.objective import gradient, logit_gradient
from goodteacher.sim.policies import Tabular
from goodteacher.sim.status import Status
from goodteacher.sim.validation import Numbers, as_array, is_concrete, namespace

SOLVER = diffrax.Dopri8()
HORIZON = 1e300  # about as far as numbers go
TOLERANCE = 1e-10  # hitting times are then good to a relative 1e-9 or better (benchmarks/accuracy.py)
MAX_STEPS = 100_000
LANES = 128
_LARGE = 1 << 12  # problems, up to which their number is filled up to a power of two
_ARRIVED = 1e-6  # probability of all other outputs


class HittingTime(eqx.Module):
    """First times at which goals are met; every array has the batch's leading axis, if there is one.

    Attributes:
        time: ``[prompts]``; ``inf`` where not reached, ``nan`` where not converged.
        status: ``[prompts]``, of :class:`goodteacher.sim.status.Status`.
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


class Control(eqx.Module):
    """How a flow is integrated, and how far.

    Attributes:
        solver: a Runge-Kutta method of diffrax: explicit for hitting times and final policies; for
            trajectories any with an error estimate.
        tolerance: error per step, of a logit or of the logarithm of the time; of a parameter for
            trajectories.
        horizon: the time at which to give up; one for all problems of a batch, or one for each.
        max_steps: Runge-Kutta steps after which to give up.
    """

    solver: diffrax.AbstractAdaptiveSolver
    tolerance: Any
    horizon: Any
    max_steps: Any

    def __init__(
        self,
        solver: diffrax.AbstractAdaptiveSolver = SOLVER,
        tolerance: Numbers = TOLERANCE,
        horizon: Numbers = HORIZON,
        max_steps: Numbers = MAX_STEPS,
    ):
        """Validates the numbers.

        Raises:
            ValueError: if the tolerance, the horizon or the number of steps is not positive and finite.
        """
        self.solver = solver
        self.tolerance = _positive("tolerance", tolerance, float)
        self.horizon = _positive("horizon", horizon, float)
        self.max_steps = _positive("max_steps", max_steps, int)


def _positive(name: str, value: Numbers, kind: type) -> Any:
    # Of a definite type: that of Python's numbers would compile everything anew.
    whole = kind is int and is_concrete(value) and np.isfinite(value).all()
    array = namespace(value).asarray(value, int if whole else float)
    if is_concrete(array) and not ((array > 0) & np.isfinite(array)).all():
        raise ValueError(f"{name} is {value}; give a positive, finite number")
    return array


def _explicit(control: Control | None) -> Control:
    control = control or Control()
    if not isinstance(control.solver, diffrax.AbstractERK):
        name = type(control.solver).__name__
        raise ValueError(f"solver is {name}; give an explicit Runge-Kutta method, such as diffrax.Dopri8()")
    return control


def hitting_time(instance: Instance, goal: Goal, control: Control | None = None) -> HittingTime:
    """First time at which each prompt's goal is met along the gradient flow from the initial policy.

    May be jitted and vmapped (but see :func:`hitting_times` for many). ``time`` has a reverse-mode
    derivative with respect to everything in the instance and the goal, by the implicit function theorem;
    it is zero where the goal is not reached.

    Args:
        instance: the problem.
        goal: what is to be reached; the integration ends when every prompt has met its own.
        control: ``Control()`` if not given.

    Returns:
        A :class:`HittingTime` of arrays with leading axis prompts.
    """
    problem, control = _strong((instance, goal)), _explicit(control)
    found = _one(*problem, np.asarray(False), control)
    return eqx.tree_at(lambda r: r.time, found, _differentiable(problem, found.time))


def hitting_times(
    instances: Instance, goals: Goal, control: Control | None = None, *, lanes: int = LANES
) -> HittingTime:
    """Hitting times of many problems: :func:`hitting_time` over a leading axis of every array.

    Args:
        instances: a batch of problems of one shape, as ``jax.vmap`` makes it.
        goals: one for each.
        control: ``Control()`` if not given.
        lanes: how many problems are under way at a time.

    Returns:
        A :class:`HittingTime` of arrays with leading axes batch and prompts.

    Raises:
        ValueError: if there is no problem or no lane, or a number of horizons that fits neither.
    """
    return _batch(instances, goals, _explicit(control), lanes, endless=False)


def final_policy(
    instance: Instance, control: Control | None = None
) -> tuple[Float[Array, "prompts outputs"], Float[Array, ""]]:
    """Where the gradient flow is at the horizon; where it has come to rest before, it is still there.

    Args as for :func:`hitting_time`.

    Returns:
        Log-probabilities, and the time at which they are those of the policy: the horizon, or an earlier
        one if the steps ran out; ``nan`` if rounding errors have grown too large to know.
    """
    goal, control = _nothing(instance.rewards.shape), _explicit(control)
    result = _one(_strong(instance), goal, np.asarray(True), control)
    return result.log_probabilities, result.end


def final_policies(
    instances: Instance, control: Control | None = None, *, lanes: int = LANES
) -> tuple[Float[Array, "batch prompts outputs"], Float[Array, " batch"]]:
    """Where many gradient flows are at the horizon: :func:`final_policy` over a leading axis of every array.

    Args and errors as for :func:`hitting_times`.
    """
    count, *shape = instances.rewards.shape
    # Inside of a compiled function even these are traced.
    goals = jax.tree.map(
        lambda leaf: namespace(leaf).broadcast_to(leaf, (count, *leaf.shape)), _nothing(tuple(shape))
    )
    result = _batch(instances, goals, _explicit(control), lanes, endless=True)
    return result.log_probabilities, result.end


def _nothing(shape: tuple[int, ...]) -> Goal:
    """The goal of a flow that waits for the horizon alone."""
    return Goal(jnp.asarray(np.zeros(shape)), jnp.asarray(np.ones(shape[:-1])))


def _batch(instances: Instance, goals: Goal, control: Control, lanes: int, *, endless: bool) -> HittingTime:
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}; give at least 1")
    count = instances.rewards.shape[0]
    if count == 0:
        raise ValueError("instances holds no problem; give at least one")
    if control.horizon.shape not in ((), (count,)):
        raise ValueError(f"horizon has shape {list(control.horizon.shape)}; give one number, or {count}")
    horizons = namespace(control.horizon).broadcast_to(control.horizon, (count,))
    problems = (*_strong((instances, goals)), horizons)
    control = eqx.tree_at(lambda c: c.horizon, control, np.zeros(()))  # those of the problems count
    if not is_concrete(*jax.tree.leaves(problems)):
        return _many(*problems, np.asarray(endless), control, min(lanes, count))
    # One compilation serves many sizes: surplus problems repeat the last, with a goal that is met at once.
    size = _padded(count)
    instances, goals, horizons = jax.tree.map(partial(_extended, size=size), problems)
    surplus = np.arange(size) >= count
    found = _many(
        instances, goals.lowered(surplus[:, None]), horizons, endless & ~surplus, control, min(lanes, size)
    )
    return found if size == count else jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:count]), found)


def _padded(count: int) -> int:
    """The next power of two, or multiple of a large one."""
    return min(1 << (count - 1).bit_length(), -(-count // _LARGE) * _LARGE)


def _extended(leaf: Any, size: int) -> Any:
    if len(leaf) == size:
        return leaf
    return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), size - len(leaf), axis=0)])


def trajectory(
    instance: Instance, times: Numbers, control: Control | None = None
) -> Float[Array, "times ..."]:
    """Parameters along the gradient flow, at given times. Differentiable in the instance.

    Args:
        instance: the problem.
        times: ascending, not negative; for instance log-spaced.
        control: ``Control()`` if not given; an implicit solver for stiff problems. The horizon does not
            count.

    Returns:
        Parameters with a leading axis over the times; ``nan`` from where the steps ran out.

    Raises:
        ValueError: if the times are empty, negative, not finite or not ascending.
    """
    times = as_array("times", times)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"times has shape {list(times.shape)}; give a list of at least one time")
    if is_concrete(times):
        ascending = np.all(np.diff(times) >= 0)
        if not (ascending and times[0] >= 0 and np.isfinite(times[-1])):
            raise ValueError("times must be finite, not negative and ascending")
    control = control or Control()
    moved = _displacements(instance, times, control.solver, control.tolerance, int(control.max_steps))
    return instance.initial_parameters + moved


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


def _strong(tree: Any) -> Any:
    """Without weak types (of what Python's numbers went into): they would compile everything anew."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), tree)


def _separable(instance: Instance) -> bool:
    """Whether the prompts of an instance, or of each of a batch, are independent problems."""
    return isinstance(instance.policy, Tabular) and instance.rewards.shape[-2] > 1


def _apart(instance: Instance, goal: Goal) -> tuple[Instance, Goal]:
    """Every prompt of a tabular policy by itself, in its own leading axis; its weight is its speed.

    Integrated together, one that is at rest would hold the others to the short steps that it needs.
    """
    prompts = len(goal.level)
    regularizer = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, prompts), instance.regularizer)
    rows = eqx.tree_at(lambda i: i.regularizer, instance, None, is_leaf=_is_none)
    rows, goal = jax.tree.map(lambda leaf: leaf[:, None], (rows, goal))
    return eqx.tree_at(lambda i: i.regularizer, rows, regularizer, is_leaf=_is_none), goal


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _together(found: HittingTime) -> HittingTime:
    """The results of the prompts of a problem as one."""
    return HittingTime(
        time=found.time[:, 0],
        status=found.status[:, 0],
        log_probabilities=found.log_probabilities[:, 0],
        end=found.end.max(),
        steps=found.steps.sum(),
    )


@jax.jit
def _one(instance: Instance, goal: Goal, endless: Array, control: Control) -> HittingTime:
    if _separable(instance):
        one = jax.vmap(_one, in_axes=(0, 0, None, None))
        return _together(one(*_apart(instance, goal), endless, control))
    problem = jax.lax.stop_gradient(prepare(instance, goal, control.horizon, endless))
    done, converged = run_one(problem, control.solver, control.tolerance, control.max_steps)
    return jax.lax.stop_gradient(_result(problem, control.horizon, done, converged))


@partial(jax.jit, static_argnames="lanes")
def _many(
    instances: Instance, goals: Goal, horizons: Array, endless: Array, control: Control, lanes: int
) -> HittingTime:
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
