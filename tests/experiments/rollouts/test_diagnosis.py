"""Verdicts, ranks, intervals and scales of rollouts whose answer is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.special import stdtrit
from scipy.stats import kurtosis

from goodteacher import Instance, Rollouts, diagnose, hitting_time, reward_increase
from goodteacher.experiments.reports import teacher_answer
from goodteacher.experiments.rollouts.diagnosis import ESTIMATED, GROUPS
from goodteacher.experiments.rollouts.groups import extrapolated_spread
from goodteacher.experiments.rollouts.outputs import outputs
from goodteacher.experiments.rollouts.resampling import Share, ratio, resample
from goodteacher.experiments.rollouts.scales import SCALES
from goodteacher.experiments.rollouts.teaching import GradientFlow, NaturalFlow, find_estimator
from goodteacher.experiments.rollouts.verdicts import Verdict
from goodteacher.sim.clocks import BatchScaled, Gradient, Grpo, MaxRl, Natural, PassAtK
from goodteacher.sim.estimates import tilt

# One prompt for each verdict, by reward and truth of its four draws.
CASES = {
    "no signal": ([1, 1, 1, 1], [0, 1, 0, 0]),
    "saturated": ([0, 1, 0, 1], [1, 1, 1, 1]),
    "unseen": ([0, 1, 0, 1], [0, 0, 0, 0]),
    "learns": ([2, 0, 0, 0], [1, 0, 0, 0]),
    "stalls": ([1, 0.999, 0, 0], [1, 0, 0, 0]),
    "misled": ([0, 2, 1, 1], [1, 0, 0, 0]),
    "over-optimised": ([1.0, 1.2, -3, -3], [1, 0, 0, 0]),
}


def cases(estimator="gradient", **asked):
    rewards, truth = (np.array([case[i] for case in CASES.values()], float) for i in (0, 1))
    rollouts = Rollouts.from_arrays({"r": rewards}, truth, prompts=list(CASES))
    return diagnose(rollouts, estimator=estimator, scale="none", resamples=20, **asked)


@pytest.fixture(scope="module")
def judged():
    return cases(budget=100.0)


def titles(data, reward=0):
    return [Verdict(int(code)).title for code in data.prompt_verdict.values[reward]]


def test_verdicts(judged):
    assert titles(judged) == list(CASES)
    assert judged.verdicts.sel(reward="r").values.tolist() == [1] * 7 + [0, 0]
    assert titles(cases("natural", budget=3.0)) == list(CASES)


def test_a_prompt_that_cannot_be_followed_is_left_out():
    two, many = [[1.0, 0.0, 0.0, 0.0] * 10] * 2, np.linspace(0.0, 1.0, 40)
    truth, clock = [[1.0, 0.0, 0.0, 0.0] * 10] * 3, Grpo(8)
    names = ["a", "b", "c"]
    asked: dict[str, Any] = {"estimator": clock, "scale": "none", "resamples": 20, "budget": 50.0}
    found = diagnose(Rollouts.from_arrays({"r": [two[0], many, two[1]]}, truth, prompts=names), **asked)
    assert titles(found) == ["learns", "not known", "learns"]
    assert str(found.not_followed.values[1]).startswith("take more than two values, and 8 draws")
    assert found.not_followed.values[[0, 2]].tolist() == ["", ""]
    both = diagnose(Rollouts.from_arrays({"r": two}, truth[:2], prompts=["a", "c"]), **asked)
    for name in ("hitting_time", "truth_at_budget", "truth_at_budget_on_truth"):
        np.testing.assert_array_equal(found[name].sel(prompt=["a", "c"]), both[name])
        assert np.isnan(found[name].sel(prompt="b")).all()
    np.testing.assert_array_equal(found.ground_truth_at_budget, both.ground_truth_at_budget)
    assert "not_followed" not in both
    with pytest.raises(ValueError, match="no reward can be followed: the rewards of r take more than two"):
        diagnose(Rollouts.from_arrays({"r": [many]}, truth[:1], prompts=["b"]), **asked)
    with pytest.raises(ValueError, match="no prompt can be followed: the rewards of b take more than two"):
        diagnose(Rollouts.from_arrays({"r": truth[:1]}, [many], prompts=["b"]), **asked)


def test_a_reward_that_cannot_be_followed_stops_no_other():
    rng = np.random.default_rng(0)
    truth = (rng.random((12, 6)) < 0.4).astype(float)
    rewards = {"judge": truth + 0.3 * rng.normal(size=truth.shape), "verifier": truth}
    asked: dict[str, Any] = {"estimator": PassAtK(4), "scale": "none", "resamples": 20, "budget": 50.0}
    found = diagnose(Rollouts.from_arrays(rewards, truth), **asked)
    alone = diagnose(Rollouts.from_arrays({"verifier": truth}, truth), **asked)
    assert set(titles(found)) - {"no signal"} == {"not known"}
    assert str(found.reward_not_followed.values[0]).startswith("take more than two values")
    assert found.reward_not_followed.values[1] == ""
    for name in ("hitting_time", "truth_at_budget", "truth_along", "kl_tilted", "ground_truth_at_budget"):
        np.testing.assert_array_equal(found[name].sel(reward="verifier"), alone[name].sel(reward="verifier"))
        assert np.isnan(found[name].sel(reward="judge")).all()
    assert found["rank"].sel(reward="verifier") == 1
    assert np.isnan(found["rank"].sel(reward="judge"))
    assert np.isfinite(found.covariance).all()
    scaled = {**asked, "estimator": MaxRl(), "scale": "policy"}
    with pytest.raises(ValueError, match=r"not negative \(rewards are on a scale: mean 0.*scale none leaves"):
        diagnose(Rollouts.from_arrays({"verifier": truth}, truth), **scaled)


def test_what_did_not_converge_is_not_known(monkeypatch):
    truth = np.tile([1.0, 0.0, 0.0, 0.0], (2, 1))
    rollouts = Rollouts.from_arrays({"r": truth}, truth)
    monkeypatch.setattr(GradientFlow, "times", lambda self, log_p, *_: np.full(len(log_p), np.nan))
    monkeypatch.setattr(GradientFlow, "policies", lambda self, log_p, r, t: np.full((*t.shape, 4), np.nan))
    found = diagnose(rollouts, scale="none", resamples=5, budget=5.0)
    assert titles(found) == ["not known"] * 2
    assert teacher_answer.answer(found).startswith("What becomes of this policy is not known")
    assert any("rounding errors decide" in line for line in teacher_answer.limits(found))


def test_groups_of_all_values_are_enumerated_of_the_outputs_that_there_are():
    """Six outputs make 126 groups of four; of sixteen, to which others are filled up, there are 3,876."""
    rng = np.random.default_rng(0)
    rewards, truth = rng.normal(size=(2, 6)), np.eye(6)[:2]
    rewards[[0, 1], [0, 1]] = 3.0
    found = diagnose(
        Rollouts.from_arrays(rewards, truth), estimator=Grpo(4), scale="none", resamples=5, budget=5.0
    )
    for i in range(2):
        problem = Instance(rewards[i], truth[i], start=np.full(6, 1 / 6)).following(Grpo(4))
        expected = hitting_time(problem, reward_increase(problem, 0.9 * 5 / 6)).time[0]
        assert found.hitting_time.values[0, i] == pytest.approx(float(expected), rel=1e-6)


def test_times_are_those_of_the_exact_flow(judged):
    for name in ("learns", "stalls"):
        rewards, truth = (np.array(of, float) for of in CASES[name])
        # Draws that cannot be told apart are one output.
        rows = np.unique(np.stack([rewards, truth]), axis=1, return_counts=True)
        (r, g), count = rows
        instance = Instance(r, g, count / count.sum())
        exact = hitting_time(instance, reward_increase(instance, 0.9 * 0.75)).time
        found = float(judged.hitting_time.sel(reward="r", prompt=name))
        assert found == pytest.approx(float(exact[0]), rel=1e-9)
    assert np.isinf(judged.hitting_time.sel(prompt=["no signal", "misled"])).all()


def test_what_holds_a_prompt_up_is_named(judged):
    held = judged.held_by.sel(reward="r")
    assert int(held.sel(prompt="misled")) == 1
    assert int(held.sel(prompt="over-optimised")) == 1
    assert int(held.sel(prompt="stalls")) == 1
    assert int(held.sel(prompt="learns")) == -1


def test_the_peak_of_what_is_over_optimised(judged):
    of = judged.sel(reward="r", prompt="over-optimised")
    assert of.peak_truth > of.truth_at_budget + 0.05
    assert 0 < of.peak_kl < of.kl_at_budget
    assert 0 < of.peak_time < 100.0
    assert np.isnan(judged.peak_truth.sel(reward="r", prompt="misled"))


def test_a_longer_budget_turns_a_stall_into_learning():
    assert titles(cases(budget=1e6))[4] == "learns"


def test_the_natural_gradient_is_the_tilt_and_its_times_are_exact():
    rng = np.random.default_rng(0)
    log_p = np.log(rng.dirichlet(np.ones(5), size=8))
    rewards, truth = rng.normal(size=(2, 8, 5))
    rewards[:, 0], truth[:, 0] = 3.0, 3.0  # the best is praised
    increase = 0.9 * (3.0 - (np.exp(log_p) * truth).sum(1))
    flow = NaturalFlow()
    times = flow.times(log_p, rewards, truth, increase)
    there = np.exp(flow.policies(log_p, rewards, times[:, None]))[:, 0]
    np.testing.assert_allclose((there * truth).sum(1) - (np.exp(log_p) * truth).sum(1), increase, rtol=1e-9)
    before = np.exp(tilt(log_p, rewards, 0.999 * times).log_probabilities)
    assert ((before * truth).sum(1) < (there * truth).sum(1)).all()


def test_peaks_are_found_wherever_they_are_within_the_budget():
    """Those of a dense grid of times; by looks at fixed shares of the budget some would be missed."""
    rng = np.random.default_rng(0)
    rewards, truth = rng.normal(size=(200, 6)), rng.random((200, 6))
    rollouts = Rollouts.from_arrays(rewards, truth)
    way = np.geomspace(1e-3, 1e4, 4000)
    weights = np.exp(way[:, None, None] * (rewards - rewards.max(1, keepdims=True)))
    along = (weights * truth).sum(2) / weights.sum(2)
    for budget in (30.0, 1e4):
        data = diagnose(rollouts, estimator="natural", scale="none", budget=budget, resamples=5)
        over = data.prompt_verdict.values[0] == Verdict.OVER_OPTIMISED
        highest = along[way <= budget].max(0)
        assert over.sum() > 5
        np.testing.assert_allclose(data.peak_truth.values[0, over], highest[over], atol=1e-3)
        times = way[along[way <= budget].argmax(0)]
        np.testing.assert_allclose(data.peak_time.values[0, over], times[over], rtol=0.06)
    by_gradient = [diagnose(rollouts, scale="none", budget=of, resamples=5) for of in (300.0, 3e7)]
    early, late = (titles(data) for data in by_gradient)
    assert early.count("over-optimised") > 5
    # What has risen and fallen by an early budget has by a later one, too.
    assert all(late[i] == "over-optimised" for i, title in enumerate(early) if title == "over-optimised")


def test_both_flows_leave_outputs_alone_that_do_not_exist():
    log_p = np.log([[0.5, 0.5, 1.0, 1.0]])
    log_p[0, 2:] = -np.inf
    rewards = np.array([[0.0, 1.0, 9.0, 9.0]])
    for flow in (GradientFlow(), NaturalFlow()):
        policy = np.exp(flow.policies(log_p, rewards, np.array([[2.0]])))[:, 0]
        assert policy[0, 2:].tolist() == [0, 0]
        assert policy.sum() == pytest.approx(1.0)
        assert policy[0, 1] > 0.5
        assert flow.times(log_p, rewards, rewards, np.array([0.4]))[0] > 0


# Data sets ------------------------------------------------------------------------------


def made(prompts=60, draws=8, seed=0):
    """A good reward, one of noise, and one that is wrong, on a binary truth."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((prompts, draws)) < rng.random((prompts, 1))).astype(float)
    noise = rng.normal(size=truth.shape)
    return Rollouts.from_arrays({"noise": noise, "good": truth + 0.3 * noise, "wrong": -truth}, truth)


