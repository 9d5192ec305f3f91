"""What the figure of stalls under estimators claims, on fewer points."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.grpo_stall import EXPERIMENT, Settings


def test_grpo_halves_the_exponent_and_max_rl_keeps_it():
    settings = Settings(outputs=(3, 4), initial_probabilities=(1e-3, 1e-6, 1e-7))
    data = EXPERIMENT.run(settings)
    exponents = data["exponents"]["exponent"]
    np.testing.assert_allclose(exponents.sel(estimator="gradient"), [2.0, 3.0], atol=1e-3)
    np.testing.assert_allclose(exponents.sel(estimator="GRPO"), [1.0, 1.5], atol=1e-3)
    np.testing.assert_allclose(exponents.sel(estimator="MaxRL"), [2.0, 3.0], atol=1e-3)
    times = data["times"]
    apart = np.abs(times["time"] / times["law"] - 1.0)
    assert float(apart[..., -1].max()) < 1e-4
    assert float(apart[..., 0].max()) > 1e-4  # it is a law of small probabilities
    # Partial credit of 0.8 makes MaxRL faster by that much.
    ratio = times["time"].sel(estimator="MaxRL") / times["time"].sel(estimator="gradient")
    np.testing.assert_allclose(ratio[:, -1], 0.8, rtol=1e-4)
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert "GRPO 1.0" in EXPERIMENT.caption(data, settings)
