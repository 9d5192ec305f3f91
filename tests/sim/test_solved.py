"""The solved flow against an independent quadrature, the integrator and closed forms."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sim_strategies import beneficial_errors, integrated_path, integrated_time, integrated_times, stack

from goodteacher.sim import solved
from goodteacher.sim.flow import (
    HORIZON,
    Control,
    final_policy,
    hitting_time,
    hitting_times,
    is_solvable,
    trajectory,
)
from goodteacher.sim.goals import Goal, probability_level, reward_increase, reward_level
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.status import Status
from goodteacher.theory.closed_forms import one_good_output_time

REFERENCE = json.loads((Path(__file__).parent / "solved_times.json").read_text(encoding="utf-8"))["problems"]


def errors(shift: float = 0.0) -> np.ndarray:
    """Relative errors of all times; levels may be lower by a share of their distance from the best."""
    width = max(len(problem["rewards"]) for problem in REFERENCE)

    def wide(name: str, fill: float) -> np.ndarray:
        return np.array([[*problem[name], *[fill] * (width - len(problem[name]))] for problem in REFERENCE])

    exists = np.isfinite(wide("rewards", np.nan))
    rewards = wide("rewards", 0.0)
    levels = np.array([problem["level"] for problem in REFERENCE])
    levels = levels - shift * (wide("rewards", -np.inf).max(-1) - levels)
    rows = zip(rewards, wide("logits", 0.0), exists, strict=True)
    instances = stack(*[Instance(r, start=Parameters(logits), mask=mask) for r, logits, mask in rows])
    found = hitting_times(
        instances, jax.vmap(Goal)(jnp.asarray(rewards)[:, None], jnp.asarray(levels)[:, None])
    )
    exact = np.array([float(problem["time"]) for problem in REFERENCE])
    late = exact > HORIZON
    assert (found.status[late, 0] != Status.REACHED).all()
    return np.abs(found.time[~late, 0] / exact[~late] - 1)


def test_times_are_those_of_an_independent_quadrature():
    """Two to eight outputs, probabilities down to 1e-300, rewards as close as 1e-15, ties, times to 1e300."""
    assert len(REFERENCE) > 40
    assert errors().max() < 1e-10


def test_the_check_catches_a_level_that_is_a_little_lower():
    assert (errors(1e-6) > 1e-10).mean() > 0.5


@pytest.mark.parametrize("level", [0.501, 0.75, 0.999])
@pytest.mark.parametrize(
    ("others", "status"),
    [(-10.0, Status.NOT_REACHED), (-400.0, Status.NOT_REACHED), (-640.0, Status.REACHED)],
)
def test_a_stall_beyond_all_numbers_is_not_reached(others, status, level):
    """Masses are e^955 where the best output comes up, or e^1000 before; others may be rarer."""
    start = Parameters(np.array([0.0, *[others] * 4, -650.0]))
    instance = Instance([0.5, 0.0, 0.0, 0.0, 0.0, 1.0], start=start)
    assert hitting_time(instance, reward_level(instance, level)).status[0] == status


@pytest.fixture(scope="module")
def many():
    """Problems of three prompts with outputs that do not exist, and goals of other rewards."""
    rng = np.random.default_rng(5)
    problems = []
    for _ in range(40):
        logits = rng.normal(size=(3, 6)) * rng.choice([1.0, 4.0, 12.0])
        rewards, truth = rng.uniform(-1, 1, (2, 3, 6))
        mask = np.ones((3, 6), bool)
        mask[1, 4:] = False
        weights = rng.uniform(0.1, 1.0, 3)
        problems.append(Instance(rewards, truth, Parameters(logits), prompt_weights=weights, mask=mask))
    return stack(*problems)


def test_first_crossings_of_any_rewards_are_those_of_the_integrator(many):
    goals = jax.vmap(lambda i: reward_increase(i, 0.15))(many)
    solved, found = hitting_times(many, goals), integrated_times(many, goals)
    assert solved.solved.all()
    assert not found.solved.any()
    np.testing.assert_array_equal(np.isfinite(solved.time), np.isfinite(found.time))
    reached = np.isfinite(found.time)
    assert 20 < reached.sum() < reached.size - 20
    np.testing.assert_allclose(solved.time[reached], found.time[reached], rtol=1e-9)
    np.testing.assert_array_equal(solved.status[reached], found.status[reached])
    at = np.exp(solved.log_probabilities)[reached], np.exp(found.log_probabilities)[reached]
    np.testing.assert_allclose(*at, atol=1e-9)


def test_a_rise_that_does_not_last_is_found():
    """The expectation of what is middling rises and falls again, and only just reaches its level."""
    instance = Instance([1.0, 0.2, -1.0], start=[1e-6, 0.1, 0.9 - 1e-6])
    times = np.geomspace(1e-2, 1e15, 4000)
    path = jax.nn.softmax(trajectory(instance, times))[:, 0, 1]
    peak = float(path.max())
    assert 0.9 < peak < 1.0
    below = hitting_time(instance, probability_level(instance, 1, peak - 1e-9))
    assert below.status[0] == Status.REACHED
    assert below.time[0] < times[path.argmax()]
    above = hitting_time(instance, probability_level(instance, 1, 0.5 * (1 + peak)))
    assert above.status[0] == Status.OPTIMUM


def test_trajectories_and_final_policies_are_those_of_the_integrator(many):
    one = jax.tree.map(lambda leaf: leaf[3], many)
    times = np.array([0.0, 0.1, 2.0, 50.0])
    exact = integrated_path(one, times, Control(tolerance=1e-12))
    np.testing.assert_allclose(trajectory(one, times), exact, atol=1e-9)
    last, end = final_policy(one, Control(horizon=50.0))
    assert end == 50.0
    np.testing.assert_allclose(np.exp(last), one.probabilities(exact[-1]), atol=1e-9)


@pytest.mark.parametrize("below", [1e-7, 1e-10, 1e-12, -1e-10])
def test_a_level_next_to_the_top_of_a_rise_that_does_not_last(below):
    """The expectation is above the level for less than a thousandth of a logit's change, or never."""
    instance = Instance([1.0, 0.6, -1.0], [-1.0, 1.0, 0.0], [0.05, 0.25, 0.7])

    def fall(log_time):
        log_p, _ = final_policy(instance, Control(horizon=np.exp(log_time)))
        return -float((np.exp(log_p) * np.asarray(instance.ground_truth_rewards)).sum())

    top = -minimize_scalar(fall, bounds=(0.0, 6.0), method="bounded", options={"xatol": 1e-7}).fun
    found = hitting_time(instance, reward_level(instance, top - below))
    assert (found.status[0] == Status.REACHED) == (below > 0)


