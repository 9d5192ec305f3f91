from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array
from sim_strategies import MASK, numbers, random_data

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import (
    advantage,
    entropy,
    expected_reward,
    gradient,
    kl_divergence,
    log_ratio_along,
    natural_gradient,
    objective,
)
from goodteacher.sim.policies import LinearSoftmax

KINDS = [
    {"features": features, "masked": masked, "regularized": regularized}
    for features in (False, True)
    for masked in (False, True)
    for regularized in (False, True)
]
# Probabilities on logits of standard deviation 2; near-deterministic ones; ones that underflow.
SCALES = (2.0, 50.0, 1000.0)

closed_form = eqx.filter_jit(gradient)
autodiff = eqx.filter_jit(jax.grad(objective, argnums=1))


def magnitude(instance: Instance) -> float:
    """Of the terms that a parameter's gradient is a difference of."""
    parameters = instance.initial_parameters
    largest = jnp.abs(instance.rewards).max()
    if instance.regularizer is not None:
        log_p, log_reference = instance.log_probabilities(parameters), instance.reference_log_probabilities
        for logarithms in (log_p, log_reference):
            largest += jnp.abs(jnp.where(jnp.isfinite(logarithms), logarithms, 0.0)).max()
    jacobian = jax.jacobian(instance.policy.logits)(parameters)
    return float(largest * jnp.abs(jacobian).max())


def gradient_error(instance: Instance, sabotaged: Instance | None = None) -> float:
    """Largest difference of the closed form and autodiff, relative to the scale of the problem."""
    parameters = instance.initial_parameters
    found = closed_form(instance if sabotaged is None else sabotaged, parameters)
    return float(jnp.abs(found - autodiff(instance, parameters)).max()) / magnitude(instance)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_closed_form_gradient_equals_autodiff(kind):
    for seed in range(20):
        for scale in SCALES:
            instance = from_dictionary(random_data(seed, scale, **kind))
            assert gradient_error(instance) < 1e-12


@pytest.mark.parametrize(
    "part",
    [
        lambda i: i.rewards,
        lambda i: i.regularizer.kl,
        lambda i: i.regularizer.forward_kl,
        lambda i: i.regularizer.entropy,
        lambda i: i.reference_log_probabilities,
        lambda i: i.prompt_weights,
        lambda i: i.policy.temperature,
        lambda i: i.policy.features,
    ],
)
def test_the_gradient_check_catches_a_part_in_a_million(part):
    instance = from_dictionary(random_data(0, features=True, regularized=True))
    sabotaged = eqx.tree_at(part, instance, replace_fn=lambda leaf: leaf * (1 + 1e-6))
    assert gradient_error(instance) < 1e-12
    assert gradient_error(instance, sabotaged) > 1e-10


@pytest.mark.parametrize("kind", KINDS[1::2], ids=str)
def test_gradient_of_one_term_alone(kind):
    """Each regularisation term by its own formula, so that errors of two cannot cancel."""
    data = random_data(1, **kind)
    for name in ("kl_coefficient", "forward_kl_coefficient", "entropy_coefficient"):
        alone: dict[str, Any] = {
            key: 0.0 if key.endswith("coefficient") and key != name else data[key] for key in data
        }
        assert gradient_error(from_dictionary(alone)) < 1e-12


def exact_advantage(small: np.ndarray, rewards: np.ndarray) -> list[mpmath.mpf]:
    """``r - sum p r`` with 400 digits, where the first probability is one minus the others."""
    with mpmath.workdps(400):
        p = [mpmath.mpf(float(x)) for x in small]
        r = [mpmath.mpf(float(x)) for x in rewards]
        value = (1 - sum(p)) * r[0] + sum(x * y for x, y in zip(p, r[1:], strict=True))
        return [x - value for x in r]


def relative_errors(found: Array | np.ndarray, exact: list[mpmath.mpf]) -> np.ndarray:
    pairs = zip(np.asarray(found).tolist(), exact, strict=True)
    return np.array([float(abs(x - y) / abs(y)) for x, y in pairs])


@given(
    st.lists(st.floats(-300, -1), min_size=4, max_size=4),
    st.floats(0.01, 1),
    st.lists(st.floats(0.01, 2), min_size=4, max_size=4),
)
def test_advantage_is_precise_near_a_vertex(exponents, best, gaps):
    small = 10.0 ** np.asarray(exponents) / 4
    rewards = np.array([best, *(best - np.asarray(gaps))])
    probabilities = jnp.array([1 - small.sum(), *small])
    found = advantage(probabilities, jnp.asarray(rewards))
    assert relative_errors(found, exact_advantage(small, rewards)).max() < 2e-15


