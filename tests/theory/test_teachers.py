import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.flow import Control, hitting_times
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.theory.rankings import attainable_accuracies
from goodteacher.theory.rises import escape_times
from goodteacher.theory.teachers import (
    fast_rewards,
    fast_teacher,
    fast_teacher_kl_coefficient,
    fast_teacher_time,
    low_variance_rewards,
    low_variance_teacher,
    sharp_fast_teacher_time,
    slow_teacher_time,
)

TRUTH = np.array([0.7, 1.0, -1.0, -0.2, -0.2, 0.1])
POLICY = np.array([0.05, 0.05, 0.3, 0.2, 0.3, 0.1])
GAMMA, T, OUTPUT = 0.5, 1e3, 0
START = float(POLICY @ TRUTH)


def accuracy(rewards, truth, weights=None):
    """By its definition, over given or uniform pairs."""
    pairs = list(itertools.combinations(range(len(truth)), 2))
    w = np.array([1.0 if weights is None else weights[i, j] + weights[j, i] for i, j in pairs])
    right = [np.sign(rewards[i] - rewards[j]) == np.sign(truth[i] - truth[j]) for i, j in pairs]
    return w @ right / w.sum()


def test_teachers_of_every_attainable_accuracy():
    """Six outputs, two of them tied by the ground truth; both bounds against the flow, with lambda > 0."""
    slow_accuracies = attainable_accuracies(TRUTH)
    fast_accuracies = attainable_accuracies(TRUTH, ranked_first=OUTPUT, strictly=True)
    assert slow_accuracies[-1] == 1.0
    assert 0.2 <= fast_accuracies[0] < 0.3
    slow = np.array([low_variance_teacher(a, TRUTH, T) for a in slow_accuracies])
    fast = np.array([fast_teacher(a, TRUTH, POLICY, OUTPUT, GAMMA) for a in fast_accuracies])
    for rewards, asked in ((slow, slow_accuracies), (fast, fast_accuracies)):
        assert [accuracy(r, TRUTH) for r in rewards] == pytest.approx(asked, abs=1e-12)
    assert ((slow > 0) & (slow < 1 / T)).all()
    assert (fast[:, OUTPUT] == 1).all()
    rest = np.delete(fast, OUTPUT, axis=1)
    assert ((rest > 0) & (rest < POLICY[OUTPUT])).all()

    plain = Instance(TRUTH, start=POLICY)
    kl = float(fast_teacher_kl_coefficient(plain, GAMMA, OUTPUT)[0])

    def instance(rewards):
        return Instance(rewards, TRUTH, start=POLICY, regularizer=Regularizer(kl=kl))

    instances = jax.vmap(instance)(jnp.concatenate([slow, fast]))
    goals = jax.vmap(lambda i: reward_increase(i, GAMMA))(instances)
    lower, upper = (
        float(time[0])
        for time in (slow_teacher_time(plain, GAMMA, T), fast_teacher_time(plain, GAMMA, OUTPUT))
    )
    horizon = 1e2 * lower + 2 * upper
    times = hitting_times(instances, goals, Control(tolerance=1e-6, horizon=horizon)).time[:, 0]
    assert (times[: len(slow)] >= lower).all()
    assert (times[len(slow) :] <= upper).all()


def test_bounds_are_their_formulas():
    weights = np.array([0.25, 0.75])
    instance = Instance([TRUTH] * 2, start=[POLICY] * 2, prompt_weights=weights)
    rho = (START + GAMMA + 1) / (TRUTH[OUTPUT] + 1)
    np.testing.assert_allclose(
        slow_teacher_time(instance, GAMMA, T), 2 / weights * (1 - np.exp(-GAMMA / 2)) * T, rtol=1e-13
    )
    np.testing.assert_allclose(
        fast_teacher_time(instance, GAMMA, OUTPUT),
        4 / weights / (1 - rho) ** 4 * (1 / POLICY[OUTPUT] - 1 / rho),
        rtol=1e-13,
    )
    np.testing.assert_allclose(
        fast_teacher_kl_coefficient(instance, GAMMA, OUTPUT),
        POLICY[OUTPUT] * (1 - rho) ** 4 / (8 * (1 / (2 * np.e) + 2 * np.log(1 / POLICY.min()))),
        rtol=1e-13,
    )
    p = POLICY[OUTPUT]
    odds = np.linspace(np.log(p / (1 - p)), np.log(rho / (1 - rho)), 20_001)
    spent = np.trapezoid(2 + 2 * np.cosh(odds), odds)  # of 1 / (q (1-q))^2
    np.testing.assert_allclose(
        sharp_fast_teacher_time(instance, GAMMA, OUTPUT), spent / (1 - p) / weights, rtol=1e-6
    )


