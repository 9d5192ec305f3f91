"""What the phase diagram and its caption claim is true of its data."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from goodteacher.experiments import instances
from goodteacher.experiments.datasets import table
from goodteacher.experiments.gallery import phase_diagram
from goodteacher.experiments.gallery.phase_diagram import EXPERIMENT, LEVEL, Settings, stalling_instance
from goodteacher.experiments.registry import compute
from goodteacher.experiments.sweeps.store import StoreError
from goodteacher.sim.flow import hitting_time
from goodteacher.sim.goals import reward_level

SETTINGS = Settings(outputs=(3, 5), points=10)


@pytest.fixture(scope="module")
def data():
    return EXPERIMENT.run(SETTINGS)


def test_times_are_those_of_the_published_instances(data):
    plane = data["plane"].isel(initial_probability=7, middling_reward=6)
    start, middling = float(plane["initial_probability"]), float(plane["middling_reward"])
    instance = instances.beneficial_errors(start, middling)
    alone = float(hitting_time(instance, reward_level(instance, LEVEL)).time[0])
    assert float(plane["exact"].sel(outputs=5)) == pytest.approx(alone, rel=1e-7)
    assert float(plane["exact"].sel(outputs=3)) != pytest.approx(alone, rel=0.1)
    padded = stalling_instance(start, middling, 4.0)
    assert np.isfinite(padded.reference_log_probabilities).sum() == 4


def test_the_law_holds_where_its_parameter_is_small(data):
    plane = data["plane"]
    apart = np.abs(np.log(plane["exact"] / plane["law"]))
    small = plane["small_parameter"] < 0.02
    assert 20 < int(small.sum()) < small.size / 2
    assert (apart <= 1.5 * plane["small_parameter"]).where(small, True).all()
    # Neither elsewhere, nor with the constant or the power of another number of outputs.
    assert not (apart < 0.03).where(~small, True).all()
    of_others = np.abs(np.log(plane["exact"] / plane["law"].values[::-1]))
    assert (of_others > 0.1).where(small, True).all()
    assert (plane["exact"].diff("initial_probability") < 0).all()
    assert (plane["exact"].diff("middling_reward") > 0).all()


def test_agreement_and_caption_come_from_the_plane(data):
    plane, agreement, deviation = data["plane"], data["agreement"], data["deviation"]
    ratio = plane["exact"] / plane["law"]
    close = (np.abs(1.0 - np.minimum(ratio, 1.0 / ratio)) < 0.1).mean(
        ("initial_probability", "middling_reward")
    )
    np.testing.assert_allclose(agreement["share"], close)
    largest = np.abs(np.log(ratio)).max()
    np.testing.assert_allclose([deviation["largest"].max(), agreement["largest"].max()], largest)

    caption = EXPERIMENT.caption(data, SETTINGS)
    assert "200 times (10 x 10 for each K)" in caption
    assert f"by a factor of {math.exp(largest):.2g}" in caption
    assert f"{100 * close[0]:.3g} and {100 * close[1]:.3g} % of the planes" in caption
    altered = {**data, "plane": plane.assign(law=10.0 * plane["law"])}
    assert f"by a factor of {math.exp(largest):.2g}" not in EXPERIMENT.caption(altered, SETTINGS)


def test_numbers_of_a_store_are_those_of_its_helpers(tmp_path, monkeypatch):
    experiment = replace(EXPERIMENT, settings=Settings(outputs=(3, 5), points=2))
    compute(experiment, tmp_path, renew=False)
    compute(experiment, tmp_path, renew=False)

    def other(most, outputs, probability, middling_reward):
        return padded(most, outputs, probability, 0.5 * middling_reward)

    padded = phase_diagram.padded
    monkeypatch.setattr(phase_diagram, "padded", other)
    with pytest.raises(StoreError, match=r"holds another sweep: builder_digest is"):
        compute(experiment, tmp_path, renew=False)


def test_it_is_drawn_and_tabulated(data):
    assert isinstance(EXPERIMENT.figure(data, SETTINGS), Figure)
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    rows = {name: math.prod(dataset.sizes.values()) for name, dataset in data.items()}
    assert table(data).groupby("panel").size().to_dict() == rows


def test_the_full_version_is_another_one():
    full = EXPERIMENT.at_full_size()
    assert full.name == "phase_diagram_full"
    assert full.sweep is not None
    assert full.sweep.shape == (5, 400, 400)
    with pytest.raises(ValueError, match="phase_diagram_full has no full version; draw it as it is"):
        full.at_full_size()