@pytest.mark.parametrize("gap", [1e-3, 1e-10])
def test_what_comes_after_all_numbers_is_not_said_never_to_come(gap):
    """The rare output is ahead at tau = 1e304 / gap."""
    instance = Instance([1.0, 1.0 - gap], start=Parameters([-700.0, 0.0]))
    for goal in (
        probability_level(instance, 0, 0.5),
        reward_level(instance, 1.0 - gap / 2.0, rewards=instance.rewards),
    ):
        found = hitting_time(instance, goal)
        assert found.status[0] == Status.NOT_REACHED
        assert found.time[0] == np.inf


def test_an_output_that_is_nearly_as_likely_as_the_middling_one():
    """Of the same reward: by how much it is less likely counts, not lost beside the line of the rare one."""
    instance = Instance([1.0, 0.5, 0.5, -1.0], start=[1e-9, 0.4, 0.3996, 0.2004 - 1e-9])
    goal = probability_level(instance, 0, 0.5)
    found, exact = hitting_time(instance, goal), integrated_time(instance, goal)
    np.testing.assert_allclose(found.time, exact.time, rtol=1e-8)


def test_an_expectation_that_stays_close_to_its_level():
    """For long it is hardly below: steps are taken there because the bend of the odds is bounded."""
    instance = Instance(
        [1.0, -1.0, -1.0], [0.63306606, 0.32978237, 0.61626656], [1.66e-8, 0.5117, 0.4883 - 1.66e-8]
    )
    initial = float(instance.probabilities(instance.initial_parameters)[0] @ instance.ground_truth_rewards[0])
    goal = reward_level(instance, initial + 0.0211 * (0.63306606 - initial))
    found, exact = hitting_time(instance, goal), integrated_time(instance, goal)
    assert found.status[0] == Status.REACHED
    np.testing.assert_allclose(found.time, exact.time, rtol=1e-8)


@pytest.mark.parametrize(
    ("much", "reached"),
    [
        (1e6, True),
        (5e6, False),  # enough to hold it down there, too
    ],
)
def test_what_holds_an_expectation_down_before_the_last_segment_need_not_for_ever(much, reached):
    """An output of the best reward does so at first, by so ``much`` below the level, although it is rare.

    At the last breakpoint three others are as likely as each other, and it is not.
    """
    inverse = np.array([1.0, 5010.5, 1e4, 1e9])
    instance = Instance([0.0, 0.5, 1.0, 1.0], start=1.0 / inverse / (1.0 / inverse).sum())
    goal = Goal(jnp.array([[-0.1, 1.0, -0.1, -much]]), jnp.zeros(1))
    found, exact = hitting_time(instance, goal), integrated_time(instance, goal)
    assert found.status[0] == exact.status[0] == (Status.REACHED if reached else Status.OPTIMUM)
    np.testing.assert_allclose(found.time, exact.time, rtol=1e-9)


