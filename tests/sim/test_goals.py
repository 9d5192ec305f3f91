import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sim_strategies import MASK, random_data

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.goals import (
    Goal,
    excess,
    largest_value,
    probability_level,
    reward_increase,
    reward_level,
)
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import expected_reward


def test_levels_of_rewards():
    instance = from_dictionary(random_data(0))
    goal = reward_level(instance, 0.25)
    np.testing.assert_array_equal(goal.values, instance.ground_truth_rewards)
    np.testing.assert_array_equal(goal.level, [0.25] * 3)
    goal = reward_level(instance, [0.1, 0.2, 0.3], rewards=instance.rewards)
    np.testing.assert_array_equal(goal.values, instance.rewards)
    np.testing.assert_array_equal(goal.level, [0.1, 0.2, 0.3])


def test_increase_counts_from_the_initial_policy():
    instance = from_dictionary(random_data(1))
    p = np.asarray(instance.probabilities(instance.initial_parameters))
    goal = reward_increase(instance, 0.25)
    np.testing.assert_allclose(goal.level, (p * np.asarray(instance.ground_truth_rewards)).sum(-1) + 0.25)
    goal = reward_increase(instance, 0.25, rewards=instance.rewards)
    np.testing.assert_allclose(goal.level, (p * np.asarray(instance.rewards)).sum(-1) + 0.25)


def test_probability_of_an_output():
    goal = probability_level(from_dictionary(random_data(0)), 2, 0.9)
    np.testing.assert_array_equal(goal.values, np.eye(5)[[2, 2, 2]])
    np.testing.assert_array_equal(goal.level, [0.9] * 3)


def test_largest_value_looks_at_outputs_that_exist():
    instance = from_dictionary(random_data(0, masked=True))
    goal = Goal(jnp.asarray(np.where(MASK, 0.0, 9.0)), jnp.zeros(3))
    np.testing.assert_array_equal(largest_value(instance, goal), [0.0, 0.0, 0.0])


def test_goals_jit_and_vmap():
    make = jax.jit(jax.vmap(reward_increase, in_axes=(None, 0)))
    instance = from_dictionary(random_data(1))
    goals = make(instance, jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(goals.level[1], reward_increase(instance, 0.2).level, rtol=1e-15)


@pytest.mark.parametrize("size", [0.5, 3.0])
def test_how_much_more_than_an_increase(size):
    """Policies that have moved a little and much: the gain over the start less the increase."""
    instance = Instance([1.0, 0.2, -1.0], start=[0.2, 0.3, 0.5])
    goal = reward_increase(instance, 0.1)
    moved = size * jnp.array([[0.9, -0.4, 0.1]])
    gain = [
        float(expected_reward(instance.probabilities(parameters), instance.rewards)[0])
        for parameters in (instance.initial_parameters, instance.initial_parameters + moved)
    ]
    np.testing.assert_allclose(excess(instance, goal, moved)[0], gain[1] - gain[0] - 0.1, rtol=1e-12)
