import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_figures import rises, run

from goodteacher.experiments.gallery.three_teachers import (
    BEST,
    TEACHERS,
    Settings,
    problem,
    random_rankings,
    standardized,
    taught,
    teachers,
)
from goodteacher.sim.flow import hitting_times
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.metrics import product_accuracy, reward_variance


def test_three_teachers():
    data, caption = run("three_teachers", points=60, rankings=15, variances=13)
    paths, marks, plane = data["paths"], data["teachers"], data["plane"]
    truth, slow, fast = marks["time"].values
    _, lower, upper = marks["bound"].values
    assert fast <= upper < lower <= slow
    assert max(truth, fast) < slow / 1e4
    np.testing.assert_allclose(marks["accuracy"], [1, 1, 0.2], rtol=1e-15)
    assert f"{slow:.3g} for a perfectly accurate reward model" in caption

    # A path crosses the level between the records around its time.
    values, times, level = paths["expected_reward"].values, paths["time"].values, paths.attrs["level"]
    first = (values >= level).argmax(1)
    assert ((times[first - 1] < marks["time"]) & (marks["time"] <= times[first])).all()
    assert rises(values[TEACHERS.index("ground truth")])
    assert level == pytest.approx(values[0, 0] + 0.4)

    ahead, even = plane["time"].values
    possible = ~np.isnan(ahead)
    assert not possible[:9].any()  # fewer right pairs than those of the best output
    assert possible[9:, :-2].all()
    by_accuracy = ahead[9:, 0]
    assert by_accuracy.max() / by_accuracy.min() < 1.02
    assert np.isinf(even[:23, 0]).all()
    assert even[45, 0] < np.inf


def test_times_of_the_plane_scale_with_the_rewards():
    settings = Settings()
    instance = problem(settings)
    batch = taught(instance, jnp.array([[0.05], [1.0]]) * instance.rewards)
    goals = jax.vmap(lambda i: reward_increase(i, settings.gamma))(batch)
    slow, fast = hitting_times(batch, goals).time[:, 0]
    np.testing.assert_allclose(slow, 20 * fast, rtol=1e-9)


def test_random_models_have_the_accuracy_and_the_variance():
    settings = Settings()
    instance = problem(settings)
    truth = np.asarray(instance.rewards[0])
    policy = np.asarray(instance.probabilities(instance.initial_parameters)[0])
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
    rewards = {name: np.asarray(values) for name, values in teachers(Settings()).items()}
    truth = rewards["ground truth"]
    assert (np.argsort(rewards["low variance"]) == np.argsort(truth)).all()
    others = [output for output in np.argsort(-truth) if output != BEST]
    assert np.argsort(rewards["fast"]).tolist() == [*others, BEST]
    assert rewards["fast"].argmax() == BEST
