"""Intervals hold the truth as often as they say, and ranks are right as often; wrong intervals do not."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from goodteacher.experiments.gallery import rollout_coverage
from goodteacher.experiments.gallery.rollout_coverage import EXPERIMENT, Settings
from goodteacher.experiments.rollouts import resampling

SMALL = Settings(sizes=((50, 4), (100, 8)), files=300, resamples=500, rankings=300, bins=3)


@pytest.fixture(scope="module")
def data():
    return EXPERIMENT.run(SMALL)


def test_coverage(data):
    coverage = data["coverage"]["coverage"]
    # Of 300 files, four standard errors are 5 %.
    assert float(coverage.min()) > 0.91
    assert 0.935 < float(coverage.mean()) < 0.97


def test_ranks_are_right_as_often_as_they_say(data):
    of = data["calibration"]
    assert (np.abs(of["right"] - of["stated"]) < 4 * of["error"] + 0.03).all()
    assert float(of["files"].sum()) == SMALL.rankings


def test_intervals_of_resampled_draws_are_too_wide_and_of_half_the_prompts_too():
    """The sabotage: what has the variation twice, or of half as many, is seen not to be 95 %."""
    rng = np.random.default_rng(0)
    low = []
    for factor in (0.6, 1.0, 1.6):
        held = 0
        for _ in range(400):
            values = rng.exponential(size=60)
            sums = resampling.resample({"x": values, "one": np.ones(60)}, 200, int(rng.integers(2**31)))
            found = sums.interval(resampling.ratio("x", "one"))
            held += (
                (found.low - found.value) * factor <= 1.0 - found.value <= (found.high - found.value) * factor
            )
        low.append(held / 400)
    assert low[0] < 0.88
    assert 0.90 < low[1] < 0.98
    assert low[2] > 0.98


def test_exact_values_are_those_of_very_many_draws():
    rng = np.random.default_rng(1)
    population = rollout_coverage._population(rng, 5, "reward model")
    exact = rollout_coverage._exact(population)
    (file,) = rollout_coverage._files(rng, population, 20_000, 8, 1)
    for name, estimate in rollout_coverage.estimators(0, rollout_coverage.SCALES["none"]).items():
        if name in exact:
            found = estimate({column: values.sum()[None] for column, values in file.items()})
            assert found[0] == pytest.approx(exact[name], abs=0.02), name


def test_figure_and_caption(data):
    assert isinstance(EXPERIMENT.figure(data, SMALL), Figure)
    assert "300 files of each size" in EXPERIMENT.caption(data, SMALL)
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
