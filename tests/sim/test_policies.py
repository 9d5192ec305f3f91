from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from sim_strategies import random_data

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import gradient, natural_gradient, objective
from goodteacher.sim.policies import LinearSoftmax, Policy


class Bigram(Policy):
    """Two tokens out of two: the first by one logit, the second by one logit per first token."""

    def logits(self, parameters: Float[Array, "3"]) -> Float[Array, "1 4"]:
        first = jax.nn.log_sigmoid(jnp.array([1.0, -1.0]) * parameters[0])
        second = jax.nn.log_sigmoid(jnp.array([1.0, -1.0]) * parameters[1:, None])
        return (first[:, None] + second).reshape(1, 4)


@pytest.mark.parametrize("features", [False, True])
def test_pullback_and_pushforward_are_adjoint(features):
    instance = from_dictionary(random_data(0, features=features))
    parameters = instance.initial_parameters
    rng = np.random.default_rng(0)
    velocity, covector = rng.normal(size=parameters.shape), rng.normal(size=instance.rewards.shape)
    pushed = instance.policy.pushforward(parameters, jnp.asarray(velocity))
    pulled = instance.policy.pullback(parameters, jnp.asarray(covector))
    np.testing.assert_allclose((pushed * covector).sum(), (pulled * velocity).sum(), rtol=1e-12)
    assert abs((pushed * covector).sum() - (pulled * velocity).sum() * 1.001) > 1e-6


def test_linear_softmax_logits():
    data = random_data(1, features=True)
    instance = from_dictionary(data)
    expected = data["output_features"] @ data["initial_policy_weights"] / data["temperature"]
    np.testing.assert_allclose(instance.logits(instance.initial_parameters), expected, rtol=1e-13)


def test_identity_features_are_the_tabular_policy():
    data = random_data(2)
    row: dict[str, Any] = {
        key: data[key][:1] for key in ("rewards", "ground_truth_rewards", "initial_policy_weights")
    }
    tabular = from_dictionary(row)
    linear = from_dictionary({**row, "output_features": np.eye(5)[None]})
    assert isinstance(linear.policy, LinearSoftmax)
    for direction in (gradient, natural_gradient):
        expected = direction(tabular, tabular.initial_parameters)[0]
        np.testing.assert_allclose(direction(linear, linear.initial_parameters), expected, atol=1e-10)


def test_temperature_slows_the_logits_by_its_square():
    data = random_data(3, features=True)
    weights = data.pop("initial_policy_weights")
    del data["temperature"]
    plain = from_dictionary({**data, "initial_policy_weights": weights})
    warm = from_dictionary({**data, "temperature": 2.0, "initial_policy_weights": 2 * weights})

    def velocity(instance: Instance) -> Array:
        theta = instance.initial_parameters
        return instance.policy.pushforward(theta, gradient(instance, theta))

    np.testing.assert_allclose(velocity(warm), velocity(plain) / 4, rtol=1e-12)


def test_a_policy_of_ones_own():
    """Its gradients are those of autodiff, its natural gradient that of the Fisher matrix."""
    theta = np.array([0.3, -1.0, 2.0])
    instance = Instance([[1.0, 0.2, -0.5, -1.0]], policy=Bigram(), start=Parameters(theta))
    parameters = instance.initial_parameters
    np.testing.assert_allclose(instance.probabilities(parameters).sum(), 1, rtol=1e-15)
    found = gradient(instance, parameters)
    np.testing.assert_allclose(found, jax.grad(objective, 1)(instance, parameters), atol=1e-15)
    scores = np.asarray(jax.jacobian(instance.log_probabilities)(parameters))[0]
    p = np.asarray(instance.probabilities(parameters))[0]
    fisher = np.einsum("y,yi,yj->ij", p, scores, scores)
    expected = np.linalg.solve(fisher, found)
    np.testing.assert_allclose(natural_gradient(instance, parameters), expected, rtol=1e-9)


def test_jacobian_norms():
    linear = from_dictionary(random_data(4, features=True, masked=True))
    policy = linear.policy
    assert isinstance(policy, LinearSoftmax)
    jacobian = np.asarray(policy.features / policy.temperature)
    expected = [
        np.linalg.norm(rows[exists], 2)
        for rows, exists in zip(jacobian, np.asarray(linear.mask), strict=True)
    ]
    np.testing.assert_allclose(policy.jacobian_norms(linear.initial_parameters)[:, 0], expected, rtol=1e-12)
    tabular = from_dictionary(random_data(4))
    np.testing.assert_array_equal(tabular.policy.jacobian_norms(tabular.initial_parameters), np.ones((3, 1)))
    jacobian = jax.jacobian(Bigram().logits)(jnp.ones(3))[0]
    np.testing.assert_allclose(
        Bigram().jacobian_norms(jnp.ones(3)), [[np.linalg.norm(jacobian, 2)]], rtol=1e-12
    )
    assert Bigram().length == 1


def test_the_mode_of_differentiation_does_not_matter():
    """With more outputs than parameters the Jacobian is taken forwards, with fewer backwards."""
    rng = np.random.default_rng(5)
    for size in (3, 9):
        policy = LinearSoftmax(jnp.asarray(rng.normal(size=(2, 4, size))), jnp.asarray(1.3))
        np.testing.assert_allclose(policy._jacobian(jnp.ones(size)), policy.features / 1.3, rtol=1e-15)


class Exponential(Policy):
    """Two outputs; the logit of the first is the cube of the exponential of the parameter."""

    def logits(self, parameters: Float[Array, "1"]) -> Float[Array, "1 2"]:
        return jnp.stack([jnp.exp(3.0 * parameters[0]), jnp.zeros(())])[None]


@pytest.mark.parametrize("displacement", [1e-4, 1e-9, 1e-20, 0.1])
def test_small_displacements_keep_their_digits(displacement):
    """What two logits differ by cancels; the velocity on the way does not."""
    found = Exponential().displacement(jnp.array([0.2]), jnp.array([displacement]))
    np.testing.assert_allclose(found, [[np.exp(0.6) * np.expm1(3.0 * displacement), 0.0]], rtol=1e-11)


def test_short_features_count_for_the_natural_gradient():
    """Both are needed, and one is a ten thousandth as long as the other: the logits follow the advantages."""
    features = np.random.default_rng(0).normal(size=(1, 3, 2)) * [1.0, 1e-4]
    instance = Instance([1.0, 0.2, -1.0], start=Parameters([0.1, -0.3]), policy=LinearSoftmax(features))
    direction = natural_gradient(instance, instance.initial_parameters)
    moved = instance.policy.pushforward(instance.initial_parameters, direction)[0]
    np.testing.assert_allclose(moved - moved[0], [0.0, -0.8, -2.0], atol=1e-6)