@pytest.mark.parametrize("exponent", [-16, -30, -100, -300])
def test_the_plain_advantage_is_wrong_near_a_vertex(exponent):
    small, rewards = np.full(4, 10.0**exponent), np.array([0.7, 0.1, -0.3, 0.6, -1.0])
    probabilities = jnp.array([1 - small.sum(), *small])
    exact = exact_advantage(small, rewards)
    plain = rewards - expected_reward(probabilities, jnp.asarray(rewards))
    assert relative_errors(plain, exact)[0] > 0.01
    assert relative_errors(advantage(probabilities, jnp.asarray(rewards)), exact).max() < 2e-15


def test_advantage_of_tied_modal_outputs():
    found = advantage(jnp.array([0.5, 0.5, 0.0]), jnp.array([1.0, -1.0, 3.0]))
    np.testing.assert_array_equal(found, [1.0, -1.0, 3.0])


@given(st.lists(numbers(30), min_size=5, max_size=5), st.lists(numbers(30), min_size=5, max_size=5))
def test_divergence_and_entropy_against_high_precision(logits, reference_logits):
    log_p, log_q = (jax.nn.log_softmax(jnp.asarray(x)) for x in (logits, reference_logits))
    with mpmath.workdps(40):
        ps, qs = ([mpmath.mpf(x) for x in np.asarray(rows).tolist()] for rows in (log_p, log_q))
        divergence = mpmath.fsum(mpmath.exp(a) * (a - b) for a, b in zip(ps, qs, strict=True))
        negative_entropy = mpmath.fsum(mpmath.exp(a) * a for a in ps)
    np.testing.assert_allclose(kl_divergence(log_p, log_q), float(divergence.real), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(entropy(log_p), -float(negative_entropy.real), rtol=1e-14, atol=1e-14)


def test_divergence_is_not_symmetric():
    """What the check above would miss if both were near each other."""
    log_p, log_q = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.5, 0.5]))
    assert abs(kl_divergence(log_p, log_q) - kl_divergence(log_q, log_p)) > 0.1


def test_outputs_that_do_not_exist_count_nothing():
    log_p = jnp.array([-jnp.inf, *jnp.log(jnp.array([0.25, 0.75]))])
    log_q = jnp.array([-jnp.inf, *jnp.log(jnp.array([0.5, 0.5]))])
    np.testing.assert_array_equal(kl_divergence(log_p, log_q), kl_divergence(log_p[1:], log_q[1:]))
    np.testing.assert_array_equal(entropy(log_p), entropy(log_p[1:]))
    assert jnp.isfinite(jax.grad(entropy)(log_p)).all()


def test_objective_is_its_definition():
    instance = from_dictionary(random_data(3, regularized=True))
    regularizer = instance.regularizer
    assert regularizer is not None
    p = np.asarray(instance.probabilities(instance.initial_parameters))
    q = np.exp(instance.reference_log_probabilities)
    terms = (
        p * np.asarray(instance.rewards)
        - regularizer.kl * p * np.log(p / q)
        - regularizer.forward_kl * q * np.log(q / p)
        - regularizer.entropy * p * np.log(p)
    )
    expected = (np.asarray(instance.prompt_weights)[:, None] * terms).sum()
    np.testing.assert_allclose(objective(instance, instance.initial_parameters), expected, rtol=1e-13)


def dense_natural_gradient(instance: Instance) -> np.ndarray:
    """The Fisher matrix from the scores, its pseudo-inverse, and autodiff's gradient."""
    parameters = instance.initial_parameters
    scores = np.asarray(jax.jacobian(instance.log_probabilities)(parameters))
    exists = np.ones(scores.shape[:2], bool) if instance.mask is None else np.asarray(instance.mask)
    scores = np.where(exists[..., None], scores.reshape(*exists.shape, -1), 0.0)
    p = np.asarray(instance.probabilities(parameters))
    fisher = np.einsum("x,xy,xyi,xyj->ij", instance.prompt_weights, p, scores, scores)
    flat = np.asarray(autodiff(instance, parameters)).ravel()
    return (np.linalg.pinv(fisher, rcond=1e-12, hermitian=True) @ flat).reshape(parameters.shape)


def deficient_features(seed: int) -> dict:
    data = random_data(seed, 1.0, features=True, regularized=True)
    data["output_features"][..., 3] = data["output_features"][..., 0] - data["output_features"][..., 1]
    return data


def many_features(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    data = random_data(seed, 1.0, features=True, regularized=True)
    data["output_features"] = rng.normal(size=(*data["rewards"].shape, 20))
    data["initial_policy_weights"] = 0.3 * rng.normal(size=20)
    return data


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: random_data(seed, 1.0),
        lambda seed: random_data(seed, 1.0, regularized=True),
        lambda seed: random_data(seed, 1.0, masked=True, regularized=True),
        lambda seed: random_data(seed, 1.0, features=True),
        lambda seed: random_data(seed, 1.0, features=True, masked=True, regularized=True),
        deficient_features,
        many_features,
    ],
    ids=["tabular", "regularized", "masked", "features", "masked features", "deficient", "many features"],
)
def test_natural_gradient_is_the_pseudo_inverse_of_the_fisher_matrix(make):
    for seed in range(5):
        instance = from_dictionary(make(seed))
        exact = dense_natural_gradient(instance)
        found = np.asarray(natural_gradient(instance, instance.initial_parameters))
        np.testing.assert_allclose(found, exact, atol=1e-8 * np.abs(exact).max(), rtol=0)