def table(draws):
    """By prompt, of what was made."""
    return np.reshape(draws, (60, 8))


@pytest.fixture(scope="module")
def data():
    return diagnose(made(), estimator="natural", resamples=200)


def test_rewards_are_ranked(data):
    assert data["rank"].values.tolist() == [2, 1, 3]
    assert data.beats_next.values[:2].min() > 0.9
    assert np.isnan(data.beats_next.values[2])


def test_intervals_hold_their_estimates_and_narrow_with_more_prompts(data):
    wide = diagnose(made(15), estimator="natural", resamples=200)
    for name in ESTIMATED:
        low, high = (data[name + end].values for end in ("_low", "_high"))
        assert (low <= data[name].values + 1e-12).all(), name
        assert (data[name].values <= high + 1e-12).all(), name
    narrow = (data.accuracy_high - data.accuracy_low).values
    assert (narrow < (wide.accuracy_high - wide.accuracy_low).values).all()


def test_estimates_are_those_of_each_scale():
    rollouts = made()
    raw = rollouts.rewards[1]
    found = {name: diagnose(rollouts, estimator="natural", scale=name, resamples=5) for name in SCALES}
    within = {name: float(of.within_variance.sel(reward="good")) for name, of in found.items()}
    assert within["policy"] == pytest.approx(within["none"] / raw.var())
    assert within["within"] == pytest.approx(1.0)
    signal = float(np.mean(found["none"].reward_variance.sel(reward="good") > 0))
    assert within["group"] == pytest.approx(signal * 8 / 7)
    assert {float(of.accuracy.sel(reward="good")) for of in found.values()} == {
        float(found["none"].accuracy.sel(reward="good"))
    }


