"""What the figure on prompts claims, on fewer of them."""

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.gallery import which_prompts
from goodteacher.experiments.gallery.which_prompts import EXPERIMENT, Settings
from goodteacher.sim.clocks import MeanSubtracted

SETTINGS = Settings(prompts=60, points=201, budgets=(1.0, 10.0, 100.0, 1000.0), rounds=8, aim=0.7)


def test_nothing_beats_the_optimum_and_the_cut_ends():
    data = EXPERIMENT.run(SETTINGS)
    means = data["means"]["mean"]
    counted = means.drop_sel(rule=["optimum", "others drawn"])
    assert (counted <= means.sel(rule="optimum") + 1e-9).all()
    # What is not counted may be more than the optimum of what is.
    assert (means.sel(rule="others drawn") > means.sel(rule="optimum")).any()
    assert (means.sel(rule="others drawn") > means.sel(rule="all alike")).all()
    assert (means.sel(rule="drawn again") < means.sel(rule="all alike")).all()

    cut = means.sel(rule="cut")
    assert (cut[:, 0] > means.sel(rule="all alike")[:, 0]).any()
    assert float(cut.max()) < 0.6 < float(means.sel(rule="all alike").max())
    assert np.isinf(data["costs"]["cost"].sel(rule="cut")).all()
    windows = data["windows"]["rate"]
    assert (windows.sel(end="from").diff("budget") <= 0).all()
    assert (windows.sel(end="to").diff("budget") >= 0).all()
    assert isinstance(EXPERIMENT.figure(data, SETTINGS), Figure)
    assert "20 to 80 % alone never" in EXPERIMENT.caption(data, SETTINGS)


def test_optimum_is_that_of_all_subsets_and_ends():
    """Few prompts, and every choice of whom to train, all to where the slopes are equal."""
    start = np.array([-4.0, -2.5, -1.0, 0.5])
    clock = MeanSubtracted(16)
    curve = which_prompts._curve(clock, np.linspace(-4.0, 20.0, 801))
    found = which_prompts._optima(clock, curve, start)
    at = int(np.searchsorted(found.budget, 4.0))
    budget = 4.0 * found.budget[at]
    shares = np.random.default_rng(0).dirichlet(np.full(4, 0.5), 20_000)
    ends = which_prompts._rate(curve.after(start, budget * shares)).mean(1)
    assert ends.max() <= found.mean[at] + 1e-6
    assert ends.max() > found.mean[at] - 0.02


def test_the_curve_is_the_closed_form():
    curve = which_prompts._curve(MeanSubtracted(16), np.linspace(-5.0, 5.0, 101))

    def law(u: np.ndarray) -> np.ndarray:
        p = 1.0 / (1.0 + np.exp(-u))
        return (-1.0 / p + 1.0 / (1.0 - p) + 2.0 * u) / 2.0 * 16.0 / 15.0

    np.testing.assert_allclose(
        curve.time - curve.time[0], law(curve.log_odds) - law(np.array(-5.0)), rtol=1e-9
    )
    ended = curve.after(np.array([-4.0]), 20.0)
    np.testing.assert_allclose(law(ended) - law(np.array(-4.0)), 20.0, rtol=1e-3)
