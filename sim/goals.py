"""Goals: what an expectation under the policy is to reach."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import expected_reward, of_modal
from goodteacher.sim.validation import AnyArray, Numbers, namespace

_LOW = -1e300  # below every expectation


class Goal(eqx.Module):
    """For every prompt: the expectation of ``values`` under the policy is to reach ``level``.

    Attributes:
        values: ``[prompts, outputs]``: rewards, or an indicator of outputs for a probability.
        level: ``[prompts]``.
        increase: ``[prompts]``: the level less the expectation under the initial policy, where the goal is
            such an increase; it then counts in the level's place, of which rounding leaves no small one.
    """

    values: Float[Array, "prompts outputs"]
    level: Float[Array, " prompts"]
    increase: Float[Array, " prompts"] | None = None

    def lowered(self, where: Bool[ArrayLike, "..."]) -> "Goal":
        """The goal that every policy meets where the condition holds, this one elsewhere."""
        xp = namespace(*jax.tree.leaves(self), where)
        return jax.tree.map(lambda leaf: leaf if leaf is self.values else xp.where(where, _LOW, leaf), self)


def reward_level(instance: Instance, level: Numbers, rewards: Numbers | None = None) -> Goal:
    """The goal that the expected reward reaches a level, for every prompt.

    Args:
        instance: the problem.
        level: a number, or one per prompt.
        rewards: ``[prompts, outputs]``; the ground truth if not given.
    """
    values = instance.ground_truth_rewards if rewards is None else jnp.asarray(rewards, float)
    values = jnp.broadcast_to(values, instance.rewards.shape)
    return Goal(values, jnp.broadcast_to(jnp.asarray(level, float), values.shape[:1]))


def reward_increase(instance: Instance, gamma: Numbers, rewards: Numbers | None = None) -> Goal:
    """The goal that the expected reward rises by ``gamma`` over its initial value (``t_gamma``).

    Args and shapes as for :func:`reward_level`.
    """
    goal = reward_level(instance, gamma, rewards)
    initial = instance.probabilities(instance.initial_parameters)
    return Goal(goal.values, expected_reward(initial, goal.values) + goal.level, increase=goal.level)


def probability_level(instance: Instance, output: int, level: Numbers) -> Goal:
    """The goal that an output's probability reaches a level, for every prompt."""
    indicator = jnp.zeros(instance.rewards.shape).at[:, output].set(1.0)
    return reward_level(instance, level, indicator)


def excess(
    instance: Instance, goal: Goal, displacement: Float[Array, "..."]
) -> tuple[Float[Array, " prompts"], Float[Array, " prompts"]]:
    """By how much the expectation is beyond its level where the parameters have moved by a displacement.

    Returns:
        The excess, and the size of its rounding error.
    """
    start = instance.initial_parameters
    logits = instance.logits(start + displacement)
    probabilities = jax.nn.softmax(logits)
    unit = jnp.finfo(float).eps
    if goal.increase is None:
        # The level is subtracted from every value, not from their expectation, for a level near the maximum.
        distance = goal.values - goal.level[:, None]
        # No step is short enough to close a gap that is its own rounding error, or that of the logits.
        size = jnp.where(probabilities > 0, jnp.abs(distance) * (1.0 + jnp.abs(logits)), 0.0)
        return expected_reward(probabilities, distance), unit * expected_reward(probabilities, size)
    initial = instance.probabilities(start)
    change = instance.policy.displacement(start, displacement)
    # What has hardly moved has its change from the displacement, not from a difference.
    ratio = jnp.expm1(jnp.clip(change, -1.0, 1.0))
    mean = expected_reward(initial, ratio)[:, None]
    small = initial * (ratio - mean) / (1.0 + mean)
    moved = jnp.abs(change).max(-1, keepdims=True) > 1.0
    gain = jnp.where(moved, probabilities - initial, small)
    relative = goal.values - of_modal(probabilities, goal.values)
    size = expected_reward(jnp.abs(gain), jnp.abs(relative)) + jnp.abs(goal.increase)
    return expected_reward(gain, relative) - goal.increase, unit * size


def is_possible(instance: Instance, goal: Goal) -> Bool[AnyArray, "*batch prompts"]:
    """Whether a level is below the value of the best output, which no policy's expectation attains."""
    return goal.level < largest_value(instance, goal)


def largest_value(instance: Instance, goal: Goal) -> Float[AnyArray, "*batch prompts"]:
    """The value of the best output of each prompt, which no policy's expectation attains."""
    values = goal.values
    if instance.mask is not None:
        xp = namespace(values, instance.mask)
        values = xp.where(instance.mask, values, -xp.inf)
    return values.max(-1)
