"""What the figure of token policies and its caption claim."""

import numpy as np
from test_figures import run


def test_token_policies():
    data, caption = run(
        "token_policies", vocabulary=2, length=2, features=3, width=3, scales=(1e-3, 1e-1, 1.0), points=30
    )
    waiting, way = data["waiting"], data["way"]

    # The time is inversely proportional to the scale of the reward, whose variance is its square.
    log = {name: np.log(waiting[name].values) for name in ("variance", "time", "bound")}
    slopes = {name: np.diff(log[name]) / np.diff(log["variance"]) for name in ("time", "bound")}
    np.testing.assert_allclose(slopes["time"], -1 / 2, rtol=1e-6)
    np.testing.assert_allclose(slopes["bound"], -1 / 3, rtol=1e-12)
    assert not np.allclose(slopes["time"], -1 / 3, rtol=1e-2)
    assert (waiting["time"] > waiting["bound"]).all()
    assert "slopes -0.50 and -1/3" in caption

    assert (way["norm"] <= way["sharp"]).all()
    assert (way["sharp"] <= way["proposition_2"]).all()
    assert not (way["norm"] <= way["sharp"] / 4).all()
    norms = way["jacobian_norm"]
    np.testing.assert_allclose(norms.sel(policy="table"), 1.0, rtol=1e-12)
    np.testing.assert_allclose(norms.sel(policy="linear"), norms.sel(policy="linear")[0], rtol=1e-12)
    assert norms.sel(policy="MLP")[-1] > 1.1 * norms.sel(policy="MLP")[0]
    assert (
        f"from {float(norms.sel(policy='MLP')[0]):.3g} to {float(norms.sel(policy='MLP')[-1]):.3g}" in caption
    )
