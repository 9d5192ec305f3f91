"""What the figure of the clocks claims, on fewer points."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.estimator_clocks import EXPERIMENT, Settings


def test_slopes_of_one_of_a_half_and_a_logarithm():
    settings = Settings(
        group=8, probabilities=(1e-6, 1e-3, 0.5), initial_probabilities=(1e-1, 1e-3, 1e-6, 1e-8)
    )
    data = EXPERIMENT.run(settings)
    exponents, times = data["times"]["exponent"], data["times"]["time"]

    def grown(name: str) -> float:
        return float(exponents.sel(estimator=name))

    assert abs(grown("gradient") - 1.0) < 1e-5
    assert abs(grown("GRPO") - 0.5) < 1e-3
    assert grown("MaxRL") < 0.1
    # Finite groups are back at the power of the gradient, but drawn again they are not.
    assert abs(grown("GRPO, G = 8") - 1.0) < 1e-3
    assert abs(grown("MaxRL, G = 8") - 1.0) < 1e-3
    assert grown("same, dynamic sampling") < 0.1
    assert float(times.sel(estimator="MaxRL")[-1]) < 20.0

    # Whatever is drawn, no clock is faster than the limit of large groups.
    rates = data["rates"]["rate"]
    assert (rates.sel(estimator="MaxRL, G = 8") < rates.sel(estimator="MaxRL")).all()
    capped = data["epsilon"]["rate"]
    np.testing.assert_allclose(capped[:, 0], 1.0 / (capped["epsilon"] + 1e-3), rtol=1e-6)
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert f"GRPO {grown('GRPO'):.3f}" in EXPERIMENT.caption(data, settings)
