"""The figures of the miniature, on settings small enough for a test."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.experiment import Parted
from goodteacher.experiments.miniature.lessons import Scale
from goodteacher.experiments.registry import find_experiment


def test_published_tables():
    experiment = find_experiment("published_tables")
    data = experiment.run(experiment.settings)
    assert isinstance(experiment.figure(data, experiment.settings), Figure)
    assert "+0.87" in experiment.caption(data, experiment.settings)
    assert "-0.43" in experiment.caption(data, experiment.settings)


def test_miniature_training_is_reproducible_and_kept(tmp_path):
    experiment = replace(
        find_experiment("miniature_training"), settings=Scale(worlds=2, prompts=20, updates=200, records=4)
    )
    assert isinstance(experiment.run, Parted)
    data = experiment.run.stored(experiment.settings, tmp_path)
    again = experiment.run.stored(experiment.settings, tmp_path)
    training = data["training"]
    np.testing.assert_array_equal(training["truth"], again["training"]["truth"])
    # What is trained on the truth is the truth, and it rises.
    truth = training.sel(model="ground truth")
    np.testing.assert_allclose(truth["proxy"], truth["truth"], atol=1e-12)
    assert (np.diff(truth["truth"]) > 0).all()
    assert isinstance(experiment.figure(data, experiment.settings), Figure)
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]
