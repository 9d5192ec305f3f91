import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_strategies import PROMPTS, numbers, random_data

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import (
    METRICS,
    accuracy,
    accuracy_where_truth_differs,
    measure,
    pairwise_reward_variance,
    product_accuracy,
    reward_variance,
)
from goodteacher.sim.objective import gradient, objective

rows = st.lists(numbers(1), min_size=6, max_size=6)
both_variances = jax.jit(lambda p, r: (reward_variance(p, r), pairwise_reward_variance(p, r)))


@given(st.lists(numbers(30), min_size=6, max_size=6), rows)
def test_both_forms_of_reward_variance_agree(logits, rewards):
    r = jnp.asarray(rewards)
    by_mean, by_pairs = both_variances(jax.nn.softmax(jnp.asarray(logits)), r)
    np.testing.assert_allclose(by_mean, by_pairs, rtol=1e-13, atol=1e-300)


def test_the_pair_form_needs_its_half():
    p, r = jnp.array([0.2, 0.8]), jnp.array([1.0, -1.0])
    by_mean, by_pairs = both_variances(p, r)
    np.testing.assert_allclose(by_mean, 4 * 0.2 * 0.8, rtol=1e-15)
    assert abs(2 * by_pairs - by_mean) > 0.1


@pytest.mark.parametrize("exponent", [-3, -17, -100, -300])
def test_reward_variance_near_a_vertex(exponent):
    small, rewards = 10.0**exponent * np.array([1.0, 0.3, 2.0]), np.array([0.7, 1.0, -0.3, 0.6])
    p = jnp.array([1 - small.sum(), *small])
    with mpmath.workdps(700):
        exact_p = [mpmath.mpf(x) for x in small.tolist()]
        exact_p = [1 - sum(exact_p), *exact_p]
        r = [mpmath.mpf(x) for x in rewards.tolist()]
        mean = mpmath.fdot(exact_p, r)
        exact = float(mpmath.fsum(x * (y - mean) ** 2 for x, y in zip(exact_p, r, strict=True)).real)
    for found in both_variances(p, jnp.asarray(rewards)):
        np.testing.assert_allclose(found, exact, rtol=1e-14)
    if exponent <= -17:  # what E r^2 - (E r)^2 makes of it
        textbook = (p * rewards**2).sum() - (p * rewards).sum() ** 2
        assert abs(float(textbook) / exact - 1) > 0.1


def accuracy_by_definition(rewards, truth, weights, decided=False):
    """Over unordered pairs, one after the other; ``weights`` of a pair of indices."""
    right = total = 0.0
    for i, j in itertools.combinations(range(len(rewards)), 2):
        if decided and truth[i] == truth[j]:
            continue
        weight = weights(i, j)
        total += weight
        right += weight * (np.sign(rewards[i] - rewards[j]) == np.sign(truth[i] - truth[j]))
    return right / total


def test_accuracy_is_its_definition():
    rng = np.random.default_rng(0)
    rewards, truth = rng.integers(0, 3, (2, 4, 6)).astype(float)  # many ties of either kind
    weights = rng.uniform(size=(4, 6, 6))
    policy = np.asarray(jax.nn.softmax(5 * rng.normal(size=(4, 6))))
    given = accuracy(*map(jnp.asarray, (rewards, truth, weights)))
    uniform = product_accuracy(jnp.asarray(rewards), jnp.asarray(truth), jnp.ones((4, 6)))
    on_policy = product_accuracy(*map(jnp.asarray, (rewards, truth, policy)))
    for row, (r, g, w, p) in enumerate(zip(rewards, truth, weights, policy, strict=True)):
        expected = accuracy_by_definition(r, g, lambda i, j, w=w: w[i, j] + w[j, i])
        np.testing.assert_allclose(given[row], expected, rtol=1e-14)
        assert uniform[row] == accuracy_by_definition(r, g, lambda i, j: 1.0)
        expected = accuracy_by_definition(r, g, lambda i, j, p=p: p[i] * p[j])
        np.testing.assert_allclose(on_policy[row], expected, rtol=1e-14)
    assert not np.allclose(given, uniform, rtol=1e-3)
    assert not np.allclose(on_policy, uniform, rtol=1e-3)


@pytest.mark.parametrize(
    ("rewards", "expected"), [([3, 2, 2], 1), ([3, 2, 1], 2 / 3), ([2, 2, 2], 1 / 3), ([0, 1, 1], 1 / 3)]
)
def test_a_tie_is_right_only_against_a_tie(rewards, expected):
    found = product_accuracy(jnp.asarray(rewards, float), jnp.array([1.0, 0.0, 0.0]), jnp.ones(3))
    assert found == expected


