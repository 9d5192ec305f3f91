import numpy as np
from test_figures import rises, run

from goodteacher.experiments.gallery.best_of_n import KINDS


def test_best_of_n():
    data, caption = run("best_of_n", points=30, models=60, latest=1e4)
    sampled, flow = data["best_of_n"]["expected_reward"].values, data["flow"]["expected_reward"].values
    truth, accurate, fast = sampled
    np.testing.assert_array_equal(truth, accurate)
    assert (fast <= truth + 1e-15).all()
    assert fast.min() < fast[0] - 0.1  # it does harm before it helps
    assert rises(truth)
    assert sampled[:, -1].min() > 0.99
    # Along the flow the accurate one is the slow one.
    times = data["flow"]["time"].values
    late = flow[:, times.searchsorted(1000)]
    assert late[[0, 2]].min() > 0.9
    assert late[1] < flow[1, 0] + 0.01

    models = data["models"]
    correlations = dict(zip(KINDS, data["correlations"]["rank_correlation"].values, strict=True))
    for by_samples, _ in correlations.values():
        assert by_samples[0] > 0.85
        assert abs(by_samples[1]) < 0.4
    by_flow = correlations["best output far ahead"][1]
    assert by_flow[1] > 0.95
    assert abs(by_flow[0]) < 0.4
    assert f"{by_flow[1]:.2f}. arXiv" in caption
    assert "differ by 0)" in caption

    perfect = models["best_of_n"].values[models["accuracy"] == 1]
    samples = data["best_of_n"]["samples"].values
    np.testing.assert_allclose(perfect, truth[samples == 16].item(), rtol=1e-12)
    assert models["best_of_n"].max() <= perfect.max() * (1 + 1e-12)