def test_between_and_within_add_up_to_the_variance_of_all_draws():
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(4000, 1)) * 2.0 + rng.normal(size=(4000, 4)) * 3.0
    found = diagnose(Rollouts.from_arrays(rewards), scale="none", resamples=5)
    assert float(found.within_variance[0]) == pytest.approx(9.0, rel=0.05)
    assert float(found.between_variance[0]) == pytest.approx(4.0, rel=0.1)


def test_without_a_truth_what_needs_none_is_said():
    rollouts = made()
    found = diagnose(Rollouts.from_arrays(rollouts.rewards[1].reshape(60, 8)), resamples=50)
    assert np.isfinite(found.within_variance).all()
    assert np.isnan(found.accuracy).all()
    assert np.isnan(found["rank"]).all()
    assert set(titles(found)) == {"no truth"}
    assert "truth_at_budget" not in found


@pytest.mark.parametrize("estimator", ["gradient", "natural", Grpo()])
def test_without_a_truth_rewards_are_followed_as_if_they_were_it(estimator):
    draws = made()
    reward = draws.rewards[0]
    asked: dict[str, Any] = {"scale": "none", "resamples": 5, "estimator": estimator}
    alone = diagnose(replace(draws, names=("r",), rewards=reward[None], truth=None), **asked)
    truth = diagnose(replace(draws, names=("r",), rewards=reward[None], truth=reward), **asked)
    assert alone.attrs["budget"] == pytest.approx(truth.attrs["budget"], rel=1e-12)
    assert alone.attrs["followed"] == len(draws.prompts)
    np.testing.assert_allclose(alone.reward_along, truth.truth_along, rtol=1e-12)
    for name in ("reward_along", "kl_along", "spread_along", "reward_tilted", "kl_tilted"):
        np.testing.assert_allclose(alone[name], truth[name], rtol=1e-12)
    assert not {"truth_along", "truth_tilted", "truth_at_start"} & set(alone.data_vars)
    given = diagnose(replace(draws, names=("r",), rewards=reward[None], truth=None), budget=3.0, **asked)
    assert given.attrs["budget"] == 3.0
    assert float(given.reward_along[0, -1]) != pytest.approx(float(alone.reward_along[0, -1]), rel=1e-3)


