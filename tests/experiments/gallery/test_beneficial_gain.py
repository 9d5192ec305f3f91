"""What the figure of the gain claims is true of its data."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.beneficial_gain import EXPERIMENT, Settings


def test_gain():
    starts = (1e-1, 1e-5, 1e-6)
    settings = Settings(starts, middling_rewards=(-0.5, 0.0, 0.8), sections=(0.0, 0.8))
    data = EXPERIMENT.run(settings)
    gains = data["gains"]
    simulated, law = gains["simulated"].values, gains["law"].values

    # Three powers of the probability for five outputs, and more with a better y_med.
    assert (np.diff(simulated, axis=0) > 0).all()
    np.testing.assert_allclose(simulated[:, 2] - simulated[:, 1], 3.0, atol=2e-3)
    holds = gains["small_parameter"].values < 1e-3
    assert holds.sum() >= 4
    assert (np.abs(10 ** (law - simulated)[holds] - 1) < 0.01).all()
    assert not (np.abs(10 ** (law - simulated)[~holds] - 1) < 0.01).all()

    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert data["sections"]["middling_reward"].values.tolist() == [0.0, 0.8]
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    lowest, highest = (10 ** float(f(simulated[:, -1])) for f in (np.min, np.max))
    assert f"From a start of 1e-06 the gain is between {lowest:.2e}".replace("e+", "e") in EXPERIMENT.caption(
        data, settings
    )
    assert highest > 1e15
