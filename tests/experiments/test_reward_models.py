"""Reward models of experiments have the accuracy and the variance that they are drawn for."""

import jax.numpy as jnp
import numpy as np

from goodteacher.experiments.instances import BEST
from goodteacher.experiments.reward_models import (
    Classroom,
    accuracy_and_variance,
    random_models,
    random_rankings,
    standardized,
)
from goodteacher.sim.metrics import product_accuracy, reward_variance


def test_random_models_have_the_accuracy_and_the_variance():
    truth, policy = Classroom().truth, Classroom().policy
    rng = np.random.default_rng(0)
    for first, right in ((False, 0), (False, 31), (True, 9), (True, 31)):
        rankings = random_rankings(truth, right, 20, rng, first)
        ones = jnp.ones(rankings.shape)
        found = product_accuracy(jnp.asarray(rankings, float), jnp.broadcast_to(truth, ones.shape), ones)
        np.testing.assert_allclose(found, right / 45, rtol=1e-15)
        assert not first or (rankings.argmax(1) == BEST).all()
        assert (len(np.unique(rankings, axis=0)) > 5) == (right == 31)
        units = jnp.asarray(standardized(rankings, policy))
        variance = reward_variance(jnp.broadcast_to(policy, units.shape), units)
        np.testing.assert_allclose(variance, 1.0, rtol=1e-12)


def test_teachers_differ_in_what_theorem_2_says():
    truth, low_variance, fast = Classroom().teachers()
    assert (np.argsort(low_variance) == np.argsort(truth)).all()
    others = [output for output in np.argsort(-truth) if output != BEST]
    assert np.argsort(fast).tolist() == [*others, BEST]
    assert fast.argmax() == BEST


def test_random_models_of_every_kind():
    classroom = Classroom()
    models = random_models(classroom, [9, 20, 45], [True, False, True], 3, np.random.default_rng(0))
    assert models.shape == (3, 3, 10)
    accuracy, variance = accuracy_and_variance(models.reshape(9, 10), classroom.truth, classroom.policy)
    np.testing.assert_allclose(accuracy.reshape(3, 3), np.array([[9], [20], [45]]) / 45 * np.ones(3))
    np.testing.assert_allclose(variance, 1.0)
    # How far the best output is ahead of the next one, of all that rewards span.
    gaps = [(m.max() - np.sort(m)[-2]) / np.ptp(m) for kind in (models[0], models[1]) for m in kind]
    assert min(gaps[:3]) > 0.9
    assert max(gaps[3:]) < 0.2