def test_rewards_of_teachers_are_evenly_spaced():
    levels = jnp.array([2, 0, 1])
    np.testing.assert_allclose(low_variance_rewards(levels, 2.0), np.array([3, 1, 2]) / 8, rtol=1e-15)
    fast = fast_rewards(levels, 0, jnp.asarray(0.4))
    np.testing.assert_allclose(fast, [1.0, 0.1, 0.2], rtol=1e-15)


def test_given_pairs():
    """Only the pairs of the first output count: to be wrong about all of them and first is impossible."""
    weights = np.zeros((6, 6))
    weights[0, 1:] = np.arange(1.0, 6.0)
    slow = low_variance_teacher(1 / 3, TRUTH, T, pair_weights=weights)
    assert accuracy(np.asarray(slow), TRUTH, weights) == pytest.approx(1 / 3, abs=1e-12)
    fast = fast_teacher(14 / 15, TRUTH, POLICY, OUTPUT, GAMMA, pair_weights=weights)
    assert accuracy(np.asarray(fast), TRUTH, weights) == pytest.approx(14 / 15, abs=1e-12)
    with pytest.raises(ValueError, match=r"accuracy 0\.0 is not attainable .*; nearest to it is 0\.9333"):
        fast_teacher(0.0, TRUTH, POLICY, OUTPUT, GAMMA, pair_weights=weights)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("gamma is 0.0; an increase of a reward", {"gamma": 0.0}),
        ("gamma is nan", {"gamma": float("nan")}),
        ("gamma is 2.5", {"gamma": 2.5}),
        (
            "output 5 has ground truth reward 0.1, which must exceed that of the policy plus gamma",
            {"output": 5},
        ),
        ("output 0 has ground truth reward 0.7, which must exceed", {"gamma": 1.5}),
        ("ranked_first is 6; give an output from 0 to 5", {"output": 6}),
        (r"accuracy 0\.01 is not attainable with output 0 ranked first alone; nearest", {"accuracy": 0.01}),
        ("accuracy is -1.0", {"accuracy": -1.0}),
        (r"initial_policy_probabilities\[0\] sums to 2", {"initial_policy_probabilities": 2 * POLICY}),
        ("ground_truth_rewards reach 2.0; scale them", {"ground_truth_rewards": 2 * TRUTH}),
    ],
)
def test_fast_teacher_refuses(message, change):
    arguments = {
        "accuracy": 1 / 3,
        "ground_truth_rewards": TRUTH,
        "initial_policy_probabilities": POLICY,
        "output": OUTPUT,
        "gamma": GAMMA,
    }
    with pytest.raises(ValueError, match=message):
        fast_teacher(**(arguments | change))


@pytest.mark.parametrize("slowness", [0.5, float("inf"), float("nan")])
def test_low_variance_teacher_refuses(slowness):
    with pytest.raises(ValueError, match=f"T is {slowness}; give a finite number of at least 1"):
        low_variance_teacher(1.0, TRUTH, slowness)


def test_with_a_tie_at_the_top_no_fast_teacher_need_exist():
    """Two outputs and accuracy 0: ranked first with a tie, whereupon the flow stands still."""
    instance = Instance([0.3, 0.3], [1.0, -1.0])
    assert attainable_accuracies([1.0, -1.0], ranked_first=0).tolist() == [0.0, 1.0]
    goals = reward_increase(instance, 0.5)
    batch = jax.tree.map(lambda leaf: leaf[None], (instance, goals))
    assert escape_times(*batch, control=Control(horizon=1e10))[0] == np.inf
    assert np.isfinite(fast_teacher_time(instance, 0.5, 0)[0])
    with pytest.raises(ValueError, match=r"ranked first alone; nearest to it is 1\.0"):
        fast_teacher(0.0, [1.0, -1.0], [0.5, 0.5], 0, 0.5)
