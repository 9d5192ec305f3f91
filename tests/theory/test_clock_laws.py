"""Clocks beyond their statements: the same path, another one with shared parameters, and misleading noise."""

import math

import jax
import numpy as np
import pytest

import goodteacher as gt
from goodteacher.sim.clocks import ColdStart, Gradient, Grpo
from goodteacher.sim.instance import Instance, verified
from goodteacher.sim.objective import gradient
from goodteacher.theory.clock_laws import fixed_point_log_odds


def ratio(instance, clock):
    """The field under a clock over that of the gradient, by parameter."""
    start = instance.initial_parameters
    return np.asarray(gradient(instance.following(clock), start) / gradient(instance, start))


def test_tabular_policies_keep_their_path_and_shared_parameters_do_not():
    rewards = [[1.0, 0.5, 0.0], [0.2, 0.9, 0.1]]
    start = [[0.1, 0.3, 0.6], [0.4, 0.2, 0.4]]
    tabular = ratio(Instance(rewards, start=start), Grpo())
    np.testing.assert_allclose(tabular, np.repeat(tabular[:, :1], 3, axis=1), rtol=1e-12)
    assert abs(tabular[0, 0] / tabular[1, 0] - 1.0) > 0.01  # every prompt has its own clock
    features = [[[1.0, 0.3], [0.0, 1.0], [-1.0, 0.5]], [[0.2, -0.4], [0.7, 0.1], [0.0, 0.9]]]
    shared = Instance(rewards, start=gt.Parameters([0.3, -0.2]), policy=gt.LinearSoftmax(features))
    assert np.ptp(ratio(shared, Grpo())) > 0.01


def test_policies_at_a_goal_are_the_same():
    instance = Instance([[1.0, 0.6, 0.0]], start=[[1e-3, 0.9, 0.099]])
    goal = gt.reward_level(instance, 0.9, instance.rewards)
    plain, clocked = (gt.hitting_time(one, goal) for one in (instance, instance.following(Grpo(epsilon=0.1))))
    np.testing.assert_allclose(plain.log_probabilities, clocked.log_probabilities, atol=1e-13)
    assert abs(float(plain.time[0] / clocked.time[0]) - 1.0) > 0.1


@pytest.mark.parametrize("clock", [Gradient(), Grpo(), Grpo(8, 1e-4)], ids=lambda clock: clock.title)
def test_a_verifier_that_tells_nothing_or_lies_never_teaches(clock):
    truth = [[1, 1, 0, 0]]
    start = [[0.05, 0.05, 0.5, 0.4]]
    for rates, status in (((0.5, 0.5), gt.Status.NO_SIGNAL), ((0.5, 0.6), gt.Status.OPTIMUM)):
        rewards, variances = verified(truth, *rates)
        noisy = Instance(rewards, truth, start, reward_variances=variances).following(clock)
        found = gt.hitting_time(noisy, gt.reward_increase(noisy, 0.5))
        assert math.isinf(found.time[0])
        assert found.status[0] == status


def test_the_cold_start_of_a_paper():
    """arXiv:2604.25907: the gradient needs 1/p to leave it, maximum likelihood ln 1/p."""
    for p, expected in ((1e-2, 54.090069345084075), (1e-4, 5008.710190361975), (1e-16, 5000000000000037.0)):
        instance = Instance([[1.0, 0.0]], start=[[p, 1.0 - p]])
        goal = gt.probability_level(instance, 0, 0.5)
        np.testing.assert_allclose(gt.hitting_time(instance, goal).time[0], expected, rtol=1e-12)
        likely = gt.hitting_time(instance.following(ColdStart(1.0)), goal).time[0]
        np.testing.assert_allclose(
            likely, 0.5 * (2.0 - 1.0 / (1.0 - p) - math.log(p / (1.0 - p))), rtol=1e-12
        )


@pytest.mark.parametrize("kl", [1e-3, 0.1, 10.0])
def test_the_fixed_point_of_groups_of_two(kl):
    """Rewards 0 and 1, one of each: weights of 1/2 over the deviation, a root of 1/2, whatever the policy."""
    found = jax.jit(lambda kl: fixed_point_log_odds(0.3, kl, Grpo(2, epsilon=0.2)))(kl)
    assert found == pytest.approx(math.log(0.3 / 0.7) + 0.5 / (math.sqrt(0.5) + 0.2) / kl)
