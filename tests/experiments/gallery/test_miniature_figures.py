"""The figures of the miniature, on settings small enough for a test."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from goodteacher.experiments.experiment import Parted
from goodteacher.experiments.miniature.carried_over import Looks
from goodteacher.experiments.miniature.forecasts import Trials
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


TINY = Scale(worlds=2, prompts=12, updates=40, records=4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "theory_on_networks",
            Looks(("network", "table"), replace(TINY, prompts=10, updates=200, records=40)),
        ),
        ("miniature_methods", TINY),
        ("published_settings", TINY),
        ("what_foretells", Trials(families=("close", "by digit"), scale=TINY, draws=8, more=16)),
    ],
)
def test_a_small_version_is_drawn_and_says_what_is_seen(name, settings):
    experiment = find_experiment(name)
    data = experiment.run(settings)
    assert isinstance(experiment.figure(data, settings), Figure)
    assert "nan" not in experiment.caption(data, settings)


def test_plain_steps_feel_that_a_reward_model_is_flat_and_maxrl_does_not():
    data = find_experiment("miniature_methods").run(TINY)["shares"]["mean"]
    late = data.sel(model="perfect but flat", when="late")
    # A table learns nothing of a flat prompt from the others: about half of what there is.
    assert 0.3 < float(late.sel({"policy": "table", "method": "RLOO"})) < 0.7
    # MaxRL divides rewards by their own scale, so that they are the truth.
    np.testing.assert_allclose(late.sel({"method": "MaxRL"}), 1.0, atol=1e-6)


def test_errors_are_made_as_large_as_orders_are_wrong():
    from goodteacher.experiments.gallery.what_foretells import _overconfidence

    rng = np.random.default_rng(0)
    apart = rng.standard_normal(2000)
    # Told three times as sure as is right.
    right = apart + rng.standard_normal(2000) > 0
    factor = _overconfidence(3.0 * np.abs(apart), right == (apart > 0))
    assert 2.5 < factor < 3.5
