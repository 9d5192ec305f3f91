"""Batches that are filled up: the same numbers, by one program for many sizes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim import integrated
from goodteacher.sim.batching import filled, widened
from goodteacher.sim.flow import hitting_time
from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import expected_reward, gradient, objective


def problem(prompts: int, outputs: int, masked: bool = False) -> tuple[Instance, Goal]:
    random = np.random.default_rng(outputs)
    rewards = random.uniform(-1.0, 1.0, (prompts, outputs))
    mask = np.ones((prompts, outputs), bool)
    mask[:, -1] = not masked
    start, kl = Parameters(random.normal(size=(prompts, outputs))), Regularizer(kl=0.05)
    instance = Instance(rewards, start=start, mask=mask, regularizer=kl)
    return instance, reward_increase(instance, 0.1)


@pytest.mark.parametrize("masked", [False, True])
def test_outputs_that_do_not_exist_change_no_time(masked):
    """As they are compiled where the problem is traced, without any more outputs."""
    own = problem(3, 5, masked)
    exact = jax.jit(hitting_time)(*own)
    found = hitting_time(*own)
    np.testing.assert_allclose(found.time, exact.time, rtol=1e-11)
    np.testing.assert_allclose(np.exp(found.log_probabilities), np.exp(exact.log_probabilities), atol=1e-11)
    assert found.log_probabilities.shape == (3, 5)


def test_outputs_that_do_not_exist_change_no_objective():
    """Nor are they likely at the reference, which forward KL is an expectation over."""
    instance, goal = problem(2, 3)
    strengths = Regularizer(kl=0.1, forward_kl=0.2, entropy=0.05)
    instance = eqx.tree_at(lambda i: i.regularizer, instance, strengths)
    wide = jax.tree.map(jnp.asarray, widened(instance, goal, 6)[0])
    assert wide.rewards.shape == (2, 6)
    expected = objective(instance, instance.initial_parameters + 0.3)
    np.testing.assert_allclose(objective(wide, wide.initial_parameters + 0.3), expected, rtol=1e-13)
    slope = gradient(wide, wide.initial_parameters + jnp.arange(6.0))
    expected = gradient(instance, instance.initial_parameters + jnp.arange(3.0))
    np.testing.assert_allclose(slope, np.pad(expected, [(0, 0), (0, 3)]), atol=1e-15)


def test_one_program_serves_many_sizes():
    compiled: Any = integrated._many
    hitting_time(*problem(1, 2))
    before = compiled._cache_size()
    for prompts, outputs in [(1, 3), (2, 4), (5, 8), (8, 7)]:
        hitting_time(*problem(prompts, outputs))
    assert compiled._cache_size() == before
    hitting_time(*problem(1, 9))
    assert compiled._cache_size() > before


def test_what_is_added_does_not_exist_and_is_at_its_goal():
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], problem(1, 3))
    seen: list[tuple[Instance, Goal, np.ndarray]] = []

    def run(instances: Instance, goals: Goal, horizons: np.ndarray) -> Any:
        seen.append((instances, goals, horizons))
        return instances.rewards, horizons

    rewards, horizons = filled(run, batch[0], batch[1], np.array([5.0]))
    np.testing.assert_array_equal(rewards, batch[0].rewards)
    np.testing.assert_array_equal(horizons, [5.0])
    ((instances, goals, _),) = seen
    assert instances.rewards.shape == (8, 1, 8)
    assert instances.mask is not None
    np.testing.assert_array_equal(instances.mask.sum(-1), 3)
    policies = jax.vmap(lambda i: i.probabilities(i.initial_parameters))(instances)
    values = np.asarray(expected_reward(policies, jnp.asarray(goals.values)))
    np.testing.assert_array_equal((values >= np.asarray(goals.level))[:, 0], np.arange(8) > 0)
    same, _ = widened(*problem(2, 4), 4)
    assert same.mask is not None
    assert same.rewards.shape == (2, 4)