def test_accuracy_where_truth_differs_is_its_definition():
    rng = np.random.default_rng(1)
    rewards, truth = rng.integers(0, 3, (2, 8, 6)).astype(float)  # many ties of either kind
    weights = rng.uniform(size=(8, 6))
    found = accuracy_where_truth_differs(*map(jnp.asarray, (rewards, truth, weights)))
    for value, r, g, w in zip(found, rewards, truth, weights, strict=True):
        expected = accuracy_by_definition(r, g, lambda i, j, w=w: w[i] * w[j], decided=True)
        np.testing.assert_allclose(value, expected, rtol=1e-14)


def test_a_perfect_model_of_one_right_output_in_ten():
    """By the definition ties of the truth count as errors; over the pairs that it tells apart none do."""
    truth = jnp.zeros(10).at[3].set(1.0)
    model = truth + 0.01 * jnp.arange(10)
    np.testing.assert_allclose(product_accuracy(model, truth, jnp.ones(10)), 0.2, rtol=1e-15)
    assert accuracy_where_truth_differs(model, truth, jnp.ones(10)) == 1
    assert np.isnan(accuracy_where_truth_differs(model, jnp.ones(10), jnp.ones(10)))


def test_accuracy_is_precise_where_pairs_are_rare():
    policy = jnp.array([1.0, 1e-100, 3e-100])
    found = product_accuracy(jnp.array([1.0, 0.0, 2.0]), jnp.array([2.0, 0.0, 1.0]), policy)
    np.testing.assert_allclose(found, 0.25, rtol=1e-15)  # (0, 1) right, (0, 2) wrong, (1, 2) negligible


def test_accuracy_needs_little_memory():
    shape = jax.ShapeDtypeStruct((32, 4096), float)
    memory = jax.jit(product_accuracy).lower(shape, shape, shape).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 64 * 2**20  # an array of pairs takes 4 GiB


def test_metrics_are_their_definitions():
    instance = from_dictionary(random_data(2, features=True, regularized=True))
    parameters = instance.initial_parameters
    found = measure(instance, parameters, tuple(METRICS))
    p = np.asarray(instance.probabilities(parameters))
    q = np.exp(instance.reference_log_probabilities)
    proxy, truth = np.asarray(instance.rewards), np.asarray(instance.ground_truth_rewards)
    mean = (p * proxy).sum(-1)

    def accuracies(weights, decided=False):
        rows = zip(proxy, truth, p, strict=True)
        return [accuracy_by_definition(r, g, functools.partial(weights, q), decided) for r, g, q in rows]

    expected = {
        "probabilities": p,
        "expected_proxy_reward": mean,
        "expected_ground_truth_reward": (p * truth).sum(-1),
        "proxy_reward_variance": (p * (proxy - mean[:, None]) ** 2).sum(-1),
        "uniform_accuracy": accuracies(lambda p, i, j: 1.0),
        "on_policy_accuracy": accuracies(lambda p, i, j: p[i] * p[j]),
        "uniform_accuracy_where_truth_differs": accuracies(lambda p, i, j: 1.0, decided=True),
        "on_policy_accuracy_where_truth_differs": accuracies(lambda p, i, j: p[i] * p[j], decided=True),
        "kl_to_reference": (p * np.log(p / q)).sum(-1),
        "policy_entropy": -(p * np.log(p)).sum(-1),
        "gradient_norm": np.linalg.norm(jax.grad(objective, 1)(instance, parameters)),
    }
    assert found.keys() == expected.keys() == METRICS.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-14, err_msg=name)


def test_metrics_jit_and_vmap():
    instance = from_dictionary(random_data(2, masked=True))
    batch = jnp.stack([instance.initial_parameters, 2 * instance.initial_parameters])
    found = jax.jit(jax.vmap(lambda parameters: measure(instance, parameters, tuple(METRICS))))(batch)
    assert found["probabilities"].shape == (2, *instance.rewards.shape)
    assert found["policy_entropy"].shape == (2, PROMPTS)
    assert all(jnp.isfinite(value).all() for value in found.values())
    # Of the last prompt two outputs exist: one pair.
    assert set(np.asarray(found["uniform_accuracy"][:, 2]).tolist()) <= {0.0, 1.0}
    np.testing.assert_allclose(found["gradient_norm"][1], jnp.linalg.norm(gradient(instance, batch[1])))


def test_unknown_metric_is_refused_with_the_known_ones():
    instance = Instance([1.0, 0.0])
    with pytest.raises(ValueError, match=r"metric 'variance' is unknown; known are probabilities, .*norm"):
        measure(instance, instance.initial_parameters, ("variance",))
