"""What the figure of landscapes and its caption claim is true of its data."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import table
from goodteacher.experiments.gallery.flat_landscape import EXPERIMENT


def test_flat_landscape():
    settings = replace(EXPERIMENT.settings, points=60, side=11)
    data = EXPERIMENT.run(settings)
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert len(table(data)) == 8 * (11**2 + 60 + 1)
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)

    models, flow, landscapes = data["models"], data["flow"], data["landscapes"]["expected_reward"]
    np.testing.assert_allclose(models["accuracy"], [1, 1, 2 / 3, 1 / 3, 2 / 3, 1, 1, 1])
    np.testing.assert_allclose(models["variance"][:5], 0.49)
    np.testing.assert_allclose(models["variance"][5:] / models["variance"][5], [1, 0.09, 0.0009])
    assert (np.abs(landscapes) <= 1).all()

    times = models["hitting_time"].values
    assert np.isinf(times[[2, 3]]).all()
    assert np.isfinite(times[4])  # of the same accuracy as model 2
    # A flow under scaled rewards is the same flow, slower; so the bound by the variance is the right order.
    np.testing.assert_allclose(times[6:] / times[5], [1 / 0.3, 1 / 0.03], rtol=1e-8)

    # The landscape is flat by the factor by which the rewards are scaled.
    spread = landscapes.max(["first", "second"]) - landscapes.min(["first", "second"])
    np.testing.assert_allclose(spread[6:] / spread[5], [0.3, 0.03])

    # The path lies in its landscape: its logits, rebuilt from the two coordinates, give the reward along it.
    directions = np.array([[2, -1, -1], [0, np.sqrt(3), -np.sqrt(3)]]) / np.sqrt(6)
    logits = np.stack([flow["first"], flow["second"]], axis=-1) @ directions
    p = np.exp(logits)
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        p @ np.array(settings.ground_truth_rewards), flow["expected_reward"], atol=1e-9
    )
    np.testing.assert_allclose(p[:, 0] @ [1, 0, -1], -0.1, atol=0.02)
    # Reached or not, and when, as the reward along the path has it.
    above = flow["expected_reward"] >= models["goal"]
    np.testing.assert_array_equal(above.any("time"), np.isfinite(times))
    first = above.argmax("time").values[np.isfinite(times)]
    seen = flow["time"].values
    reached = times[np.isfinite(times)]
    assert np.all((seen[first - 1] < reached) & (reached <= seen[first]))

    caption = EXPERIMENT.caption(data, settings)
    assert "accuracy of 0.67 as well, and gets there at t = 7.28" in caption
    assert "the flow takes 4.32, 14.4 and 144" in caption
