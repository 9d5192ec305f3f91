"""What the figure of errors claims is true of its data."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.error_map import EXPERIMENT, Settings
from goodteacher.theory.error_kinds import Category


def test_error_map():
    settings = Settings(rewards=12, probabilities=4, trials=300)
    data = EXPERIMENT.run(settings)
    low, middling = (data["plane"].sel(truth=truth) for truth in settings.truths)
    # A common output that looks better than y* is never left; a rare one has no effect.
    for of in (low, middling):
        assert of["log_ratio"].values[-1, -1] == np.inf
        assert of["category"].values[-1, -1] == Category.HARMFUL_I
        assert of["category"].values[0, -1] == Category.BENIGN_II
        assert np.abs(of["log_ratio"].values[0]).max() < 1e-3
    # The worse the proxy says a common middling output is, the more is gained; a low one costs.
    assert middling["log_ratio"].values[-1, 0] < -0.3
    assert middling["category"].values[-1, 0] == Category.BENEFICIAL
    stalling = low["category"].values[-1] == Category.HARMFUL_II
    assert low["log_ratio"].values[-1][stalling].max() > 2
    counts = data["confusion"]
    assert int(counts["count"].sum()) == 300
    ours, best = data["rules"]["agreement"].values
    assert 0.55 < ours <= best + 0.02
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert f"foretells {100 * ours:.0f} %" in EXPERIMENT.caption(data, settings)
