"""What the figure of KL regularisation and its caption claim is true of its data."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import table
from goodteacher.experiments.gallery.kl_regularisation import EXPERIMENT


def test_kl_regularisation():
    coefficients = (0.0, 1e-3, 1e-2, 0.1, 0.3, 1.0)
    settings = replace(EXPERIMENT.settings, points=40, coefficients=coefficients)
    data = EXPERIMENT.run(settings)
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert len(table(data)) == sum(int(np.prod(list(d.sizes.values()))) for d in data.values())
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)

    teachers, policies, optima = data["teachers"], data["policies"], data["optima"]
    np.testing.assert_allclose(teachers["accuracy"], [1, 1, 0.3])
    times = data["hitting_times"]["time"]
    assert (times[:, 0] < 1e3).all()
    assert 2 * times[0, 0] > times[2, 0] > times[0, 0]
    assert times[1, 0] > 10 * times[2, 0]
    # KL delays; above the largest coefficient, and only there, the goal is never reached.
    assert (np.diff(np.where(np.isfinite(times), times, 1e99), axis=1) >= 0).all()
    allowed = times["coefficient"] < teachers["largest_coefficient"]
    np.testing.assert_array_equal(np.isfinite(times), allowed.transpose(*times.dims))

    # At the largest coefficient the optimum is at the goal.
    start, truth = np.array(settings.initial_probabilities), np.array(settings.ground_truth_rewards)
    weights = start * np.exp(truth / float(teachers["largest_coefficient"][0]))
    np.testing.assert_allclose(weights @ truth / weights.sum(), start @ truth + settings.gamma)

    # In the end the flow is where the closed form says, and not before.
    early, late = (policies["distance"].sel(coefficient=slice(1e-2, None)).isel(time=k) for k in (0, 1))
    assert (late.values < early.values / 100).all()
    assert (late[:, -1] < 1e-6).all()
    assert float(early.max()) > 0.5

    # Rewards that differ by a shift and a factor have equal optima at coefficients so far apart.
    factor = 0.5 / (1 / 6 / settings.T)
    np.testing.assert_allclose(
        teachers["largest_coefficient"][0] / teachers["largest_coefficient"][1], factor
    )
    # For the same KL the inaccurate teacher's optima gain less.
    best, other = (optima.isel(teacher=k).sortby("kl") for k in (0, 2))
    within = np.interp(other["kl"], best["kl"], best["expected_reward"])
    assert (other["expected_reward"] < within).all()

    caption = EXPERIMENT.caption(data, settings)
    assert "6.18, 185 and 10.6 without KL" in caption
    assert "0.923, 0.0308 and 0.339" in caption
