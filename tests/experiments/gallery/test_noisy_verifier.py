"""What the figure of verifiers that err claims, on fewer rates."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.noisy_verifier import EXPERIMENT, Settings


def test_errors_slow_learning_and_turn_it_round():
    settings = Settings(rates=(0.0, 0.4, 0.6, 1.0), group=4)
    data = EXPERIMENT.run(settings)
    factor, end = data["planes"]["factor"], data["planes"]["end"]
    true, false = np.meshgrid(settings.rates, settings.rates, indexing="ij")
    learns = true > false
    np.testing.assert_array_equal(np.isfinite(factor), np.broadcast_to(learns, factor.shape))
    gradient, grpo = factor.values
    np.testing.assert_allclose(gradient[learns], 1.0 / (true - false)[learns], rtol=1e-9)
    # Under GRPO false positives cost more than misses of the same J.
    assert grpo[2, 0] < gradient[2, 0] < 2.0
    assert grpo[3, 1] > gradient[3, 1]
    np.testing.assert_allclose(grpo[3, 0], 1.0, rtol=1e-14)

    start = sum(settings.right)
    np.testing.assert_allclose(end.values[:, true == false], start, rtol=1e-12)
    assert (end.values[:, learns] > start).all()
    assert (end.values[:, true < false] < start / 1.5).all()
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert "Under the gradient it is 1/J" in EXPERIMENT.caption(data, settings)