def test_without_a_truth_what_cannot_be_followed_stops_nothing():
    many, two = np.linspace(0.0, 1.0, 40), [1.0, 0.0, 0.0, 0.0] * 10
    asked: dict[str, Any] = {"estimator": Grpo(8), "scale": "none", "resamples": 5}
    some = diagnose(Rollouts.from_arrays({"r": [many, two]}, prompts=["a", "b"]), **asked)
    assert some.attrs["followed"] == 1
    assert titles(some) == ["no truth", "no truth"]
    assert str(some.not_followed.values[0]).startswith("take more than two values")
    both = diagnose(Rollouts.from_arrays({"r": [two, many], "s": [many, two]}, prompts=["a", "b"]), **asked)
    one = diagnose(Rollouts.from_arrays({"r": [two], "s": [many]}, prompts=["a"]), **asked)
    for none in (diagnose(Rollouts.from_arrays({"r": [many]}, prompts=["a"]), **asked), both):
        assert none.attrs["followed"] == 0
        assert "kl_along" not in none
        assert teacher_answer.limits(none)
        assert teacher_answer.rewards_table(none).row_count == none.sizes["reward"]
    assert np.isfinite(one.kl_along.values).all(1).tolist() == [True, False]
    assert "-" in list(teacher_answer.rewards_table(one).columns[-1].cells)
    other = diagnose(Rollouts.from_arrays({"s": [many], "r": [two]}, prompts=["a"]), **asked)
    assert teacher_answer.leading(other) == "r"
    assert not any("nan" in str(cell) for cell in teacher_answer.groups_table(other).columns[1].cells)


