"""What the figure of ranking accuracies claims is true of its data."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.harm_aware_accuracy import EXPERIMENT, MEASURES, Settings


def test_harm_aware_accuracy():
    settings = Settings(policies=8, models=24, updates=400, resamples=200)
    data = EXPERIMENT.run(settings)
    correlations = data["correlations"]
    mean = correlations["mean"]
    assert (correlations["low"] <= mean).all()
    assert (mean <= correlations["high"]).all()
    gain = data["harm_aware"]
    apart = mean.sel(measure="hacc", drop=True) - mean.sel(measure="acc", drop=True)
    np.testing.assert_allclose(gain["mean"], apart, atol=1e-12)
    assert (gain["low"] < gain["mean"]).all()
    assert (gain["mean"] < gain["high"]).all()
    # Of the same policies: closer than the intervals of the two, taken apart, would say.
    assert (
        gain["high"] - gain["low"] < (correlations["high"] - correlations["low"]).sel(measure="acc")
    ).all()
    # Of one scale, accuracy tells and variance does not; where scales differ, variance tells more than that.
    for name in ("acc", "hacc"):
        assert mean.sel(family="one scale", measure=name) > 0.4
    assert mean.sel(family="one scale", measure="variance") < 0.3
    assert mean.sel(family="scales differ", measure="variance") > mean.sel(
        family="one scale", measure="variance"
    )
    models = data["models"]
    assert (models["hacc"] >= models["acc"]).all()
    np.testing.assert_array_equal(models["acc"][0], models["acc"][1])  # which no scale changes
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert set(MEASURES) <= set(models)
    assert f"{settings.models} random reward models" in EXPERIMENT.caption(data, settings)
