"""Gradient flow ``d theta / dt = grad phi``: hitting times, final policies and trajectories.

Solved by one root and one quadrature where each output has a logit of its own and nothing is regularised
(:mod:`goodteacher.sim.solved`), and integrated elsewhere (:mod:`goodteacher.sim.integrated`). An instance
with a clock (:mod:`goodteacher.sim.clocks`) follows what its estimator makes of the gradient.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from goodteacher.sim import natural, solved
from goodteacher.sim.batching import as_batch, filled, only
from goodteacher.sim.clocks import BatchScaled, Natural
from goodteacher.sim.control import HORIZON, MAX_STEPS, TOLERANCE, Control, HittingTime
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.separation import is_solvable, sharing
from goodteacher.sim.status import Status
from goodteacher.sim.validation import (
    AnyArray,
    Numbers,
    as_array,
    beside,
    is_concrete,
    namespace,
    rows_of_times,
    strongly_typed,
)

__all__ = [
    "HORIZON",
    "LANES",
    "MAX_STEPS",
    "TOLERANCE",
    "Control",
    "HittingTime",
    "final_policies",
    "final_policy",
    "hitting_time",
    "hitting_times",
    "hitting_times_only",
    "is_solvable",
    "policies",
    "trajectories",
    "trajectory",
]

LANES = 128


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
    instance, goal = strongly_typed((instance, goal))
    if isinstance(instance.clock, BatchScaled):
        instances, goals, horizons = as_batch((instance, goal, control.horizon))
        return only(_batch_scaling().hitting_times(instances, goals, horizons, control))
    if not is_solvable(instance):
        return _integrated().hitting_time(instance, goal, control)
    return only(_solve(*as_batch((instance, goal, control.horizon))))


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
    instances, goals, horizons, control = _batch(instances, goals, control, lanes)
    if isinstance(instances.clock, BatchScaled):
        return _batch_scaling().hitting_times(instances, goals, horizons, control)
    if is_solvable(instances):
        return _solve(instances, goals, horizons)
    return _integrated().hitting_times(instances, goals, horizons, control, lanes)


def hitting_times_only(
    instances: Instance, goals: Goal, control: Control | None = None
) -> tuple[Float[Array, "batch prompts"], Int[Array, "batch prompts"]]:
    """Times and statuses of :func:`hitting_times`, without where the flows are that reach no goal.

    Args and errors as there.
    """
    instances, goals, horizons, control = _batch(instances, goals, control, LANES)
    if isinstance(instances.clock, BatchScaled):
        found = _batch_scaling().hitting_times(instances, goals, horizons, control)
    elif is_solvable(instances):
        found = _solve_times(instances, goals, horizons)
    else:
        found = _integrated().hitting_times(instances, goals, horizons, control, LANES)
    return found.time, found.status


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
    instance = strongly_typed(instance)
    if isinstance(instance.clock, BatchScaled):
        return only(final_policies(*as_batch((instance, control))))
    if not is_solvable(instance):
        return _integrated().final_policy(instance, control)
    found = _look(as_batch(instance), control.horizon.reshape(1, 1))
    return only(found)[0], jax.device_put(control.horizon)


def final_policies(
    instances: Instance, control: Control | None = None, *, lanes: int = LANES
) -> tuple[Float[Array, "batch prompts outputs"], Float[Array, " batch"]]:
    """Where many gradient flows are at the horizon: :func:`final_policy` over a leading axis of every array.

    Args and errors as for :func:`hitting_times`.
    """
    instances, _, horizons, control = _batch(instances, None, control, lanes)
    if isinstance(instances.clock, BatchScaled):
        found = _batch_scaling().policies(instances, horizons[:, None])[:, 0]
        return found, jnp.where(jnp.isnan(found).any((1, 2)), jnp.nan, horizons)
    if is_solvable(instances):
        return _look(instances, horizons[:, None])[:, 0], jax.device_put(horizons)
    return _integrated().final_policies(instances, horizons, control, lanes)


def policies(
    instances: Instance, times: Float[AnyArray, "batch times"]
) -> Float[Array, "batch times prompts outputs"]:
    """Where many gradient flows are at given times; as :func:`final_policies`, several times of each.

    Where flows are solved, what is behind a flow is integrated once for all its times.

    Args:
        instances: a batch of problems of one shape, as ``jax.vmap`` makes it.
        times: of each problem, in any order.

    Returns:
        Log-probabilities; ``nan`` where rounding errors have grown too large to know, or the steps ran out.

    Raises:
        ValueError: as for :func:`hitting_times`; if the times have another shape.
    """
    instances, _, _, control = _batch(instances, None, None, LANES)
    times = rows_of_times(times, len(instances.rewards))
    if isinstance(instances.clock, BatchScaled):
        return _batch_scaling().policies(instances, times)
    if is_solvable(instances):
        return _look(instances, times)
    xp = beside(times)
    order = xp.argsort(times, axis=-1)
    path = _integrated().trajectories(instances, xp.take_along_axis(times, order, -1), control)
    return _policies_of(instances, path, xp.argsort(order, axis=-1))


@jax.jit
@jax.vmap
def _policies_of(instance: Instance, path: Array, order: AnyArray) -> Array:
    return jax.vmap(instance.log_probabilities)(path)[order]


def trajectory(
    instance: Instance, times: Numbers, control: Control | None = None
) -> Float[Array, "times ..."]:
    """Parameters along the gradient flow, at given times. Differentiable, in reverse where integrated.

    Args:
        instance: the problem.
        times: ascending, not negative; for instance log-spaced.
        control: ``Control()`` if not given. The horizon does not count.

    Returns:
        Parameters with a leading axis over the times; ``nan`` from where the steps ran out, or where
        rounding decides on how the flow leaves a saddle.

    Raises:
        ValueError: if the times are empty, negative, not finite or not ascending, or the solver is not
            explicit.
    """
    times = as_array("times", times)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"times has shape {list(times.shape)}; give a list of at least one time")
    instances, rows = as_batch((strongly_typed(instance), times))
    return only(trajectories(instances, rows, control))


def trajectories(
    instances: Instance, times: Float[AnyArray, "batch times"], control: Control | None = None
) -> Float[Array, "batch times ..."]:
    """:func:`trajectory` of many problems of one shape, side by side.

    Args:
        instances: a batch, as ``jax.vmap`` makes it.
        times: of each problem, ascending.
        control: as for :func:`trajectory`.

    Raises:
        ValueError: as for :func:`trajectory`, and for a batch without problems or times of another shape.
    """
    instances, _, _, control = _batch(instances, None, control, LANES)
    times = rows_of_times(times, len(instances.rewards))
    if is_concrete(times) and not np.all(np.diff(times) >= 0):
        raise ValueError("times must be ascending")
    if isinstance(instances.clock, BatchScaled):
        return _batch_scaling().trajectories(instances, times, control)
    if not is_solvable(instances):
        return _integrated().trajectories(instances, times, control)
    return _follow(instances, times)


def _integrated():
    """Where flows are integrated: by diffrax, which takes a while to import."""
    from goodteacher.sim import integrated

    return integrated


def _batch_scaling():
    """Where flows of a whole batch follow those of the gradient, which are this module's."""
    from goodteacher.sim import batch_scaling

    return batch_scaling