def test_a_missing_truth_is_missing_and_not_zero():
    full = made()
    truth = table(full.truth).copy()
    rewards = {name: of.reshape(60, 8) for name, of in zip(full.names, full.rewards, strict=True)}
    truth[:20] = np.nan  # of whole prompts
    truth[20:, 6:] = np.nan  # of draws
    found = diagnose(Rollouts.from_arrays(rewards, truth), estimator="natural", resamples=5)
    alone = {name: of[20:, :6] for name, of in rewards.items()}
    expected = diagnose(Rollouts.from_arrays(alone, truth[20:, :6]), estimator="natural", resamples=5)
    np.testing.assert_allclose(found.accuracy, expected.accuracy)
    assert titles(found)[:20] == ["no truth"] * 20
    assert np.isnan(found.truth_at_budget.values[:, :20]).all()


def test_degenerate_prompts_stop_nothing(data):
    flat = Rollouts.from_arrays(
        {
            name: np.vstack([row.reshape(60, 8), np.ones((3, 8))])
            for name, row in zip(made().names, made().rewards, strict=True)
        },
        np.vstack([table(made().truth), np.ones((3, 8))]),
    )
    found = diagnose(flat, estimator="natural", resamples=5, scale="none")
    base = diagnose(made(), estimator="natural", resamples=5, scale="none")
    np.testing.assert_array_equal(found.prompt_verdict.values[:, :60], base.prompt_verdict.values)
    assert (found.prompt_verdict.values[:, 60:] == Verdict.NO_SIGNAL).all()


def test_every_variable_says_what_it_is(data):
    assert isinstance(data, xr.Dataset)
    for name, of in data.data_vars.items():
        assert {"long_name", "units"} <= of.attrs.keys(), name
    assert data.group.values.tolist() == list(GROUPS)


