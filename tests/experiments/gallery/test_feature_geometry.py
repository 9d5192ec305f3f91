"""What the figure of the feature geometry claims is true of its data."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.feature_geometry import EXPERIMENT, Settings


def test_feature_geometry():
    settings = Settings(cosines=(-0.7, 0.0, 0.7), norms=(1.0, 1.5, 3.0), horizon=1e20)
    data = EXPERIMENT.run(settings)
    times = data["times"]
    truth, proxy = times["ground_truth"].values, times["proxy"].values

    assert np.isinf(truth[:, 0]).all()
    assert np.isfinite(truth[:, 1:]).all()
    assert np.isfinite(proxy).all()
    # Orthogonal: exponent 1 + sum of three ones, so far longer than on the proxy, whose exponent is 1.
    assert (truth[:, 1] > 1e8 * proxy[:, 1]).all()
    assert truth[2, 2] < proxy[2, 2] < truth[0, 2]

    for variable in times.data_vars.values():
        assert {"units", "long_name"} <= variable.attrs.keys()
        assert set(variable.dims) == set(times.dims)
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    caption = EXPERIMENT.caption(data, settings)
    assert "hatched, 33 % of the plane" in caption
    assert "inside the line, 11 % of the plane" in caption
    assert f"{truth[2, 2]:.3g} against {proxy[2, 2]:.3g}" in caption
    assert "On the proxy y* wins everywhere" in caption