@pytest.mark.parametrize(
    ("tied", "level", "status"),
    [
        ([0.125, 0.125], 0.6, Status.OPTIMUM),  # equally probable for ever
        ([0.1, 0.15], 0.4, Status.OPTIMUM),  # the other gets ahead
        ([0.15, 0.1], 0.7, Status.REACHED),
        ([0.15, 0.1], 0.99, Status.REACHED),  # however much the other still weighs
    ],
)
def test_of_outputs_of_the_best_reward_the_most_probable_wins(tied, level, status):
    """What is wanted is one of them; that it never comes is seen before the end of all times."""
    instance = Instance([0.0, -1.0, 1.0, 1.0], start=[0.5, 0.25, *tied])
    goal = probability_level(instance, 2, level)
    found = hitting_time(instance, goal)
    assert found.status[0] == status
    if status == Status.REACHED:
        np.testing.assert_allclose(found.time, integrated_time(instance, goal).time, rtol=1e-9)


def test_what_is_not_reached_by_the_horizon_is_seen_at_the_horizon():
    instance = beneficial_errors(0.01)
    goal = probability_level(instance, 0, 0.9)
    found = hitting_time(instance, goal, Control(horizon=100.0))
    assert found.status[0] == Status.NOT_REACHED
    assert found.end == 100.0
    last, _ = final_policy(instance, Control(horizon=100.0))
    np.testing.assert_allclose(found.log_probabilities, last, rtol=1e-12)