def test_the_seed_decides():
    one, same, other = (diagnose(made(), estimator="natural", resamples=50, seed=seed) for seed in (1, 1, 2))
    xr.testing.assert_identical(one, same)
    assert (one.accuracy_low.values != other.accuracy_low.values).any()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"goal": 1.0}, "goal is 1.0; give a share"),
        ({"budget": -1.0}, "budget is -1.0"),
        ({"groups": (1,)}, "a group has size 1"),
        ({"groups": ()}, "names no size"),
        ({"groups": (4, 2, 4)}, "groups has the size 4 twice"),
        ({"estimator": "pass_at_k"}, "k is missing"),
        ({"resamples": 0}, "resamples is 0"),
        ({"scale": "polcy"}, "did you mean policy"),
        ({"estimator": "gradeint"}, "did you mean gradient"),
        ({"estimator": BatchScaled()}, "all prompts are on one clock, and prompts are diagnosed one by one"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_wishes(asked, message):
    with pytest.raises(ValueError, match=message):
        diagnose(made(4), **asked)


def test_an_estimator_has_the_name_that_it_has_on_the_command_line():
    assert find_estimator("gradient") == find_estimator(Gradient()) == GradientFlow()
    assert find_estimator("natural") == find_estimator(Natural()) == NaturalFlow()
    assert find_estimator("grpo") == find_estimator(Grpo()) == GradientFlow(Grpo())
    clocked, given = (diagnose(made(4), estimator=of, resamples=5) for of in ("grpo", Grpo()))
    assert clocked.equals(given)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-80, 1e139])
def test_rewards_of_any_size_have_intervals(size):
    asked = {"scale": "none", "estimator": "natural", "resamples": 50}
    draws = made(20)
    plain, sized = (diagnose(replace(draws, rewards=of * draws.rewards), **asked) for of in (1.0, size))
    for name in ("within_variance", "within_variance_low", "within_variance_high"):
        np.testing.assert_allclose(sized[name], size**2 * plain[name], rtol=1e-6)


def test_rewards_without_a_square_are_left_out_and_such_truths_refused():
    some = Rollouts.from_arrays({"r": [[1.0, 0.0, -1e200]]})
    assert dict(some.skipped) == {"r is beyond 1e+140": 1}
    assert np.isfinite(diagnose(some, resamples=5).within_variance).all()
    with pytest.raises(ValueError, match=r"nothing usable: 1 x r is beyond 1e\+140"):
        Rollouts.from_arrays({"r": [[1.0, -1e200]]})
    with pytest.raises(ValueError, match="the ground truth has a value of size"):
        diagnose(Rollouts.from_arrays({"r": [[1.0, 0.0]]}, [[0.0, 1e200]]))


# Parts ------------------------------------------------------------------------------------


def test_outputs_are_classes_of_draws():
    rewards, truth = np.array([[1.0, 1.0, 2.0, 1.0]]), np.array([[0.0, 0.0, 1.0, 1.0]])
    (by_value,) = outputs(Rollouts.from_arrays(rewards, truth))
    np.testing.assert_allclose(np.exp(by_value.log_probabilities[0]), [0.5, 0.25, 0.25, 0.0])
    assert by_value.first[0].tolist() == [0, 3, 2, -1]
    answered = Rollouts.from_arrays(rewards, truth, answers=[["x", "y", "x", "x"]])
    (by_answer,) = outputs(answered)
    np.testing.assert_allclose(np.exp(by_answer.log_probabilities[0]), [0.75, 0.25, 0.0, 0.0])
    np.testing.assert_allclose(by_answer.rewards[0, 0, :2], [4 / 3, 1.0])
    np.testing.assert_allclose(by_answer.truth[0, :2], [2 / 3, 0.0])


def test_the_mean_of_equal_rewards_is_that_reward():
    """To the last digit: else a prompt without a signal would seem to have one."""
    rewards = np.full((1, 7), 0.1)
    answers = [["x", "x", "x", "y", "y", "z", "z"]]
    (found,) = outputs(Rollouts.from_arrays(rewards, np.eye(7)[:1], answers=answers))
    assert set(found.rewards[0, 0, :3]) == {0.1}
    data = diagnose(Rollouts.from_arrays(rewards, np.eye(7)[:1], answers=answers), scale="none", resamples=5)
    assert titles(data) == ["no signal"]
    assert np.isinf(data.hitting_time).all()


