import dataclasses
import re
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from sim_strategies import FEATURES, MASK, probability_rows, random_data

from goodteacher.sim.autoregressive import Sequences, TokenTable
from goodteacher.sim.files import from_dictionary
from goodteacher.sim.instance import Instance, Parameters, Probabilities, Regularizer
from goodteacher.sim.objective import gradient, objective
from goodteacher.sim.policies import LinearSoftmax, Tabular

REWARDS = [[1.0, 0.0, -1.0], [0.5, 0.2, 0.1]]
UNIFORM = [[0.5, 0.25, 0.25]] * 2
FEATURE = [[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]] * 2
NAN, INF = float("nan"), float("inf")


@given(probability_rows(2, 5))
def test_tabular_start_has_the_given_probabilities(rows):
    instance = Instance(np.zeros((2, 5)), start=rows)
    np.testing.assert_allclose(instance.probabilities(instance.initial_parameters), rows, rtol=1e-13)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("intercepts", [False, True])
def test_features_start_has_the_given_probabilities(temperature, intercepts):
    """Whether the features span the logarithms themselves, or only up to a constant per prompt."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 5, 3))
    target = np.exp(features @ rng.normal(size=3))
    target /= target.sum(-1, keepdims=True)
    if intercepts:
        features = np.concatenate([features, np.eye(2)[:, None].repeat(5, axis=1)], axis=-1)
    instance = Instance(np.zeros((2, 5)), start=target, policy=LinearSoftmax(features, temperature))
    np.testing.assert_allclose(instance.probabilities(instance.initial_parameters), target, atol=1e-12)


def test_published_geometry_has_the_published_start():
    """Weights that solve ``features @ theta = ln p`` themselves, not merely up to a constant."""
    half = 0.5**0.5
    features = np.eye(5)
    features[0, 0], features[1, :2] = 1.5, [-half, half]
    p = np.array([0.05, 0.5, 0.15, 0.15, 0.15])
    instance = Instance([1, 0.8, -1, -1, -1], start=p, policy=LinearSoftmax(features[None]))
    np.testing.assert_allclose(features @ np.asarray(instance.initial_parameters), np.log(p), rtol=1e-12)


def test_nearest_start_is_the_least_squares_fit():
    target, features = np.array([0.7, 0.2, 0.1]), np.array([[[1.0], [0.0], [2.0]]])
    policy = LinearSoftmax(features)
    with pytest.raises(ValueError, match=r"differs by 0\.[0-9]+ in a probability"):
        Instance([1.0, 0.0, 0.5], start=target, policy=policy)
    instance = Instance([1.0, 0.0, 0.5], start=Probabilities(target, nearest=True), policy=policy)
    design = np.stack([features[0, :, 0], np.ones(3)], axis=1)
    fit = np.linalg.lstsq(design, np.log(target))[0][:1]
    np.testing.assert_allclose(instance.initial_parameters, fit, rtol=1e-12)


def test_the_error_says_how_far_off_the_nearest_is():
    target, features = np.array([0.7, 0.2, 0.1]), np.array([[[1.0], [0.0], [2.0]]])
    policy = LinearSoftmax(features)
    nearest = Instance([1.0, 0.0, 0.5], start=Probabilities(target, nearest=True), policy=policy)
    gap = np.abs(nearest.probabilities(nearest.initial_parameters)[0] - target).max()
    with pytest.raises(ValueError, match=re.escape(f"differs by {gap:.3g} in a probability")):
        Instance([1.0, 0.0, 0.5], start=target, policy=policy)


def test_defaults():
    instance = Instance([1.0, 0.0, 0.5])
    assert instance.rewards.shape == (1, 3)
    assert isinstance(instance.policy, Tabular)
    assert instance.mask is None
    assert instance.regularizer is None
    np.testing.assert_array_equal(instance.ground_truth_rewards, instance.rewards)
    np.testing.assert_allclose(instance.probabilities(instance.initial_parameters), [[1 / 3] * 3], rtol=1e-15)
    np.testing.assert_allclose(np.exp(instance.reference_log_probabilities), [[1 / 3] * 3], rtol=1e-15)
    np.testing.assert_array_equal(instance.prompt_weights, [1.0])


def test_a_single_prompt_needs_no_axis():
    rows: dict[str, Any] = {"start": [0.2, 0.8], "reference_policy_logits": [1.0, 0.0]}
    flat = Instance([1.0, 0.0], [0.0, 1.0], **rows, mask=[True, True])
    rows = {key: [row] for key, row in rows.items()}
    deep = Instance([[1.0, 0.0]], [[0.0, 1.0]], **rows, mask=[[True, True]])
    assert jax.tree.structure(flat) == jax.tree.structure(deep)
    jax.tree.map(np.testing.assert_array_equal, flat, deep)


def test_prompt_weights_are_scaled_to_one():
    instance = Instance(REWARDS, prompt_weights=[1, 3])
    np.testing.assert_array_equal(instance.prompt_weights, [0.25, 0.75])


def test_reference_is_normalized_and_otherwise_the_start():
    instance = Instance(REWARDS, start=UNIFORM)
    np.testing.assert_allclose(np.exp(instance.reference_log_probabilities), UNIFORM, rtol=1e-15)
    instance = Instance(REWARDS, reference_policy_logits=[[5.0, 5.0, 5.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(np.exp(instance.reference_log_probabilities).sum(-1), 1, rtol=1e-15)


def test_what_the_mask_hides_is_ignored():
    data = random_data(0, masked=True, regularized=True)
    for key in ("rewards", "ground_truth_rewards", "initial_policy_weights", "reference_policy_logits"):
        data[key] = np.where(MASK, data[key], NAN)
    instance = from_dictionary(data)
    p = instance.probabilities(instance.initial_parameters)
    np.testing.assert_array_equal(p[~MASK], 0.0)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-15)
    value, slope = jax.value_and_grad(objective, 1)(instance, instance.initial_parameters)
    assert jnp.isfinite(value)
    assert jnp.isfinite(slope).all()


def test_masked_probabilities_sum_over_what_exists():
    p = [[0.25, 0.75, NAN], [0.2, 0.3, 0.5]]
    instance = Instance(REWARDS, start=p, mask=[[1, 1, 0], [1, 1, 1]])
    found = instance.probabilities(instance.initial_parameters)
    np.testing.assert_allclose(found, [[0.25, 0.75, 0.0], p[1]], rtol=1e-15)


def test_instances_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Instance(REWARDS).rewards = jnp.zeros((2, 3))  # pyright: ignore[reportAttributeAccessIssue]


def test_instances_are_pytrees_of_arrays():
    instance = from_dictionary(random_data(0, features=True, masked=True, regularized=True))
    leaves, structure = jax.tree.flatten(instance)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert eqx.tree_equal(rebuilt, instance)


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("regularized", [False, True])
def test_instances_can_be_made_under_jit_and_vmap(features, regularized):
    """And have the structure that they have elsewhere: without regularisation its terms are left out."""
    data = random_data(0, features=features, regularized=regularized)
    rewards = jnp.stack([data.pop("rewards")] * 2) * jnp.array([1.0, 0.5])[:, None, None]

    def make(rewards):
        return from_dictionary({**data, "rewards": rewards})

    batch = jax.jit(jax.vmap(make))(rewards)
    assert batch.rewards.shape == rewards.shape
    assert jax.tree.structure(batch) == jax.tree.structure(make(rewards[0]))
    slopes = jax.jit(jax.vmap(lambda instance: gradient(instance, instance.initial_parameters)))(batch)
    for index in range(2):
        alone = make(rewards[index])
        np.testing.assert_allclose(slopes[index], gradient(alone, alone.initial_parameters), atol=1e-14)


def test_probabilities_can_be_traced():
    """As sweeps do: the start is a function of a traced probability, for either policy."""

    def start(p, policy):
        return Instance([1.0, 0.0, -1.0], start=[[p, 0.6, 0.4 - p]], policy=policy)

    for policy in (None, LinearSoftmax(np.eye(3)[None])):
        batch = jax.jit(jax.vmap(partial(start, policy=policy)))(jnp.array([0.1, 0.3]))
        found = jax.vmap(lambda instance: instance.probabilities(instance.initial_parameters))(batch)
        np.testing.assert_allclose(found[:, 0], [[0.1, 0.6, 0.3], [0.3, 0.6, 0.1]], atol=1e-14)


BAD = {
    "ragged": ({"rewards": [[1.0, 0.0, 0.5], [1.0, 0.0]]}, "rewards has rows of different lengths.*mask"),
    "deep": ({"rewards": [[[1.0, 0.0]]]}, "rewards has 3 levels of nesting; give 2"),
    "scalar": ({"rewards": 1.0}, "rewards has 0 levels of nesting; give 2"),
    "empty": ({"rewards": []}, "rewards has 0 output.*give at least 2"),
    "no prompt": ({"rewards": np.zeros((0, 3))}, "rewards has no prompt; give at least one"),
    "one output": ({"rewards": [[1.0], [2.0]]}, "rewards has 1 output per prompt; give at least 2"),
    "text": ({"rewards": [[1.0, "x"], [0.0, 0.0]]}, "rewards must hold numbers only.*it has 'x'"),
    "truth value": ({"rewards": [[True, False, True]]}, "rewards must hold numbers only.*it has"),
    "null": ({"rewards": [[1.0, None, 0.0]]}, "rewards must hold numbers only.*it has None"),
    "object": ({"rewards": {"a": 1}}, "rewards must hold numbers only.*it has {'a': 1}"),
    "complex": ({"rewards": [[1j, 0.0, 1.0]]}, "rewards must hold numbers only"),
    "nan reward": ({"rewards": [[1.0, 0.0, NAN]]}, r"rewards\[0\]\[2\] is nan; give finite numbers"),
    "infinite truth": (
        {"ground_truth_rewards": [[0.0, 0.0, 0.0], [0.0, -INF, 0.0]]},
        r"ground_truth_rewards\[1\]\[1\] is -inf; give finite numbers",
    ),
    "truth shape": (
        {"ground_truth_rewards": [[0.0, 1.0]]},
        r"ground_truth_rewards has shape \[1, 2\] but rewards has shape \[2, 3\]; make them equal",
    ),
    "negative probability": (
        {"initial_policy_probabilities": [[0.5, 0.25, 0.25], [1.2, -0.2, 0.0]]},
        r"initial_policy_probabilities\[1\]\[1\] is -0.2; .*positive.*mask",
    ),
    "zero probability": (
        {"initial_policy_probabilities": [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]},
        r"initial_policy_probabilities\[0\]\[2\] is 0.0; .*positive.*mask",
    ),
    "sum": (
        {"initial_policy_probabilities": [[0.5, 0.25, 0.25], [0.5, 0.25, 0.2]]},
        r"initial_policy_probabilities\[1\] sums to 0.95; make it sum to 1",
    ),
    "nan probability": (
        {"initial_policy_probabilities": [[0.5, NAN, 0.5], [0.5, 0.25, 0.25]]},
        r"initial_policy_probabilities\[0\]\[1\] is nan",
    ),
    "probability shape": (
        {"initial_policy_probabilities": [[0.5, 0.5]]},
        r"initial_policy_probabilities has shape \[1, 2\] but rewards has shape \[2, 3\]",
    ),
    "both starts": (
        {"initial_policy_probabilities": UNIFORM, "initial_policy_weights": REWARDS},
        "initial_policy_weights and initial_policy_probabilities are both given; give one",
    ),
    "logits shape": (
        {"initial_policy_weights": [0.0, 0.0, 0.0]},
        r"initial_policy_weights has shape \[1, 3\] but rewards has shape \[2, 3\]",
    ),
    "infinite logit": (
        {"initial_policy_weights": [[0.0, INF, 0.0], [0.0, 0.0, 0.0]]},
        r"initial_policy_weights\[0\]\[1\] is inf",
    ),
    "feature nesting": ({"output_features": [[1.0, 0.0]]}, "output_features has 2 levels of nesting; give 3"),
    "feature shape": (
        {"output_features": [[[1.0], [0.0]]]},
        r"output_features has shape \[1, 2, 1\] but rewards has shape \[2, 3\]; give \[prompts, outputs",
    ),
    "no feature": ({"output_features": np.zeros((2, 3, 0))}, r"output_features has shape \[2, 3, 0\]"),
    "nan feature": (
        {"output_features": [[[1.0, NAN], [0.0, 1.0], [0.0, 0.0]]] * 2},
        r"output_features\[0\]\[0\]\[1\] is nan",
    ),
    "feature weights": (
        {"output_features": FEATURE, "initial_policy_weights": [[1.0, 2.0, 3.0]]},
        r"initial_policy_weights has shape \[1, 3\] but the features have dimension 2; give \[\[2 num",
    ),
    "unrealisable": (
        {"output_features": FEATURE, "initial_policy_probabilities": [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]},
        "initial_policy_probabilities cannot be realised by output_features: .*differs by .*the nearest",
    ),
    "zero temperature": (
        {"output_features": FEATURE, "temperature": 0.0},
        "temperature is 0.0; it must be positive",
    ),
    "negative temperature": (
        {"output_features": FEATURE, "temperature": -1.0},
        "temperature is -1.0; it must be positive",
    ),
    "nan temperature": ({"output_features": FEATURE, "temperature": NAN}, "temperature is nan; give finite"),
    "tabular temperature": ({"temperature": 2.0}, "temperature is given without output_features; scale"),
    "temperatures": (
        {"output_features": FEATURE, "temperature": [1.0, 2.0]},
        r"temperature has shape \[2\]; give one number",
    ),
    "negative kl": ({"kl_coefficient": -0.1}, "kl_coefficient is -0.1; it must be not negative"),
    "negative forward": ({"forward_kl_coefficient": -1}, "forward_kl_coefficient is -1.0; it must be not"),
    "negative entropy": ({"entropy_coefficient": -1}, "entropy_coefficient is -1.0; it must be not negative"),
    "nan kl": ({"kl_coefficient": NAN}, "kl_coefficient is nan; give finite numbers"),
    "text kl": ({"kl_coefficient": "much"}, "kl_coefficient must hold numbers only.*it has 'much'"),
    "weights shape": (
        {"prompt_weights": [1.0, 1.0, 1.0]},
        r"prompt_weights has shape \[3\] but there are 2 prompts; give one each",
    ),
    "negative weight": ({"prompt_weights": [2.0, -1.0]}, "prompt_weights has minimum -1.0 .* not negative"),
    "zero weights": ({"prompt_weights": [0.0, 0.0]}, "prompt_weights .* sum 0.0; .* not all zero"),
    "nan weight": ({"prompt_weights": [NAN, 1.0]}, r"prompt_weights\[0\] is nan"),
    "reference shape": (
        {"reference_policy_logits": [0.0, 0.0, 0.0]},
        r"reference_policy_logits has shape \[1, 3\] but rewards has shape \[2, 3\]",
    ),
    "nan reference": (
        {"reference_policy_logits": [[0.0, NAN, 0.0], [0.0, 0.0, 0.0]]},
        r"reference_policy_logits\[0\]\[1\] is nan",
    ),
    "mask shape": (
        {"mask": [[True, True], [True, True]]},
        r"mask has shape \[2, 2\] but rewards has shape \[2, 3\]; make them equal",
    ),
    "ragged mask": ({"mask": [[True, True], [True]]}, "mask must hold only true and false, in rows of one"),
    "mask values": ({"mask": [[1, 1, 2], [1, 1, 1]]}, "mask must hold only true and false"),
    "mask leaves one": (
        {"mask": [[True, True, True], [False, True, False]]},
        "mask leaves prompt 1 with 1 outputs; leave at least 2",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(changes, message):
    rewards = changes.get("rewards", REWARDS)
    data: dict[str, Any] = {"rewards": rewards, "ground_truth_rewards": rewards}
    if not changes.keys() & {"initial_policy_weights", "initial_policy_probabilities"}:
        data["initial_policy_weights"] = np.zeros((2, 3))
    with pytest.raises(ValueError, match=message):
        from_dictionary(data | changes)


def test_a_policy_of_ones_own_that_does_not_fit_is_refused():
    policy = TokenTable(Sequences(1, 2, 1))
    with pytest.raises(ValueError, match="policy needs initial_policy_weights to start from"):
        Instance([[1.0, 0.0]], policy=policy)
    message = r"policy gives logits of shape \[1, 2\] but rewards has shape \[2, 3\]"
    with pytest.raises(ValueError, match=message):
        Instance(REWARDS, policy=policy, start=Parameters([0.0, 0.0]))


@pytest.mark.parametrize("coefficient", ["kl", "forward_kl", "entropy"])
def test_a_negative_coefficient_is_refused(coefficient):
    with pytest.raises(ValueError, match=f"{coefficient}_coefficient is -0.1; it must be not negative"):
        Regularizer(**{coefficient: -0.1})


def test_what_the_bad_inputs_are_changes_of_is_good():
    Instance(REWARDS, REWARDS, start=UNIFORM)
    Instance(REWARDS, policy=LinearSoftmax(FEATURE, 2.0), start=Parameters([[0.0, 1.0]]))
    from_dictionary(random_data(0, features=True, masked=True, regularized=True))
    assert np.shape(random_data(0, features=True)["output_features"])[-1] == FEATURES
