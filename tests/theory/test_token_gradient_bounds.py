"""The bounds of autoregressive policies by plain loops, and where the sharp one is attained."""

import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.autoregressive import Sequences, TokenLinear
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.theory import token_gradient_bounds as autoregressive

enumerated_gradient, gradient_norms, gradient_upper_bound, sharp_gradient_upper_bound = map(
    eqx.filter_jit,
    (
        autoregressive.enumerated_gradient,
        autoregressive.gradient_norms,
        autoregressive.gradient_upper_bound,
        autoregressive.sharp_gradient_upper_bound,
    ),
)
VOCABULARY, LENGTH, KL = 3, 2, 40.0
PREFIXES = [p for level in range(LENGTH) for p in itertools.product(range(VOCABULARY), repeat=level)]


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    of = Sequences(2, VOCABULARY, LENGTH)
    features = rng.normal(size=(2, of.prefixes, VOCABULARY, 4))
    return Instance(
        rng.uniform(-1, 1, (2, of.outputs)),
        policy=TokenLinear(of, jnp.asarray(features)),
        start=Parameters(rng.normal(size=4)),
        reference_policy_logits=rng.normal(size=(2, of.outputs)),
        regularizer=Regularizer(kl=KL),
    )


def by_loops(problem):
    """For each prompt the gradient, the variance and the largest size of ``r_KL``, and ``J``."""
    features, theta = np.asarray(problem.policy.features), np.asarray(problem.initial_parameters)
    for x in range(2):
        probabilities, scores = [], []
        for tokens in itertools.product(range(VOCABULARY), repeat=LENGTH):
            probability, score = 1.0, np.zeros(4)
            for position, token in enumerate(tokens):
                phi = features[x, PREFIXES.index(tokens[:position])]
                p = softmax(phi @ theta)
                probability *= p[token]
                score += phi[token] - p @ phi
            probabilities.append(probability)
            scores.append(score)
        probabilities = np.array(probabilities)
        log_ratio = np.log(probabilities) - np.asarray(problem.reference_log_probabilities[x])
        rewards = np.asarray(problem.rewards[x]) - KL * log_ratio
        centred = rewards - probabilities @ rewards
        jacobian = max(np.linalg.norm(phi, 2) for phi in features[x])
        yield (probabilities * centred) @ scores, probabilities @ centred**2, np.abs(rewards).max(), jacobian


def test_gradients_and_bounds_by_loops(problem):
    gradients, variances, sizes, jacobians = map(np.array, zip(*by_loops(problem), strict=True))
    theta = problem.initial_parameters
    np.testing.assert_allclose(enumerated_gradient(problem, theta), gradients.mean(0), rtol=1e-11)
    np.testing.assert_allclose(gradient_norms(problem, theta), np.linalg.norm(gradients, axis=-1), rtol=1e-11)
    assert (sizes > 10).all()
    np.testing.assert_allclose(autoregressive.largest_regularized_reward(problem, theta), sizes, rtol=1e-12)
    bound = 6 * np.cbrt(sizes) * LENGTH * jacobians * np.cbrt(variances)
    np.testing.assert_allclose(gradient_upper_bound(problem, theta), bound, rtol=1e-11)
    sharp = jacobians * np.sqrt(LENGTH * variances / 2)
    np.testing.assert_allclose(sharp_gradient_upper_bound(problem, theta), sharp, rtol=1e-11)


def test_rewards_within_one_have_the_constant_of_the_earlier_theorem(problem):
    plain = Instance(problem.rewards, policy=problem.policy, start=Parameters(problem.initial_parameters))
    probabilities = np.asarray(plain.probabilities(plain.initial_parameters))
    rewards = np.asarray(plain.rewards)
    variances = (probabilities * rewards**2).sum(-1) - (probabilities * rewards).sum(-1) ** 2
    jacobians = np.linalg.norm(np.asarray(problem.policy.features), 2, axis=(-2, -1)).max(-1)
    expected = 6 * LENGTH * jacobians * np.cbrt(variances)
    np.testing.assert_allclose(gradient_upper_bound(plain, plain.initial_parameters), expected, rtol=1e-12)


@pytest.mark.parametrize("length", [1, 3])
def test_the_sharp_bound_is_attained(length):
    of = Sequences(1, 2, length)
    features = np.broadcast_to([[0.7, -1.1], [-0.7, 1.1]], (1, of.prefixes, 2, 2))
    rewards = 1.0 - 2.0 * of.tokens().mean(1)
    problem = Instance(rewards, policy=TokenLinear(of, jnp.asarray(features)), start=Parameters([0, 0]))
    theta = problem.initial_parameters
    np.testing.assert_allclose(sharp_gradient_upper_bound(problem, theta), gradient_norms(problem, theta))
    assert gradient_upper_bound(problem, theta)[0] > 8 * gradient_norms(problem, theta)[0]
    apart = theta + 0.3
    assert sharp_gradient_upper_bound(problem, apart)[0] > 1.001 * gradient_norms(problem, apart)[0]
