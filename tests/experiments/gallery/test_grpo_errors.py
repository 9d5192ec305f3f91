"""What the figure of errors under GRPO claims, on fewer of them."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.grpo_errors import EXPERIMENT, Settings


def test_grpo_halves_what_errors_do():
    settings = Settings(trials=300)
    data = EXPERIMENT.run(settings)
    gradient, grpo = data["errors"]["log_ratio"].values
    # The path is the same: what is never reached under one is never reached under the other.
    np.testing.assert_array_equal(np.isinf(gradient), np.isinf(grpo))
    clear = np.isfinite(gradient) & (np.abs(gradient) > 0.5)
    assert 0.4 < np.median(grpo[clear] / gradient[clear]) < 0.6
    moved = data["moved"]["count"]
    assert int(moved.sum()) == int((~np.isnan(gradient)).sum())
    assert float(moved.sel(gradient="harmful", GRPO="benign")) > 0.1 * float(
        moved.sel(gradient="harmful").sum()
    )
    assert float(moved.sel(gradient="harmful", GRPO="beneficial")) < 0.05 * float(moved.sum())
    counts = data["confusion"]["count"]
    assert (counts.sum(("category", "verdict")) == int(moved.sum())).all()
    harm = counts.sel(category="harmful I", verdict="harmful")
    assert (harm > 0.9 * counts.sel(category="harmful I").sum("verdict")).all()
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert "300 random errors" in EXPERIMENT.caption(data, settings)