def test_outputs_of_many_sizes():
    rng = np.random.default_rng(0)
    mask = np.arange(40) < np.array([2, 5, 40])[:, None]
    parts = list(outputs(Rollouts.from_arrays(rng.normal(size=(3, 40)), rng.normal(size=(3, 40)), mask=mask)))
    assert [part.log_probabilities.shape for part in parts] == [(1, 4), (1, 16), (1, 64)]
    for part in parts:
        np.testing.assert_allclose(np.exp(part.log_probabilities).sum(1), 1.0)


def test_resampled_sums_are_those_of_resampled_prompts():
    values = np.random.default_rng(0).exponential(size=400)
    found = resample({"x": values, "one": np.ones(400)}, 2000, 0)
    assert found.whole["x"] == pytest.approx(values.sum())
    assert (found.again["one"] == 400).all()
    spread = (found.again["x"] / 400).std()
    assert spread == pytest.approx(values.std() / 20, rel=0.05)
    interval = found.interval(ratio("x", "one"))
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)
    assert found.exceeds(ratio("x", "one"), ratio("x", "one")) == 0.5


def test_an_estimate_that_hangs_on_few_prompts_has_a_wider_interval():
    values = np.zeros(300)
    values[:20] = np.random.default_rng(1).normal(size=20)
    interval = resample({"x": values, "one": np.ones(300)}, 20_000, 0).interval(ratio("x", "one"))
    student = stdtrit(2 / (2 / 299 + kurtosis(values) / 300), 0.975)
    assert student > 2.1  # of 299 degrees of freedom it is 1.97
    width = (interval.high - interval.low) / (2 * values.std(ddof=1) / np.sqrt(300))
    assert width == pytest.approx(student, rel=0.03)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_on_which_all_prompts_agree_is_not_said_to_be_certain(value):
    whole = np.array([1.0] * 10 + [0.0] * 40)
    found = resample({"part": value * whole, "whole": whole}, 50, 0)
    interval = found.interval(Share("part", "whole"))
    assert interval.value == value
    # So many prompts would agree by chance once in forty times where the share is at the other end.
    assert interval.high - interval.low == pytest.approx(1 - 0.025 ** (1 / 10))
    assert value in (interval.low, interval.high)


def test_groups_larger_than_the_draws_are_extrapolated():
    rng = np.random.default_rng(0)
    wins = rng.binomial(8, rng.beta(0.4, 1.5, size=4000))
    p = rng.beta(0.4, 1.5, size=400_000)
    truth = (1 - p**32 - (1 - p) ** 32).mean()
    assert extrapolated_spread(wins, np.full(4000, 8), 32) == pytest.approx(truth, abs=0.01)
    pooled = wins.mean() / 8
    assert 1 - pooled**32 - (1 - pooled) ** 32 > truth + 0.2  # by Jensen
    binary = np.repeat(wins[:300, None] > np.arange(8), 1, axis=1).astype(float)
    found = diagnose(Rollouts.from_arrays(binary), groups=(4, 32), resamples=5)
    assert found.share_is_extrapolated.values.tolist() == [[False, True]]
    assert 0.3 < float(found.share_with_spread.values[0, 1]) < 0.9
    unknown = diagnose(Rollouts.from_arrays(rng.normal(size=(5, 8))), groups=(32,), resamples=5)
    assert np.isnan(unknown.share_with_spread).all()


def test_the_gradient_flow_is_followed_in_blocks(monkeypatch):
    monkeypatch.setattr("goodteacher.experiments.rollouts.teaching.BLOCK", 4)
    rng = np.random.default_rng(0)
    log_p = np.log(rng.dirichlet(np.ones(4), size=7))
    rewards = rng.normal(size=(7, 4))
    times = np.linspace(0.0, 3.0, 7)
    policies = GradientFlow().policies(log_p, rewards, np.tile(times, (7, 1)))
    np.testing.assert_allclose(policies[:, 0], log_p, atol=1e-9)
    for i, time in enumerate(times):
        alone = GradientFlow().policies(log_p[i : i + 1], rewards[i : i + 1], np.array([[time]]))
        np.testing.assert_allclose(policies[i, i], alone[0, 0], atol=1e-12)
