"""Batches have the times and the paths of their problems alone."""

import jax
import numpy as np
import pytest

from goodteacher.experiments.batches import batch, escape_goals, escapes, join, paths, rises, taught
from goodteacher.experiments.instances import beneficial_errors, padded
from goodteacher.sim.flow import hitting_time, trajectory

STARTS = np.array([0.2, 0.1, 0.05])


@pytest.fixture(scope="module")
def instances():
    return batch(beneficial_errors, STARTS)


def alone(instances, index):
    return jax.tree.map(lambda leaf: leaf[index], instances)


def test_times_do_not_depend_on_the_size_of_the_batch(instances):
    few = escapes(instances)
    assert few.time.shape == (3, 1)
    assert few.log_probabilities.shape == (3, 1, 5)
    np.testing.assert_allclose(np.exp(few.log_probabilities[:, 0, 0]), 0.9, rtol=1e-9)
    many = escapes(join(*[instances] * 1500))  # so many that they are compiled
    np.testing.assert_allclose(many.time, np.tile(few.time, (1500, 1)), rtol=1e-12)
    np.testing.assert_allclose(many.log_probabilities[-1], few.log_probabilities[2], atol=1e-12)

    goals = escape_goals(instances)
    one = hitting_time(alone(instances, 1), alone(goals, 1))
    assert float(few.time[1, 0]) == pytest.approx(float(one.time[0]), rel=1e-12)
    # Not the time of another one, nor of a problem with outputs that exist in its stead.
    assert len(np.unique(few.time)) == 3
    other = escapes(batch(lambda start: padded(10, 7, start), STARTS))
    assert (other.time > few.time).all()


def test_paths_are_those_of_the_problem_alone(instances):
    times = np.array([0.0, 1.0, 10.0, 100.0])
    found = paths(instances, times)
    assert found.shape == (3, 4, 1, 5)
    path = trajectory(alone(instances, 1), times)
    np.testing.assert_allclose(found[1], jax.nn.log_softmax(path), rtol=0, atol=1e-12)
    later = trajectory(alone(instances, 1), times * (1 + 1e-10))
    assert np.abs(found[1] - jax.nn.log_softmax(later)).max() > 1e-12


def test_a_batch_is_taught_by_many_models(instances):
    models = np.array([[1.0, 0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0, 0.0]])
    students = taught(alone(instances, 0), models)
    np.testing.assert_array_equal(students.rewards[:, 0], models)
    slow, fast, never = rises(students, 0.6)
    assert slow == pytest.approx(2 * fast, rel=1e-9)
    assert never == np.inf