def test_the_natural_gradient_check_catches_wrong_prompt_weights():
    instance = from_dictionary(random_data(0, 1.0, features=True))
    exact = dense_natural_gradient(instance)
    uneven = eqx.tree_at(
        lambda i: i.prompt_weights, instance, instance.prompt_weights * jnp.array([1.001, 1, 1])
    )
    found = np.asarray(natural_gradient(uneven, instance.initial_parameters))
    assert np.abs(found - exact).max() > 1e-6 * np.abs(exact).max()


def test_natural_gradient_is_finite_for_an_output_far_rarer_than_at_the_reference():
    instance = Instance(
        [1.0, 0.5, -1.0],
        start=Parameters([0.0, 0.0, -1500.0]),
        reference_policy_logits=[0.0, 0.0, 0.0],
        regularizer=Regularizer(kl=0.1),
    )
    found = natural_gradient(instance, instance.initial_parameters)[0]
    # The rarest output's KL-regularised reward exceeds the others' by 0.1 * 1500 less its own reward.
    assert found[2] - found[0] == pytest.approx(150.0 - 2.0, rel=1e-12)


def test_natural_gradient_hardly_regards_a_rare_output():
    """Two features for four outputs, one of probability 1e-9: it counts for that much, not for more."""
    features = np.random.default_rng(0).normal(size=(1, 4, 2))
    weights = np.array([0.3, -0.2])
    features[0, 3] += weights / (weights @ weights) * (np.log(1e-9) - features[0, 3] @ weights)
    instance = Instance([0.3, -0.2, 0.9, -1.0], start=Parameters(weights), policy=LinearSoftmax(features))
    assert 1e-10 < instance.probabilities(instance.initial_parameters)[0, 3] < 1e-8
    found = natural_gradient(instance, instance.initial_parameters)
    np.testing.assert_allclose(found, dense_natural_gradient(instance), rtol=1e-9)


def test_natural_gradient_leaves_a_prompt_without_weight_alone():
    data = random_data(0, 1.0)
    data["prompt_weights"] = [0.0, 0.4, 0.6]
    instance = from_dictionary(data)
    found = np.asarray(natural_gradient(instance, instance.initial_parameters))
    np.testing.assert_allclose(found, dense_natural_gradient(instance), atol=1e-8)


def test_natural_gradient_is_the_advantage_even_where_probabilities_underflow():
    """Its logits rise at the rate of the reward up to a constant, wherever the policy is."""
    rewards, logits = np.array([[0.3, -0.2, 0.9]]), np.array([[0.0, -2000.0, -50.0]])
    instance = Instance(rewards, start=Parameters(logits))
    found = natural_gradient(instance, instance.initial_parameters)
    np.testing.assert_allclose(found, rewards - rewards.mean(), atol=1e-15)


def test_masked_gradient_is_that_of_the_smaller_problem():
    data = random_data(5, masked=True, regularized=True)
    whole = gradient(from_dictionary(data), jnp.asarray(data["initial_policy_weights"]))
    for prompt, exists in enumerate(MASK):
        part: dict[str, Any] = {
            key: value[prompt][exists] if np.ndim(value) == 2 else value
            for key, value in data.items()
            if key not in ("mask", "prompt_weights")
        }
        alone = from_dictionary(part)
        weight = data["prompt_weights"][prompt] / data["prompt_weights"].sum()
        expected = weight * gradient(alone, alone.initial_parameters)[0]
        np.testing.assert_allclose(whole[prompt][exists], expected, rtol=1e-12)
        np.testing.assert_array_equal(whole[prompt][~exists], 0.0)


@pytest.mark.parametrize("size", [1e-15, 1e-6, 0.3])
def test_the_log_ratio_of_a_policy_that_has_hardly_moved_keeps_its_digits(size):
    instance = Instance([1.0, 0.0, -1.0], start=[0.2, 0.3, 0.5])
    move = size * np.array([0.7, -0.2, 0.1])
    with mpmath.workdps(50):
        weights = [mpmath.mpf(p) * mpmath.exp(d) for p, d in zip((0.2, 0.3, 0.5), move, strict=True)]
        exact = [float(d - mpmath.log(mpmath.fsum(weights))) for d in move]
    np.testing.assert_allclose(log_ratio_along(instance, jnp.asarray([move]))[0], exact, rtol=1e-9)
