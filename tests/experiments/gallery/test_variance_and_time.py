"""What the figure of hitting time against reward variance and its caption claim."""

import numpy as np
from test_figures import run

from goodteacher.experiments.gallery.variance_and_time import CAUSES


def test_variance_and_time():
    data, caption = run("variance_and_time", instances=4_000, least_variance=1e-8, bins=(16, 20))
    outcomes, bounds, histogram = data["outcomes"], data["bounds"], data["histogram"]["instances"]

    assert (outcomes["least_over_sharp"] >= 1.0).all()
    assert (outcomes["least_over_proposition_3"] > outcomes["least_over_sharp"]).all()
    assert (outcomes["least_over_theorem_4"] > outcomes["least_over_proposition_3"]).all()
    differ, varies = (float(outcomes["exponent"].sel(cause=cause)) for cause in CAUSES)
    assert abs(differ + 0.5) < 0.05
    assert abs(varies + 1.0) < 0.05
    assert f"to the power {differ:.2f} in (a)" in caption

    for name, slope in {"sharp": -1 / 2, "proposition_3": -1 / 2, "theorem_4": -1 / 3}.items():
        steps = np.diff(np.log(bounds[name])) / np.diff(np.log(bounds["variance"]))
        np.testing.assert_allclose(steps, slope)

    # Whoever rises is counted once, but for the few instances below the least variance.
    counted, risen = histogram.sum(("variance", "time")), 2_000 * outcomes["reached"]
    assert (counted <= risen).all()
    assert (counted > 0.8 * risen).all()
    # No cell that is below the bound by more than its own size holds an instance.
    cell = np.diff(np.log10(histogram["time"].values))[0] + 0.5 * np.diff(np.log10(histogram["variance"]))[0]
    forbidden = histogram["time"] < bounds["sharp"] * 10.0**-cell
    assert float(histogram.where(forbidden, 0.0).sum()) == 0.0
    assert forbidden.any()
