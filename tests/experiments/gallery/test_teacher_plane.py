"""What the plane of teachers and its caption claim is true of its data."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import table
from goodteacher.experiments.gallery.teacher_plane import EXPERIMENT, GAMMA, Settings, summary
from goodteacher.experiments.registry import compute
from goodteacher.experiments.statistics import rank_correlation
from goodteacher.experiments.sweeps import open_store

SETTINGS = Settings(teachers=8000, bins=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def data(folder):
    return compute(replace(EXPERIMENT, settings=SETTINGS), folder)


@pytest.fixture(scope="module")
def swept(data, folder):
    return open_store(folder / "teacher_plane").load()


def test_cells_are_of_their_teachers(data, swept):
    plane = data["plane"]
    assert int(plane["teachers"].sum()) == 8000
    decade = np.log10(swept["variance"].values)
    here = (np.abs(decade + 3) < 0.5) & np.isclose(swept["uniform_accuracy"].values, 0.6)
    times = swept["increase_time"].values[here]
    cell = plane.sel(uniform_accuracy=0.6, variance=1e-3, method="nearest")
    assert int(cell["teachers"]) == here.sum() > 50
    assert float(cell["share"]) == pytest.approx(np.isfinite(times).mean())
    assert float(cell["median"]) == pytest.approx(np.median(times[np.isfinite(times)]))
    assert np.isnan(plane["median"].where(plane["teachers"] < 20)).all()


def test_accuracy_decides_whether_and_variance_how_soon(data):
    plane, ranks = data["plane"], data["correlations"]
    of_variance, of_accuracy = (ranks.sel(of=name) for name in ("variance", "uniform_accuracy"))
    assert of_accuracy["arrival"] > 0.5 > 0.1 > abs(of_variance["arrival"])
    assert of_variance["time"] < -0.5 < -0.3 < of_accuracy["time"]
    # With the scale taken out, the variance says no more than the accuracy.
    assert of_variance["time"] < of_variance["time_times_scale"] - 0.2
    assert of_accuracy["time_times_scale"] < of_accuracy["time"]

    common = plane.sel(variance=[1e-5, 1e-4, 1e-3, 1e-2], method="nearest")
    share = common["share"].dropna("uniform_accuracy")
    assert (share.max("variance") - share.min("variance") < 0.25).all()
    assert (share.max("uniform_accuracy") - share.min("uniform_accuracy") > 0.8).all()
    median = common["median"].dropna("uniform_accuracy")
    assert median.sizes["uniform_accuracy"] >= 5
    assert (median.max("variance") / median.min("variance") > 10).all()
    assert (median.max("uniform_accuracy") / median.min("uniform_accuracy") < 10).all()


def test_no_time_is_below_the_bound(data, swept):
    least = -2.0 * np.expm1(-GAMMA / 2) / np.sqrt(swept["variance"].values)
    assert (swept["increase_time"].values > least).all()
    over = float((swept["increase_time"] / least).min())
    assert float(data["plane"]["least_over_bound"].min()) == pytest.approx(over)
    assert f"no time is below {over:.3g} times" in EXPERIMENT.caption(data, SETTINGS)


def test_teachers_that_are_shuffled_tell_no_story(swept):
    order = np.random.default_rng(0).permutation(swept.sizes["seed"])
    shuffled = swept.assign(increase_time=("seed", swept["increase_time"].values[order]))
    ranks = summary(shuffled, SETTINGS)["correlations"]
    assert (np.abs(ranks[["time", "arrival"]].to_array()) < 0.06).all()
    arrives = np.isfinite(swept["increase_time"].values)
    alone = rank_correlation(swept["increase_time"].values[arrives], swept["variance"].values[arrives])
    assert alone == pytest.approx(float(summary(swept, SETTINGS)["correlations"]["time"].sel(of="variance")))


def test_it_is_drawn_and_the_table_is_small(data):
    assert isinstance(EXPERIMENT.figure(data, SETTINGS), Figure)
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert len(table(data)) < 200
    caption = EXPERIMENT.caption(data, SETTINGS)
    ranks = data["correlations"]
    for name in ("time", "time_times_scale", "arrival"):
        numbers = [
            f"{float(value):.2f} with the {of.removeprefix('uniform_')}"
            for of, value in zip(ranks["of"].values, ranks[name], strict=True)
        ]
        assert " and ".join(numbers) in caption
    other = {**data, "correlations": xr.zeros_like(ranks)}
    assert " and ".join(numbers) not in EXPERIMENT.caption(other, SETTINGS)


def test_the_full_version_has_a_million():
    full = EXPERIMENT.at_full_size()
    assert full.sweep is not None
    assert full.sweep.points == 1_000_000
