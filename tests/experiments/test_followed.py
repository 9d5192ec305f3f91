"""What is followed, by names and numbers."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from goodteacher.experiments.commands.options import Estimator
from goodteacher.experiments.followed import OPTIONS, Followed, follow, told
from goodteacher.experiments.progress import Progress
from goodteacher.experiments.reports.error_table import report as error_report
from goodteacher.experiments.reports.simulation import AlongFlow, report
from goodteacher.experiments.sweeps.dynamics import Flow, dynamics
from goodteacher.sim.clocks import (
    BatchScaled,
    ColdStart,
    DynamicSampling,
    Gradient,
    Grpo,
    MaxRl,
    MeanSubtracted,
    Natural,
)
from goodteacher.sim.flow import hitting_time
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.status import Status
from goodteacher.theory.error_kinds import Thresholds


@pytest.mark.parametrize(("preset", "epsilon"), [("trl", 1e-4), ("verl", 1e-6), ("openrlhf", 1e-9)])
def test_presets(preset, epsilon):
    clock = Followed("grpo", preset=preset, group=8).clock()
    assert isinstance(clock, Grpo)
    assert (clock.group, clock.bessel) == (8, True)
    np.testing.assert_allclose(clock.epsilon, epsilon, rtol=1e-15)


def test_scaling_by_the_batch():
    clock = Followed("grpo", preset="trl-batch", group=math.inf).clock()
    assert isinstance(clock, BatchScaled)
    assert clock.epsilon == 1e-4
    other = Followed("grpo", preset="trl-batch", epsilon=0.1).clock()
    assert isinstance(other, BatchScaled)
    assert other.epsilon == 0.1


def test_errors_of_a_batch_that_waits_together():
    """An error at one prompt moves the clock of all: the other prompts stay in the problem."""
    rewards = [[1.0, 0.4, 0.0], [0.6, 0.9, 0.0]]
    truth = [[1.0, 0.0, 0.0], [0.6, 0.9, 0.0]]
    start = [[0.05, 0.5, 0.45], [0.2, 0.4, 0.4]]
    clock = Followed("grpo", preset="trl-batch").clock()
    problem = Instance(rewards, truth, start)
    found = error_report(problem, 0.3, Thresholds(), followed=follow(problem, clock))
    times = []
    for proxy in (rewards, truth):
        trained = Instance(proxy, truth, start).following(clock)
        times.append(float(hitting_time(trained, reward_increase(trained, 0.3)).time[0]))
    assert found["hitting_time"][0] == pytest.approx(times[0], rel=1e-10)
    assert found["corrected_hitting_time"][0][1] == pytest.approx(times[1], rel=1e-10)
    alone = Instance(rewards[:1], truth[:1], start[:1], prompt_weights=[1.0]).following(clock)
    assert abs(float(hitting_time(alone, reward_increase(alone, 0.3)).time[0]) * 2.0 / times[0] - 1.0) > 0.05


def test_itineraries_are_those_of_what_is_followed():
    problem = Instance([[1.0, 0.8, 0.0]], start=[[0.01, 0.7, 0.29]])
    goal = reward_increase(problem, 0.3)
    for what in (Followed(), Followed("grpo"), Followed("grpo", preset="trl-batch")):
        followed, _ = follow(problem, what.clock())
        outcome = AlongFlow().follow(followed, goal, Progress("flow", None))
        stop = report(problem, followed, outcome)["itinerary"][0][1]
        # Where the best output takes over, the reward is about half way from the middling one's.
        assert stop["output"] == 0
        assert stop["from"] == pytest.approx(outcome.hitting_time[0], rel=0.1)


def test_values():
    assert isinstance(Followed().clock(), Gradient)
    assert isinstance(Followed("natural").clock(), Natural)
    for preset in ("prime-rl", "trl-none"):
        assert isinstance(Followed("grpo", preset=preset).clock(), MeanSubtracted)
    clock = Followed("maxrl", group=4, dynamic_sampling=True).clock()
    assert isinstance(clock, DynamicSampling)
    assert isinstance(clock.of, MaxRl)
    plain = Followed("grpo", population=True).clock()
    assert isinstance(plain, Grpo)
    assert plain.group == math.inf
    assert not plain.bessel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "grop"}, "estimator 'grop' is unknown; did you mean grpo"),
        ({"estimator": "grpo", "preset": "tlr"}, "preset 'tlr' is unknown; did you mean trl"),
        ({"estimator": "maxrl", "epsilon": 0.1}, "epsilon does not apply to estimator maxrl"),
        ({"estimator": "grpo", "group": 1}, "group is 1; give a whole number of at least 2"),
        (
            {"estimator": "grpo", "preset": "trl-batch", "population": True},
            "trl-batch.* leave out population",
        ),
        ({"estimator": "grpo", "preset": "trl-batch", "dynamic_sampling": True}, "trl-batch.* leave one out"),
        ({"estimator": "pass_at_k"}, "k is missing"),
        ({"estimator": "grpo", "preset": "prime-rl", "epsilon": 0.1}, "divides by no standard deviation"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        Followed(**options)
    if "maxrl" in options.values():
        with pytest.raises(ValueError, match=message):
            dynamics({"name": "flow", **options})


# Of some prompts it may not be known ---------------------------------------------------------


def _mixed() -> Instance:
    """Two values, so many that groups cannot be enumerated, and two again."""
    few, many = [1.0, *[0.0] * 11], [1.0, *np.linspace(0.0, 0.5, 11)]
    truth = [few, [*many[:-1], 0.0], few]
    return Instance([few, many, few[::-1]], truth, start=np.full((3, 12), 1 / 12))


def test_prompts_that_cannot_be_followed_are_left_out_and_the_others_answered():
    clock = Followed("grpo", group=8).clock()
    instance, unknown = follow(_mixed(), clock)
    assert list(unknown) == [1]
    assert unknown[1].startswith("take more than two values, and 8 draws of 12 outputs")
    goal = reward_increase(instance, 0.5)
    found = hitting_time(instance, goal)
    first = Instance(_mixed().rewards[:1], start=np.full((1, 12), 1 / 12))
    alone = hitting_time(first.following(clock), reward_increase(first, 0.5))
    # Each prompt has a third of the weight.
    np.testing.assert_allclose(found.time[0], 3.0 * alone.time[0], rtol=1e-12)
    outcome = AlongFlow().follow(instance, goal, Progress("flow", None))
    assert outcome.status[1] is Status.NO_SIGNAL
    told_of = report(_mixed(), instance, outcome, unknown)
    assert told_of["prompt_status"] == ["reached", "not known", "never: at rest at an optimum"]
    assert told_of["hitting_time"][1] is None
    assert told_of["final"]["probabilities"][1] == [None] * 12
    assert told_of["initial"]["expected_proxy_reward"][1] > 0.2
    assert told_of["itinerary"][1] == []
    (line,) = told(unknown, ["a", "b", "c"])
    assert line.startswith("prompt b: not known, for the rewards take more than two values")
    assert told(dict.fromkeys(range(7), "are none"))[0].startswith(
        "prompts 0, 1, 2, 3, 4 and 2 more: not known"
    )


def test_all_prompts_or_shared_parameters_are_refused():
    clock = Followed("grpo", group=8).clock()
    second = Instance(_mixed().rewards[1:2], start=np.full((1, 12), 1 / 12))
    with pytest.raises(ValueError, match=r"rewards\[0\] take more than two values"):
        follow(second, clock)
    features = LinearSoftmax(np.random.default_rng(0).normal(size=(3, 12, 2)))
    shared = Instance(_mixed().rewards, policy=features, start=Parameters(np.zeros(2)))
    with pytest.raises(ValueError, match=r"rewards\[1\] take more than two values"):
        follow(shared, clock)


def test_errors_of_the_other_prompts():
    problem = _mixed()
    clock = Followed("grpo", group=8).clock()
    followed = follow(problem, clock, also=problem.ground_truth_rewards)
    found = error_report(problem, None, Thresholds(), followed=followed)
    assert found["status"][1] == "not known"
    assert found["log10_time_ratio"][1] == [None] * 12
    assert found["category"][1][11] != "none"
    assert found["rewards"][1][11] == 0.5
    assert float(found["hitting_time"][0]) > 0
    assert found["shapley"][2] is not None


def test_zero_is_given():
    """As any number: what is not given is none."""
    kinds: tuple[Any, ...] = (Followed, Flow)
    for kind in kinds:
        for epsilon in (0.0, 1e-3):
            grpo = kind(estimator="grpo", preset="trl", epsilon=epsilon)
            assert grpo.given["epsilon"] == epsilon
            clock = grpo.clock()
            assert isinstance(clock, Grpo)
            np.testing.assert_allclose(clock.epsilon, epsilon)
        cold = kind(estimator="cold_start", power=0.0).clock()
        assert isinstance(cold, ColdStart)
        assert cold.power == 0.0
        with pytest.raises(ValueError, match="power does not apply to estimator grpo"):
            kind(estimator="grpo", power=0.0)
        with pytest.raises(ValueError, match="k is 0; give a number of at least 1"):
            kind(estimator="pass_at_k", k=0)
        with pytest.raises(ValueError, match="population is 'no'; give 1 or 0"):
            kind(estimator="grpo", population="no")
    assert Flow(estimator="grpo", preset="trl", epsilon=0.0).describe()["epsilon"] == 0.0
    assert Flow(estimator="cold_start", power=0.0) != Flow(estimator="cold_start")
    assert Followed("grpo", group=math.inf) == Followed("grpo")


def test_the_command_line_has_all_that_may_be_given():
    assert {field.name for field in fields(Estimator)} == {field.name for field in fields(Followed)}
    assert {field.name for field in fields(Followed)} == {"estimator", *OPTIONS}


def test_what_is_not_given_is_not_described():
    assert set(Flow().describe()) == {"name", "horizon", "tolerance", "max_steps", "estimator"}
    about = Flow(estimator="grpo", group=8).describe()
    assert about["group"] == 8
    assert "preset" not in about
