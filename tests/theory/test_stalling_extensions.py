"""The extensions of the stalling law against the closed forms that they tend to."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import beta

from goodteacher.sim.flow import hitting_time
from goodteacher.sim.goals import probability_level
from goodteacher.sim.instance import Instance
from goodteacher.theory import stalling
from goodteacher.theory.stalling_extensions import (
    largest_kl_coefficient,
    log_escape_time,
    log_regularized_time,
    rescue_threshold,
    with_rare_best,
)

P = np.array([1e-10, 0.4, 0.1, 0.3, 0.2 - 1e-10])
R = np.array([0.9, 0.5, 0.2, -0.3, -0.8])
N = np.array([2.0, 0.8, 0.5, 1.7, 1.3])
LOG_P, REWARDS, NORMS = jnp.log(P), jnp.asarray(R), jnp.asarray(N)
ONES = jnp.ones(5)
EQUAL = jnp.log(jnp.array([1e-10, 0.25, 0.25, 0.3, 0.2 - 1e-10]))
TIED = REWARDS.at[2].set(0.5)


def near(log_time):
    return pytest.approx(float(log_time), abs=1e-6)


def test_norms_one_and_no_ties_give_the_stalling_law():
    law = stalling.log_time(LOG_P, REWARDS)
    assert float(log_escape_time(LOG_P, REWARDS, ONES)) == near(law)
    padded = jnp.append(LOG_P, -jnp.inf), jnp.append(REWARDS, 0.7)
    assert float(log_escape_time(*padded)) == near(law)
    # Its next order, too, but for what the middling output spends.
    rare = LOG_P.at[0].set(jnp.log(1e-3)), REWARDS
    beyond = float(log_escape_time(*rare, ONES) - stalling.log_time(*rare))
    assert beyond == pytest.approx(float(stalling.correction(*rare)), rel=0.05)


def test_norms_change_the_exponent():
    power = 1 + N[1] * (1 / N[2:]).sum()
    low = np.prod((N[2:] * (R[1] - R[2:]) * P[2:]) ** (N[1] / N[2:]))
    expected = beta(1 + N[1] / N[0], power) * P[1] * low / (N[0] * (R[0] - R[1]) * P[0]) ** power
    assert float(log_escape_time(LOG_P, REWARDS, NORMS)) == near(np.log(expected))


def test_ties():
    expected = P[1] * (1 - P[2] / P[1]) * np.prod((0.5 - R[3:]) * P[3:]) / (4 * 3 * (0.4 * P[0]) ** 3)
    assert float(log_escape_time(LOG_P, TIED, ONES)) == near(np.log(expected))
    # Two equally likely ones act as one of half the squared norm: the exponent is (K - 1) / 2.
    times = [log_escape_time(start, TIED, ONES) for start in (EQUAL.at[0].add(-1.0), EQUAL)]
    assert float(times[0] - times[1]) == near(2.0)


def test_near_ties_lead_from_the_one_law_to_the_other():
    def tied(apart):
        start = jnp.log(jnp.array([1e-10, 0.25 + apart, 0.25, 0.3, 0.2]))
        return float(log_escape_time(start, TIED, ONES))

    def lower(drop):
        return float(log_escape_time(EQUAL, REWARDS.at[2].set(0.5 - drop), ONES))

    for crossing in (tied, lower):
        path = [crossing(10.0**power) for power in range(-30, -1)]
        assert path[0] == near(log_escape_time(EQUAL, TIED, ONES))
        assert (np.diff(path) > -1e-6).all()
        assert path[-1] > path[0] + 5.0


def test_the_two_best_tied():
    assert log_escape_time(LOG_P, REWARDS.at[1].set(0.9), ONES) == jnp.inf


def test_nothing_overflows():
    times = [log_escape_time(LOG_P.at[0].set(log_eps), REWARDS, ONES) for log_eps in (-2000.0, -1000.0)]
    assert float(times[0] - times[1]) == pytest.approx(4000.0)


def test_no_stall_when_all_others_are_tied():
    rewards = jnp.array([0.6, -0.4, -0.4, -0.4, -0.4])
    equal = jnp.log(jnp.array([1e-10, *[0.25] * 4]))
    assert float(log_escape_time(equal, rewards, ONES)) == near(np.log(4 / 5 / 1e-10))

    def integrand(s):
        return (P[1:] / (1 + P[1:] * s)).sum() ** 2 / np.prod(1 + P[1:] * s)

    expected = np.log(quad(integrand, 0, np.inf, epsabs=0, epsrel=1e-11)[0] / P[0])
    assert float(log_escape_time(LOG_P, rewards, ONES)) == near(expected)


def test_a_middling_output_that_takes_over_late():
    """A tenth of the way: the integrand has a kink there, where nodes have to be dense."""
    start, rewards = np.array([1e-8, 1e-7, 0.6 - 1.1e-7, 0.4]), [1.0, 0.5, 0.3, -0.7]
    instance = Instance(rewards, start=start)
    time = hitting_time(instance, probability_level(instance, 0, 0.5)).time[0]
    assert float(log_escape_time(jnp.log(start), jnp.asarray(rewards))) == near(jnp.log(time))


def test_the_threshold_of_a_rescue_is_its_formula():
    mean, rewards = R[1:].mean(), REWARDS.at[0].set(0.7)
    scale = np.log(5 * (0.7 - mean) * P[0] / (4 * P[1]))
    expected = (0.5 - mean) / (float(log_escape_time(LOG_P, rewards)) + scale)
    assert float(rescue_threshold(LOG_P, rewards)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("eps", [1e-9, 0.3])
def test_a_rare_output_leaves_the_rest_to_the_others(eps):
    drawn = np.exp(with_rare_best(jnp.log(eps), jnp.log(jnp.array([7.0, 1.0, 3.0]))))
    np.testing.assert_allclose(drawn, [eps, (1 - eps) / 4, 3 * (1 - eps) / 4], rtol=1e-12)


def test_regularisation():
    kl, others = 0.05, slice(1, None)
    mean = R[others].mean()
    rest = (P[others] * np.exp((R[others] - mean) / kl)).sum()
    expected = 4 * rest / (5 * P[0] * (R[0] - mean - kl))
    assert float(log_regularized_time(LOG_P, REWARDS, kl)) == pytest.approx(np.log(expected), rel=1e-12)
    # Where m alone counts at rest, both laws are equal at the threshold.
    threshold = float(rescue_threshold(LOG_P, REWARDS))
    both = log_regularized_time(LOG_P, REWARDS, threshold), log_escape_time(LOG_P, REWARDS, ONES)
    gap = R[0] - mean
    assert float(both[0] - both[1]) == pytest.approx(-np.log(1 - threshold / gap), abs=1e-3)
    largest = float(largest_kl_coefficient(LOG_P, REWARDS))
    assert largest == pytest.approx(0.4 / np.log(0.4e10))
    assert threshold < largest
    assert largest_kl_coefficient(jnp.log(jnp.array([0.6, 0.3, 0.1])), REWARDS[:3]) == np.inf
