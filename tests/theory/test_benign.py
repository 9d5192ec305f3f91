"""Logit velocity and the bounds on benign errors against plain loops and independent simulation."""

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.benign import GROWTH, largest_probability, logits_apart, policies_apart
from goodteacher.theory.logit_velocity import below_value, gram, logit_velocity


def test_logit_velocity_is_the_sum_over_all_outputs_of_all_prompts():
    rng = np.random.default_rng(0)
    features, theta = rng.normal(size=(2, 3, 4)), rng.normal(size=4)
    rewards = rng.uniform(-1, 1, (2, 3))
    instance = Instance(
        rewards, start=Parameters(theta), policy=LinearSoftmax(features, 2.0), prompt_weights=[0.25, 0.75]
    )
    found = np.asarray(logit_velocity(instance, instance.initial_parameters))
    expected = np.zeros((2, 3))
    for w, weight in enumerate((0.25, 0.75)):
        p = np.exp(features[w] @ theta / 2.0)
        p /= p.sum()
        value = p @ rewards[w]
        for z in range(3):
            push = weight * p[z] * (rewards[w, z] - value)
            for x in range(2):
                for y in range(3):
                    expected[x, y] += push * features[w, z] @ features[x, y] / 4.0
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert isinstance(instance.policy, LinearSoftmax)
    np.testing.assert_allclose(gram(instance.policy)[1, 2, 0, 1], features[1, 2] @ features[0, 1] / 4.0)


def test_a_tabular_policy_has_no_features():
    instance = Instance([1.0, 0.0])
    with pytest.raises(ValueError, match="the policy is Tabular"):
        logit_velocity(instance, instance.initial_parameters)


def test_outputs_below_the_initial_expected_reward():
    instance = Instance([1.0, 0.2, -1.0], start=[0.5, 0.3, 0.2])
    assert below_value(instance).tolist() == [[False, True, True]]


def largest_growth(p, rewards):
    """d ln pi(y) / dt by finite differences of the softmax, for every output."""
    velocity = p * (rewards - p @ rewards)
    moved = [np.log(p) + h * velocity for h in (1e-6, -1e-6)]
    logs = [m - np.log(np.exp(m).sum()) for m in moved]
    return (logs[0] - logs[1]) / 2e-6


def test_growth_is_bounded_and_the_bound_is_attained_by_two_outputs():
    attained = largest_growth(np.array([1.0, 2.0]) / 3.0, np.array([1.0, -1.0]))[0]
    assert attained == pytest.approx(2.0 * GROWTH, rel=1e-8)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        outputs = int(rng.integers(2, 6))
        p = rng.dirichlet(np.full(outputs, rng.choice([0.3, 1.0, 3.0]))) + 1e-12
        rewards = rng.choice([-1.0, 1.0], outputs)
        assert largest_growth(p / p.sum(), rewards).max() <= 2.0 * GROWTH * (1 + 1e-7)


def test_field_is_lipschitz_with_a_quarter_of_the_range():
    rng = np.random.default_rng(1)
    largest = 0.0
    for _ in range(5000):
        outputs = int(rng.integers(2, 6))
        p = rng.dirichlet(np.full(outputs, rng.choice([0.3, 1.0, 3.0])))
        rewards = rng.integers(0, 2, outputs).astype(float)
        centred = np.eye(outputs) - p
        hessian = centred.T @ np.diag(p * (rewards - p @ rewards)) @ centred
        largest = max(largest, np.abs(np.linalg.eigvalsh(hessian)).max())
    assert 0.18 < largest <= 1 / (3 * np.sqrt(3)) + 1e-12 < 0.25


def test_bounds_are_the_products():
    reached = 0.01 * np.exp(8 / 27 * 1.5 * 0.5 * 3.0)
    assert float(largest_probability(0.01, 3.0, 0.5, 1.5)) == pytest.approx(reached)
    apart = np.sqrt(2) * 0.2 * 0.5 * 3.0 * reached
    assert float(logits_apart(0.01, -0.2, 3.0, 0.5, 1.5)) == pytest.approx(apart)
    assert float(policies_apart(0.01, -0.2, 3.0, 0.5, 1.5)) == pytest.approx(apart / np.sqrt(8))
    batched = logits_apart(jnp.array([0.01, 0.02]), jnp.array([0.2, 0.2]), jnp.array([3.0, 3.0]))
    assert batched[1] == pytest.approx(2 * batched[0])
