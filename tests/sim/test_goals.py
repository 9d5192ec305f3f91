import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sim_strategies import MASK, beneficial_errors, random_data

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.goals import (
    Goal,
    check_reachable,
    largest_value,
    probability_level,
    reward_increase,
    reward_level,
)
from goodteacher.sim.instance import Instance


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


def test_reachable_goals_pass():
    instance = beneficial_errors()
    check_reachable(instance, reward_level(instance, 1 - 1e-12))
    check_reachable(instance, reward_level(instance, -0.5))
    # All outputs alike: any level up to their value is met at the start.
    flat = Instance([0.5, 0.5])
    check_reachable(flat, reward_level(flat, 0.5))


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (
            1.0,
            r"level 1 of prompt 0 is not reachable: no policy .* of 1 or more \(initially .*\); .* below 1$",
        ),
        (7.5, r"level 7.5 of prompt 0 is not reachable"),
        (np.nan, "level nan of prompt 0 is not finite; give a number"),
        (np.inf, "level inf of prompt 0 is not finite; give a number"),
    ],
)
def test_unreachable_levels_are_refused(level, message):
    instance = beneficial_errors()
    with pytest.raises(ValueError, match=message):
        check_reachable(instance, reward_level(instance, level))


def test_the_prompt_that_cannot_is_named():
    instance = Instance([[1.0, 0.0], [0.5, 0.0]])
    with pytest.raises(ValueError, match=r"level 0.6 of prompt 1 is not reachable: .* 0.5 or more"):
        check_reachable(instance, reward_level(instance, 0.6))


def test_an_output_that_does_not_exist_helps_nothing():
    instance = Instance([[1.0, 0.5, 0.0]], mask=[[False, True, True]])
    with pytest.raises(ValueError, match=r"no policy has an expectation of 0.5 or more"):
        check_reachable(instance, reward_level(instance, 0.7, rewards=[[1.0, 0.5, 0.0]]))
