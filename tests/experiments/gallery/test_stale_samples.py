"""What the figure of stale samples claims, on fewer of them."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.stale_samples import EXPERIMENT, Settings


def test_between_the_stall_and_batches_that_are_used_up():
    settings = Settings(initial_probabilities=(1e-2, 5e-3), reuses=(1, 32, 128, 4096), updates=200_000)
    data = EXPERIMENT.run(settings)
    updates, used_up = data["updates"]["updates"].sel(clipping="none"), data["used_up"]
    # Fresh samples: the stalling law, with its corrections of the order of the start.
    apart = updates.sel(reuses=1) / used_up["law"] - 1.0
    assert (np.abs(apart) < 8 * used_up["start"]).all()
    # Used up: as many batches as the ratio of rewards says, and the last one in part.
    batches = updates.sel(reuses=4096) / 4096
    assert (np.abs(batches - used_up["batches"]) < 1.0).all()
    assert not (np.abs(batches - used_up["batches"] * np.log(0.8) / np.log(0.72)) < 1.0).any()
    np.testing.assert_allclose(used_up["updates"] / (used_up["reuses"] * used_up["batches"]), 1.0, atol=0.08)
    # Between these it takes least, and the more so the rarer the start.
    least = updates.sel(reuses=128)
    assert (least < 0.6 * updates.sel(reuses=1)).all()
    assert (least < 0.2 * updates.sel(reuses=4096)).all()
    grown = np.log(updates.sel(reuses=1)[1] / updates.sel(reuses=1)[0]) / np.log(2.0)
    assert abs(float(grown) - 2.0) < 0.05
    clipped = data["updates"]["updates"].sel(clipping="ratio")
    assert (clipped.sel(reuses=1) == updates.sel(reuses=1)).all()
    assert (clipped.sel(reuses=128) < least).all()
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert "ratios clipped at 1 ± 0.2" in EXPERIMENT.caption(data, settings)
