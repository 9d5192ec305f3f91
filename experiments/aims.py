"""What is waited for of the expected ground truth, and what is said where there is nothing to wait for.

One meaning for reports, sweeps and pages: of one problem, whose arrays may be traced.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from goodteacher.sim.goals import Goal, is_possible, largest_value, reward_increase
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.status import Status
from goodteacher.sim.validation import AnyArray, namespace


def increase(instance: Instance, gamma: float) -> Goal:
    """The goal that the expected ground truth reward rises by ``gamma``.

    Raises:
        ValueError: if that is not positive, or on every prompt more than any policy can give.
    """
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}; give a positive increase of the expected ground truth reward")
    goal = jax.jit(reward_increase)(instance, gamma)
    if not np.asarray(jax.jit(is_possible)(instance, goal)).any():
        way = np.asarray(jax.jit(_way)(instance))
        most = int(way.argmax())
        raise ValueError(
            f"gamma is {gamma:g}, which is not reachable: no policy raises the ground truth reward by more "
            f"than {way[most]:.9g} (prompt {most}); give less, or a goal, the share of what is possible"
        )
    return goal


def share(instance: Instance, part: float) -> Goal:
    """The goal of :func:`share_of_the_way`, of a share that is checked.

    Raises:
        ValueError: if it is not between 0 and 1.
    """
    if not 0 < part < 1:
        raise ValueError(f"goal is {part}; give a share of the possible increase between 0 and 1")
    return jax.jit(share_of_the_way)(instance, part)


def share_of_the_way(instance: Instance, part: Any) -> Goal:
    """The goal that the expected ground truth reward covers a part of its way to the best output's.

    Where there is no way to cover it is one that no policy meets.
    """
    flat = constant(instance, instance.ground_truth_rewards)
    return reward_increase(instance, jnp.where(flat, 1.0, part * _way(instance)))


def _way(instance: Instance) -> Float[Array, " prompts"]:
    """From the expected ground truth reward of each prompt to that of its best output."""
    start = instance.probabilities(instance.initial_parameters)
    best = jnp.asarray(largest_value(instance, reward_increase(instance, 0.0)))
    return best - expected_reward(start, instance.ground_truth_rewards)


def constant(instance: Instance, values: AnyArray) -> Bool[AnyArray, " prompts"]:
    """Whether all outputs of a prompt have one value."""
    xp = namespace(values, instance.mask)
    values, exists = xp.asarray(values), True if instance.mask is None else xp.asarray(instance.mask)
    return values.max(1, where=exists, initial=-xp.inf) == values.min(1, where=exists, initial=xp.inf)


def with_nothing_to_gain(
    instance: Instance, goal: Goal, status: Int[AnyArray, " prompts"]
) -> Int[AnyArray, " prompts"]:
    """Statuses of a goal, with those of the prompts on which what is to rise is the same for all outputs.

    A level that is met from the start stays reached.
    """
    xp = namespace(goal.values, instance.mask, status)
    nothing = constant(instance, goal.values) & (status != int(Status.REACHED))
    return xp.where(nothing, int(Status.NOTHING_TO_GAIN), status)


def after_updates(
    instance: Instance,
    goal: Goal,
    first: Float[AnyArray, " prompts"],
    finite: Bool[AnyArray, " prompts"],
) -> Int[AnyArray, " prompts"]:
    """Statuses of a goal through discrete updates.

    Args:
        instance: the problem.
        goal: what is waited for.
        first: after how many updates it is met; not finite if after none.
        finite: whether the last policy still has numbers.
    """
    xp = namespace(*jax.tree.leaves((instance, goal)), first, finite)
    cases = {
        Status.REACHED: xp.isfinite(first),
        Status.NOT_CONVERGED: ~finite,
        Status.OUT_OF_REACH: ~is_possible(instance, goal),
    }
    numbers = [xp.full(first.shape, int(status)) for status in cases]
    return xp.select(list(cases.values()), numbers, int(Status.NOT_REACHED))


def statuses(instance: Instance, goal: Goal, status: Int[AnyArray, " prompts"]) -> Sequence[Status]:
    """The same in words."""
    return [Status(int(code)) for code in with_nothing_to_gain(instance, goal, np.asarray(status))]