# Where flows are solved ------------------------------------------------------------------

_FEW = 1 << 12  # outputs of all prompts of all problems, up to which NumPy is done before a compiler


def _solve(instances: Instance, goals: Goal, horizons: AnyArray) -> HittingTime:
    found = _solve_times(instances, goals, horizons)
    if is_concrete(found.status):
        status = beside(found.status).asarray(found.status)
        if not (status == Status.NOT_REACHED).any():
            return found
    late = _look(instances, horizons[:, None])[:, 0]
    there = _where_late(found.status, late, found.log_probabilities)
    return eqx.tree_at(lambda f: f.log_probabilities, found, there)


def _solve_times(instances: Instance, goals: Goal, horizons: AnyArray) -> HittingTime:
    """With policies where goals are reached alone."""
    if isinstance(instances.clock, Natural):
        natural.check(instances)
        return _as_solved(_plain(natural.hitting_times, (instances, goals, horizons)), horizons)
    trained = bool(
        is_concrete(goals.values, instances.rewards)
        and beside(goals.values, instances.rewards).array_equal(goals.values, instances.rewards)
    )
    if _few(instances, goals, horizons):
        found = _plain(solved.hitting_times, (instances, goals, horizons), sharing(instances), trained)
    else:

        def run(instances: Instance, goals: Goal, horizons: AnyArray) -> Any:
            return _hitting_times(instances, goals, horizons, sharing(instances), trained)

        found = filled(run, instances, goals, horizons)
    return _as_solved(found, horizons)


def _as_solved(found: Any, horizons: AnyArray) -> HittingTime:
    yes, none = np.ones(horizons.shape, bool), np.zeros(horizons.shape, int)
    return HittingTime(*found, solved=jax.device_put(yes), steps=jax.device_put(none))


@jax.jit
def _where_late(status: AnyArray, late: AnyArray, other: AnyArray) -> AnyArray:
    """Those that have not reached their goals by the horizon have their policies there."""
    return jnp.where((status == Status.NOT_REACHED)[..., None], late, other)


def _look(instances: Instance, times: AnyArray) -> Array:
    if isinstance(instances.clock, Natural):
        natural.check(instances)
        return _plain(natural.policies_at, (instances, times))
    if _few(instances, times):
        return _plain(solved.policies, (instances, times), sharing(instances))

    def run(instances: Instance, goals: None, times: AnyArray) -> AnyArray:
        return _policies(instances, times, sharing(instances))

    return filled(run, instances, None, times)


def _follow(instances: Instance, times: AnyArray) -> Array:
    if isinstance(instances.clock, Natural):
        natural.check(instances)
        return _plain(natural.trajectories, (instances, times))
    shared = sharing(instances)
    if _few(instances, times) and times.shape[1] * instances.rewards.size <= _FEW:
        return _plain(solved.trajectories, (instances, times), shared)
    return _trajectories(instances, times, shared)


_hitting_times = jax.jit(solved.hitting_times, static_argnums=4)
_policies = jax.jit(solved.policies)
_trajectories = jax.jit(solved.trajectories)


def _few(instances: Instance, *others: Any) -> bool:
    """Whether nothing is traced, and it is too little to compile anything for."""
    return is_concrete(*jax.tree.leaves((instances, others))) and instances.rewards.size <= _FEW


def _plain(of: Callable[..., Any], problems: Any, *others: Any) -> Any:
    with np.errstate(all="ignore"):
        return jax.device_put(of(*jax.tree.map(np.asarray, problems), *others))


# Batches ---------------------------------------------------------------------------------


def _batch(
    instances: Instance, goals: Goal | None, control: Control | None, lanes: int
) -> tuple[Instance, Any, AnyArray, Control]:
    control = control or Control()
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}; give at least 1")
    count = instances.rewards.shape[0]
    if count == 0:
        raise ValueError("instances holds no problem; give at least one")
    if control.horizon.shape not in ((), (count,)):
        raise ValueError(f"horizon has shape {list(control.horizon.shape)}; give one number, or {count}")
    horizons = namespace(control.horizon).broadcast_to(control.horizon, (count,))
    instances, goals = strongly_typed((instances, goals))
    return instances, goals, horizons, control
