"""What the figure of the sampled runs claims, on fewer learners and updates."""

import numpy as np
from test_figures import run

from goodteacher.experiments.gallery.reinforce import Settings, follow_learners, six_runs


def test_reinforce():
    data, caption = run("reinforce", initial_probabilities=(0.15,), updates=2_000)
    bands, learners, ascent = data["bands"], data["learners"], data["ascent"]
    truth, proxy = range(2)
    assert list(learners["trained_on"].values) == ["ground_truth", "proxy"]

    reward = bands["expected_reward"].values
    assert (np.diff(reward, axis=-1) >= 0).all()
    np.testing.assert_allclose(reward[:, 0], 0.2, atol=1e-12)
    np.testing.assert_allclose(learners["standard_error"][:, 0], 0.0, atol=1e-12)

    # The noise of sampling: some are long gone when the exact flow escapes, some are not for long after.
    flow = data["flow"]["escape_updates"].values
    np.testing.assert_allclose(flow[truth], 1681, rtol=1e-3)
    escaped = learners["escaped"]
    assert float(escaped[truth].sel(updates=800, method="nearest")) > 0.1
    assert float(escaped[truth, -1]) < 0.8
    assert float(escaped[proxy, -1]) == 1.0
    assert flow[proxy] < 200
    assert f"exact flow takes {flow[truth]:,.0f} updates" in caption
    assert f"{float(escaped[truth, -1]):.1%} of the learners have escaped" in caption

    # With many samples per update the learners follow exact ascent, and with one they do not.
    def apart(mean):
        return np.abs(mean - ascent["expected_reward"].values)[truth].max()

    many = Settings((0.15,), seeds=20, estimator="rloo", group=64)
    reward, _ = follow_learners(six_runs((0.15,))[0], many, learners["updates"].values)
    assert apart(reward.mean(1)) < 0.03 < apart(learners["mean"].values)
