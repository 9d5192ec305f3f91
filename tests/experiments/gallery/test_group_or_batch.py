"""What the figure on scaling by group or batch claims, on fewer prompts."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery.group_or_batch import EXPERIMENT, Settings


def test_one_factor_for_all_leaves_hard_prompts_their_handicap():
    settings = Settings(
        prompts=4, rarities=(1e-2, 1e-4, 1e-5), harder=(1e-2, 1e-3), times=tuple(np.logspace(-1.0, 3.0, 9))
    )
    data = EXPERIMENT.run(settings)
    exponents = data["rarities"]["exponent"]
    np.testing.assert_allclose(exponents.sel(scaling=["group", "batch", "none"]), [0.5, 1.0, 1.0], atol=2e-3)

    waits = data["waits"]["time"]
    group, batch, none = (waits.sel(scaling=name) for name in ("group", "batch", "none"))
    # Its own group is all that counts: half of 1/sqrt(p (1-p)), the closed form of two outputs.
    p = np.array(settings.harder)
    np.testing.assert_allclose(group, np.tile(((1 - 2 * p) / np.sqrt(p - p**2))[:, None], 4), rtol=1e-4)
    np.testing.assert_allclose(batch[:, 0], group[:, 0], rtol=1e-9)
    assert (batch[:, 1:] > 1.4 * group[:, 1:]).all()
    assert (batch <= 0.5 * none + 2e-6 * none).all()
    # While they wait the deviation is that of the shares of two kinds of prompts.
    shares = waits["easy"].values[1:]
    law = np.sqrt(shares * (1.0 - shares)) * none.values[-1, 1:]
    np.testing.assert_allclose(batch[-1, 1:], law, rtol=0.05)

    rates = data["rates"]["rate"]
    assert (rates.diff("time") > 0).all()
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert "the same (1)" in EXPERIMENT.caption(data, settings)
