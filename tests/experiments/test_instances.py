"""The published instances have the published values, batch under vmap, and refuse what is out of range."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.experiments.instances import SIMILARITIES, TRAINED_ON, beneficial_errors, feature_similarity
from goodteacher.sim.instance import Regularizer
from goodteacher.sim.policies import LinearSoftmax

REWARDS = {"ground_truth": [1, 0.8, -1, -1, -1], "proxy": [1, -1, -1, -1, -1]}


def start(instance):
    return np.asarray(instance.probabilities(instance.initial_parameters))[0]


@pytest.mark.parametrize("trained_on", TRAINED_ON)
def test_beneficial_errors_has_the_published_values(trained_on):
    for probability in (0.05, 0.10, 0.15):
        instance = beneficial_errors(probability, trained_on=trained_on)
        np.testing.assert_array_equal(instance.rewards[0], REWARDS[trained_on])
        np.testing.assert_array_equal(instance.ground_truth_rewards[0], REWARDS["ground_truth"])
        low = (0.5 - probability) / 3
        np.testing.assert_allclose(start(instance), [probability, 0.5, low, low, low], rtol=1e-14)


def test_every_parameter_counts():
    instance = beneficial_errors(0.1, 0.3, 0.2, 5, regularizer=Regularizer(kl=0.5))
    np.testing.assert_array_equal(instance.rewards[0], [1, 0.3] + 5 * [-1])
    np.testing.assert_allclose(start(instance), [0.1, 0.2] + 5 * [0.14], rtol=1e-14)
    assert instance.regularizer is not None
    assert float(instance.regularizer.kl) == 0.5


@pytest.mark.parametrize(
    ("similarity", "middling"),
    [("orthogonal", [0, 1]), ("negative", [-(0.5**0.5), 0.5**0.5]), ("positive", [0.5**0.5, 0.5**0.5])],
)
def test_feature_similarity_has_the_published_values(similarity, middling):
    instance = feature_similarity(SIMILARITIES[similarity])
    expected = np.diag([1.5, 1.0, 1.0, 1.0, 1.0])
    expected[1, :2] = middling
    assert isinstance(instance.policy, LinearSoftmax)
    np.testing.assert_allclose(instance.policy.features[0], expected, atol=1e-15)
    probabilities = [0.05, 0.5, 0.15, 0.15, 0.15]
    np.testing.assert_allclose(start(instance), probabilities, rtol=1e-12)
    np.testing.assert_allclose(expected @ instance.initial_parameters, np.log(probabilities), rtol=1e-12)
    np.testing.assert_array_equal(instance.rewards[0], REWARDS["ground_truth"])


def test_batches_are_the_instances_one_by_one():
    def one(probability, reward, middling, cosine):
        return (
            beneficial_errors(probability, reward, middling),
            feature_similarity(cosine, probability, reward, middling),
        )

    grid = [jnp.asarray(v) for v in ([0.05, 0.2], [0.8, -0.5], [0.5, 0.3], [0.0, SIMILARITIES["negative"]])]
    several = jax.vmap(one)(*grid)
    for k in range(2):
        alone = one(*(float(values[k]) for values in grid))
        jax.tree.map(
            lambda many, single, k=k: np.testing.assert_allclose(many[k], single, atol=1e-12), several, alone
        )


@pytest.mark.parametrize("build", [beneficial_errors, partial(feature_similarity, SIMILARITIES["positive"])])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"initial_probability": 0.0}, "initial_probability is 0.0"),
        ({"initial_probability": float("nan")}, "initial_probability is nan"),
        ({"initial_probability": "often"}, "initial_probability is 'often'"),
        ({"initial_probability": 0.5}, "initial_probability + middling_probability is 1.0"),
        ({"middling_probability": -0.1}, "middling_probability is -0.1"),
        ({"middling_reward": 1.0}, "middling_reward is 1.0"),
        ({"low_outputs": 0}, "low_outputs is 0"),
        ({"low_outputs": 2.5}, "low_outputs is 2.5"),
        ({"trained_on": "truth"}, "trained_on 'truth' is unknown"),
    ],
)
def test_out_of_range_is_refused(build, arguments, named):
    with pytest.raises(ValueError, match=f"^{re.escape(named)}; (give|known are ground_truth, proxy)"):
        build(**arguments)


@pytest.mark.parametrize(("similarity", "named"), [("alike", "'alike'"), (1.0, "1.0"), (-2, "-2")])
def test_impossible_similarity_is_refused(similarity, named):
    with pytest.raises(ValueError, match=f"similarity is {named}"):
        feature_similarity(similarity)
