import jax
import numpy as np
import pytest
from test_figures import rises, run

from goodteacher.experiments.batches import taught
from goodteacher.experiments.reward_models import TEACHERS, Classroom
from goodteacher.sim.flow import hitting_times
from goodteacher.sim.goals import reward_increase


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
    values, times, level = paths["expected_reward"].values, paths["time"].values, float(marks["level"][0])
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
    classroom = Classroom()
    batch = taught(classroom.problem(), np.array([[0.05], [1.0]]) * classroom.truth)
    goals = jax.vmap(lambda i: reward_increase(i, classroom.gamma))(batch)
    slow, fast = hitting_times(batch, goals).time[:, 0]
    np.testing.assert_allclose(slow, 20 * fast, rtol=1e-9)
