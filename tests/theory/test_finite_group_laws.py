"""Where finite groups take leave of large ones, beside what their statements check."""

import math

import jax.numpy as jnp
import numpy as np

import goodteacher as gt
from goodteacher.sim.clocks import Grpo
from goodteacher.theory.finite_group_laws import grpo_time, max_rl_time


def _time(start, rewards, group):
    instance = gt.Instance([rewards], start=[start]).following(Grpo(group))
    return float(gt.hitting_time(instance, gt.probability_level(instance, 0, 0.5)).time[0])


def test_the_power_changes_back_where_the_two_laws_meet():
    """At p = G / (4 (G - 1)^2) both laws are the same, and the time is above either of them."""
    group = 256
    meet = group / (4.0 * (group - 1.0) ** 2)
    rate = (group - 1.0) / math.sqrt(group)

    def grown(p):
        times = [_time([q, 1.0 - q], [1.0, 0.0], group) for q in (p, p / 1.1)]
        return math.log(times[1] / times[0]) / math.log(1.1)

    np.testing.assert_allclose(1.0 / (2.0 * rate * meet), meet**-0.5, rtol=1e-12)
    assert grown(meet * 10) < 0.6 < grown(meet) < 0.9 < grown(meet / 30)
    assert _time([meet, 1.0 - meet], [1.0, 0.0], group) > meet**-0.5


def test_rewards_between_do_not_matter_to_finite_groups():
    """A stall of three outputs: other rewards between, the same time; in the limit they do matter."""
    start = [1e-5, 0.6, 0.4 - 1e-5]
    rewards = [1.0, 0.8, 0.0], [1.0, 0.2, 0.1]
    finite = [_time(start, of, 4) for of in rewards]
    limit = [_time(start, of, math.inf) for of in rewards]
    np.testing.assert_allclose(finite[0] / finite[1], 1.0, atol=1e-3)
    assert abs(limit[0] / limit[1] - 1.0) > 0.5
    # The law, with gaps of one: pi_m pi_j / (m_1 K (K - 1) eps^2).
    np.testing.assert_allclose(finite[0], 0.6 * 0.4 / (1.5 * 6.0 * 1e-10), rtol=1e-3)


def test_what_the_way_costs_is_an_integral():
    """Of ``1 / (p (1-p))^2``, by the trapezoidal rule in log-odds."""
    odds = np.linspace(math.log(1e-3 / (1.0 - 1e-3)), math.log(9.0), 20_001)
    p = 1.0 / (1.0 + np.exp(-odds))
    spent = np.trapezoid(1.0 / (p * (1.0 - p)), odds)
    np.testing.assert_allclose(max_rl_time(jnp.asarray(1e-3), jnp.asarray(0.9), 5), spent / 8.0, rtol=1e-6)
    np.testing.assert_allclose(grpo_time(jnp.asarray(1e-3), jnp.asarray(0.9), 4), spent / 3.0, rtol=1e-6)