def test_first_and_second_derivatives():
    """Of a time in a stall by the rewards, against differences."""
    start = jnp.log(jnp.array([0.02, 0.5, 0.2, 0.28]))
    rewards = jnp.array([1.0, 0.4, -0.3, -0.8])

    def time(rewards):
        instance = Instance(rewards, start=Parameters(start))
        return jnp.log(hitting_time(instance, reward_level(instance, 0.8, rewards)).time[0])

    slope, curvature = jax.jit(jax.grad(time)), jax.jit(jax.hessian(time))(rewards)
    for y in range(4):
        step = 1e-4 * jnp.eye(4)[y]
        first = (time(rewards + step) - time(rewards - step)) / 2e-4
        second = (slope(rewards + step) - slope(rewards - step)) / 2e-4
        np.testing.assert_allclose(slope(rewards)[y], first, rtol=1e-5)
        np.testing.assert_allclose(curvature[y], second, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(curvature, curvature.T, rtol=1e-8)


def test_orthogonal_features_move_like_a_table_with_another_clock():
    features = np.eye(4)[None] * 3.0
    probabilities = [0.05, 0.5, 0.2, 0.25]
    rewards = [1.0, 0.3, -0.5, -1.0]
    linear = Instance(
        rewards, start=Parameters(np.log(probabilities) / 3.0 * 2.0), policy=LinearSoftmax(features, 2.0)
    )
    table = Instance(rewards, start=probabilities)
    assert is_solvable(linear)
    by_features = hitting_time(linear, reward_level(linear, 0.8))
    assert by_features.solved
    by_table = hitting_time(table, reward_level(table, 0.8))
    assert float(by_features.time[0]) == pytest.approx(float(by_table.time[0]) / (3.0 / 2.0) ** 2, rel=1e-12)
    exact = integrated_time(linear, reward_level(linear, 0.8))
    assert float(by_features.time[0]) == pytest.approx(float(exact.time[0]), rel=1e-9)
    times = np.array([1.0, 10.0])
    path = integrated_path(linear, times)
    np.testing.assert_allclose(trajectory(linear, times), path, atol=1e-8)


def orthogonal(norms: np.ndarray, owner: list[int]) -> LinearSoftmax:
    """Outputs of one prompt with one of some orthogonal features each."""
    return LinearSoftmax((np.eye(len(norms)) * norms)[None, owner], 1.5)


@pytest.mark.parametrize("start", [0.3, -4.0])
def test_orthogonal_features_of_other_norms_that_outputs_share(start):
    """Two features for four outputs, and norms up to a factor of four: with a stall, and without."""
    linear = Instance(
        [1.0, 0.2, 0.6, -1.0, 0.1],
        start=Parameters([start, 0.7, 0.5, 0.1]),
        policy=orthogonal(np.array([1.0, 2.0, 0.5, 1.3]), [0, 1, 2, 2, 3]),
    )
    assert is_solvable(linear)
    goal = reward_level(linear, 0.8)
    found, exact = hitting_time(linear, goal), integrated_time(linear, goal)
    np.testing.assert_allclose(found.time, exact.time, rtol=1e-9)
    np.testing.assert_allclose(found.log_probabilities, exact.log_probabilities, atol=1e-8)
    times = np.array([0.1, 1.0]) * found.time
    early, there = trajectory(linear, times)
    np.testing.assert_allclose(early, integrated_path(linear, times[:1])[0], atol=1e-7)
    np.testing.assert_allclose(linear.log_probabilities(there), found.log_probabilities, atol=1e-8)


def test_orthogonal_features_of_very_different_norms():
    """Norms of one to four, the least and the most that is solved, at random; many of these flows stall."""
    rng = np.random.default_rng(2)
    problems, goals = [], []
    for _ in range(40):
        norms = rng.choice([1.0, 1.5, 4.0], 4)
        rewards, start = rng.uniform(-1, 1, 4), rng.normal(size=4) * rng.choice([0.5, 2.0])
        policy = LinearSoftmax((np.eye(4) * norms)[None])
        problems.append(Instance(rewards, start=Parameters(start), policy=policy))
        goals.append(reward_level(problems[-1], rng.uniform(0.5, 0.99) * rewards.max()))
    assert all(is_solvable(problem) for problem in problems)
    found, exact = (
        hitting_times(stack(*problems), stack(*goals)),
        integrated_times(stack(*problems), stack(*goals)),
    )
    known = np.isfinite(exact.time)
    assert known.mean() > 0.8
    np.testing.assert_allclose(found.time[known], exact.time[known], rtol=1e-9)


def test_outputs_that_share_a_feature_have_the_mean_of_their_rewards():
    policy = orthogonal(np.array([1.0, 1.0]), [0, 1, 1])
    instance = Instance([0.0, 1.0, -0.4], start=Parameters([0.0, 0.0]), policy=policy)
    assert reachable(instance, 0.29)
    assert not reachable(instance, 0.31)


def reachable(instance: Instance, level: float) -> bool:
    """Whether the solved flow gets there: outputs that share a feature have the mean of their rewards."""
    status = hitting_time(instance, reward_level(instance, level)).status
    assert status[0] in (Status.REACHED, Status.OUT_OF_REACH)
    return bool(status[0] == Status.REACHED)


def test_a_compiler_and_numpy_agree():
    """Of rewards that are trained on and others; few problems are not compiled for."""
    instance = beneficial_errors()
    for goal in (reward_level(instance, 0.9), reward_level(instance, 0.1, instance.rewards)):
        found, compiled = hitting_time(instance, goal), jax.jit(hitting_time)(instance, goal)
        assert found.status == compiled.status
        np.testing.assert_allclose(found.time, compiled.time, rtol=1e-13)
        np.testing.assert_allclose(found.log_probabilities, compiled.log_probabilities, atol=1e-12)


@pytest.mark.parametrize(
    "instance",
    [
        Instance([1.0, 0.0], regularizer=Regularizer(kl=0.1)),
        Instance([1.0, 0.0], start=Parameters([0.0]), policy=LinearSoftmax([[[1.0], [-1.0]]])),
        Instance([1.0, 0.0], start=Parameters([0.0, 0.0]), policy=LinearSoftmax([[[1.0, 0.0], [0.0, 9.0]]])),
        Instance([1.0, 0.0], start=Parameters([0.0, 0.0]), policy=LinearSoftmax([[[1.0, 0.0], [0.0, 0.0]]])),
    ],
    ids=["regularised", "shared features", "norms", "no feature"],
)
def test_other_structures_are_integrated(instance):
    assert not is_solvable(instance)
    goal = Goal(instance.rewards, jnp.array([0.7]))
    assert not hitting_time(instance, goal).solved


@pytest.mark.parametrize("outputs", [1_100, 2_500, 6_000])
def test_thousands_of_outputs_overflow_nothing(outputs):
    """Against the closed form; so many factors above one make a product beyond all numbers."""
    start = np.full(outputs, (1.0 - 1e-3) / (outputs - 1))
    start[0] = 1e-3
    instance = Instance(np.eye(outputs)[0], start=start)
    found = hitting_time(instance, probability_level(instance, 0, 0.9))
    exact = one_good_output_time(1e-3, 0.9, 1.0, outputs)
    assert float(found.time[0]) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(
    ("platform", "outputs", "count", "block"),
    [("cpu", 8, 5000, 256), ("gpu", 8, 5000, 5000), ("gpu", 8, 10**6, 1 << 17), ("gpu", 6000, 10**6, 1398)],
)
def test_problems_side_by_side(monkeypatch, platform, outputs, count, block):
    """Of wide problems on an accelerator no more than find room there."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    shapes = [jax.ShapeDtypeStruct(shape, float) for shape in ((outputs, count), (count,))]
    assert solved._block(shapes) == block
