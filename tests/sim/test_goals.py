import jax
import jax.numpy as jnp
import numpy as np
from sim_strategies import MASK, random_data

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.goals import (
    Goal,
    largest_value,
    probability_level,
    reward_increase,
    reward_level,
)


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
