"""What the figure of the estimators claims, on fewer learners and samples."""

import numpy as np
from test_figures import run


def test_estimators():
    data, caption = run("estimators", gaps=(1.0, 0.2), updates=2_000, seeds=20, groups=(8,), samples=100_000)
    learners, factor = data["learners"], data["factor"]
    reinforce, rloo, grpo = learners["median"].values
    low, high = learners["low"].values, learners["high"].values
    assert (low <= learners["median"].values).all()
    assert (learners["median"].values <= high).all()

    # RLOO follows exact gradients on both rewards; GRPO is ahead of them, and takes no notice of the scale.
    exact = data["ascent"]["probability"].values
    assert np.abs(rloo - exact).max() < 0.1
    assert (grpo - exact).max() > 0.3
    assert np.abs(grpo[0] - grpo[1]).max() < 0.1
    assert np.abs(rloo[0] - rloo[1]).max() > 0.8
    assert np.abs(reinforce - exact).max() < 0.2

    # Without a baseline the common part of the rewards is noise.
    width = (high - low).max(-1)
    assert width[0, 1] > 2 * width[1, 1]

    deviation = np.abs(factor["sampled"] - factor["closed_form"]) / factor["standard_error"]
    assert float(deviation.max()) < 4
    off = np.abs(factor["sampled"] - factor["large_groups"]) / factor["standard_error"]
    assert float(off.max()) > 20
    np.testing.assert_allclose(factor["closed_form"].isel(success=0), [7**0.5], rtol=1e-2)
    assert f"the farthest is {float(deviation.max()):.1f} of them away" in caption
    assert "not reached" not in caption
