"""Gradient flow ``d theta / dt = grad phi``: hitting times, final policies and trajectories.

Solved by one root and one quadrature where each output has a logit of its own and nothing is regularised
(:mod:`goodteacher.sim.solved`), and integrated elsewhere (:mod:`goodteacher.sim.integrated`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim import integrated, solved
from goodteacher.sim.control import HORIZON, MAX_STEPS, SOLVER, TOLERANCE, Control, HittingTime
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.solved import is_solvable
from goodteacher.sim.status import Status
from goodteacher.sim.validation import Numbers, as_array, is_concrete, namespace

__all__ = [
    "HORIZON",
    "LANES",
    "MAX_STEPS",
    "SOLVER",
    "TOLERANCE",
    "Control",
    "HittingTime",
    "final_policies",
    "final_policy",
    "hitting_time",
    "hitting_times",
    "is_solvable",
    "trajectory",
]

LANES = 128
_LARGE = 1 << 12  # problems, up to which their number is filled up to a power of two


def hitting_time(instance: Instance, goal: Goal, control: Control | None = None) -> HittingTime:
    """First time at which each prompt's goal is met along the gradient flow from the initial policy.

    May be jitted and vmapped (but see :func:`hitting_times` for many). ``time`` is differentiable by
    everything in the instance and the goal: in both modes and twice where the flow is solved, in reverse mode
    where it is integrated. The derivative is zero where the goal is not reached, or met at the start.

    Args:
        instance: the problem.
        goal: what is to be reached.
        control: ``Control()`` if not given.

    Returns:
        A :class:`HittingTime` of arrays with leading axis prompts.
    """
    control = control or Control()
    instance, goal = _strong((instance, goal))
    if not is_solvable(instance):
        return integrated.hitting_time(instance, goal, control)
    found = _solve_one(instance, goal, control.horizon)
    return _with_late(found, lambda: _look_one(instance, control.horizon))


def hitting_times(
    instances: Instance, goals: Goal, control: Control | None = None, *, lanes: int = LANES
) -> HittingTime:
    """Hitting times of many problems: :func:`hitting_time` over a leading axis of every array.

    Args:
        instances: a batch of problems of one shape, as ``jax.vmap`` makes it.
        goals: one for each.
        control: ``Control()`` if not given.
        lanes: how many problems are under way at a time where they are integrated.

    Returns:
        A :class:`HittingTime` of arrays with leading axes batch and prompts.

    Raises:
        ValueError: if there is no problem or no lane, or a number of horizons that fits neither.
    """

    def run(instances: Instance, goals: Goal, horizons: Any, control: Control, lanes: int) -> HittingTime:
        if is_solvable(instances):
            found = _solve(instances, goals, horizons)
            return _with_late(found, lambda: _look(instances, horizons))
        return integrated.hitting_times(instances, goals, horizons, control, lanes)

    return _batch(run, instances, goals, control, lanes)


def final_policy(
    instance: Instance, control: Control | None = None
) -> tuple[Float[Array, "prompts outputs"], Float[Array, ""]]:
    """Where the gradient flow is at the horizon; where it has come to rest before, it is still there.

    Args as for :func:`hitting_time`.

    Returns:
        Log-probabilities, and the time at which they are those of the policy: the horizon, or an earlier
        one if the steps ran out; ``nan`` if rounding errors have grown too large to know.
    """
    control = control or Control()
    instance = _strong(instance)
    if not is_solvable(instance):
        return integrated.final_policy(instance, control)
    return _look_one(instance, control.horizon), jnp.asarray(control.horizon)


def final_policies(
    instances: Instance, control: Control | None = None, *, lanes: int = LANES
) -> tuple[Float[Array, "batch prompts outputs"], Float[Array, " batch"]]:
    """Where many gradient flows are at the horizon: :func:`final_policy` over a leading axis of every array.

    Args and errors as for :func:`hitting_times`.
    """

    def run(
        instances: Instance, goals: Goal | None, horizons: Any, control: Control, lanes: int
    ) -> tuple[Array, Array]:
        if is_solvable(instances):
            return _look(instances, horizons), jnp.asarray(horizons)
        return integrated.final_policies(instances, horizons, control, lanes)

    return _batch(run, instances, None, control, lanes)


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
    if is_solvable(instance):
        return _follow(_strong(instance), jnp.asarray(times))
    return integrated.trajectory(instance, times, control or Control())


def _with_late(found: HittingTime, look: Callable[[], Array]) -> HittingTime:
    """With the policies at the horizon of those that have not reached their goals by then."""
    if is_concrete(found.status) and not (np.asarray(found.status) == Status.NOT_REACHED).any():
        return found
    policies = _where_late(found.status, look(), found.log_probabilities)
    return eqx.tree_at(lambda f: f.log_probabilities, found, policies)


@jax.jit
def _where_late(status: Array, late: Array, other: Array) -> Array:
    return jnp.where((status == Status.NOT_REACHED)[..., None], late, other)


def _alone(of: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a batch as one of a problem."""

    def one(*problem: Any) -> Any:
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], problem)
        return jax.tree.map(lambda leaf: leaf[0], of(*batch))

    return jax.jit(one)


@jax.jit
def _solve(instances: Instance, goals: Goal, horizons: Array) -> HittingTime:
    found = solved.hitting_times(instances, goals, horizons)
    yes = jnp.ones(horizons.shape, bool)
    return HittingTime(*found, solved=yes, steps=jnp.zeros(horizons.shape, int))


_solve_one = _alone(_solve)
_look = jax.jit(solved.policies)
_look_one = _alone(solved.policies)
_follow = jax.jit(solved.trajectory)


def _batch(
    run: Callable[..., Any],
    instances: Instance,
    goals: Goal | None,
    control: Control | None,
    lanes: int,
) -> Any:
    control = control or Control()
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}; give at least 1")
    count = instances.rewards.shape[0]
    if count == 0:
        raise ValueError("instances holds no problem; give at least one")
    if control.horizon.shape not in ((), (count,)):
        raise ValueError(f"horizon has shape {list(control.horizon.shape)}; give one number, or {count}")
    horizons = namespace(control.horizon).broadcast_to(control.horizon, (count,))
    problems = (*_strong((instances, goals)), horizons)
    if not is_concrete(*jax.tree.leaves(problems)):
        return run(*problems, control, min(lanes, count))
    # One compilation serves many sizes: surplus problems repeat the last.
    size = _padded(count)
    instances, goals, horizons = jax.tree.map(partial(_extended, size=size), problems)
    if goals is not None:  # of those that are met at once
        goals = goals.lowered((np.arange(size) >= count)[:, None])
    found = run(instances, goals, horizons, control, min(lanes, size))
    return found if size == count else jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:count]), found)


def _padded(count: int) -> int:
    """The next power of two, or multiple of a large one."""
    return min(1 << (count - 1).bit_length(), -(-count // _LARGE) * _LARGE)


def _extended(leaf: Any, size: int) -> Any:
    if len(leaf) == size:
        return leaf
    return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), size - len(leaf), axis=0)])


def _strong(tree: Any) -> Any:
    """Without weak types (of what Python's numbers went into): they would compile everything anew."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), tree)
