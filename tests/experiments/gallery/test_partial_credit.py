"""What the figure of partial credit and its caption claim is true of its data."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import table
from goodteacher.experiments.gallery.partial_credit import EXPERIMENT, Settings
from goodteacher.theory.partial_credit_law import joint_probabilities

SETTINGS = Settings(
    probabilities=(1e-3, 1e-2, 0.1, 0.5, 0.9), equal_odds_ratios=(0.1, 1.0, 5.0, 15.0, 1e3), records=40
)


@pytest.fixture(scope="module")
def data():
    return EXPERIMENT.run(SETTINGS)


def test_data_are_described_and_drawn(data):
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert len(table(data)) == 2 * 5 * 5 + 5 * 5 + 3 + 2 * 3 * 40 * 4 + 2 * 3 * 40
    assert isinstance(EXPERIMENT.figure(data, SETTINGS), Figure)


def test_partial_credit_is_faster_for_equally_likely_constraints_that_go_together_only(data):
    independent, together = (plane["ratio"].values for _, plane in data["planes"].groupby("odds_ratio"))
    for plane in (independent.squeeze(), together.squeeze()):
        np.testing.assert_allclose(plane, plane.T, atol=1e-6)
    assert independent.min() > np.log10(1.5)
    assert np.argwhere(together.squeeze() < 0).tolist() == [[0, 0], [1, 1]]
    assert independent.max() > 2.5
    caption = EXPERIMENT.caption(data, SETTINGS)
    assert f"never faster, at best {10 ** independent.min():.2f} times as long" in caption
    assert f"at best {10 ** together.min():.2f} times as long" in caption


def test_the_odds_ratio_where_both_rewards_are_as_fast_tends_to_pi_squared(data):
    rarest = data["equal"].isel(probability=0)
    limit = np.log10(np.pi / rarest["odds_ratio"] ** 0.5)
    np.testing.assert_allclose(rarest["ratio"][:4], limit[:4], atol=0.02)
    assert (rarest["ratio"].values < 0).tolist() == [False, False, False, True, True]
    assert (rarest["law"].values < 0).tolist() == [False, False, False, True, True]


def test_under_grpo_partial_credit_costs_the_root_and_needs_constraints_that_go_together_more(data):
    planes = data["planes"]
    plain, clocked = (planes[name].values for name in ("ratio", "ratio_under_grpo"))
    slow = plain > 1.0
    assert slow.sum() > 10
    # Both times shrink to about their roots, and so does what one costs over the other.
    assert ((clocked[slow] > 0.4 * plain[slow]) & (clocked[slow] < 0.75 * plain[slow])).all()
    rarest = data["equal"].isel(probability=0)
    assert (rarest["ratio_under_grpo"].values < 0).tolist() == [False, False, False, False, True]
    assert f"not {10.0 ** plain.max():.3g} times" in EXPERIMENT.caption(data, SETTINGS)


def test_the_law_is_near_where_both_is_rare_and_given_nowhere_else(data):
    planes = data["planes"]
    axes = [planes[name].values for name in ("odds_ratio", "first", "second")]
    odds_ratio, first, second = np.meshgrid(*axes, indexing="ij")
    chance = np.asarray(joint_probabilities(first, second, odds_ratio))[..., 0]
    law, ratio = planes["law"].values, planes["ratio"].values
    np.testing.assert_array_equal(np.isnan(law), chance > 0.03)
    rare = chance < 1e-4
    assert rare.sum() >= 4
    np.testing.assert_allclose(law[rare], ratio[rare], atol=0.01)
    assert not np.allclose(law[chance <= 0.03], ratio[chance <= 0.03], atol=0.01)


def test_trajectories_arrive_at_their_times(data):
    paths, times = data["trajectories"]["probability"], data["points"]
    np.testing.assert_allclose(paths.sum("output"), 1.0, rtol=1e-9)
    for reward in ("binary", "partial"):
        both = paths.sel(reward=reward, output="both")
        arrived = both["time"].values[(both.values >= 0.9).argmax(-1)]
        assert (arrived >= times[reward].values).all()
        assert (arrived < 2.0 * times[reward].values).all()
    slower = (times["partial"] > times["binary"]).values
    assert slower.tolist() == [True, True, False]
