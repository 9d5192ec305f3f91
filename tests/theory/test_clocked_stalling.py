"""The correction of the stalling law under GRPO against integrals by other means."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from goodteacher.theory.clocked_stalling import grpo_correction, log_grpo_time, log_grpo_time_to_next_order

EPS = 1e-5
REWARDS = np.array([1.0, 0.6, 0.1, -0.3, 0.4])
OTHERS = np.array([0.35, 0.2, 0.3, 0.15])


def start(outputs):
    others = OTHERS[: outputs - 1] / OTHERS[: outputs - 1].sum()
    return np.append(EPS, (1.0 - EPS) * others)


def laws(p, rewards):
    arrays = jnp.log(jnp.asarray(p)), jnp.asarray(rewards)
    return float(log_grpo_time(*arrays)), float(grpo_correction(*arrays))


@pytest.mark.parametrize("outputs", [3, 4, 5])
def test_correction_against_the_integral_over_tau(outputs):
    """Of the square root of the polynomial that the lines make, with the lines as they are."""
    p, rewards = start(outputs), REWARDS[:outputs]
    gap, drops = rewards[0] - rewards[1], rewards[1] - rewards[2:]
    end = (1.0 / p[0] - 1.0 / p[1]) / gap
    lags = (1.0 / p[2:] - 1.0 / p[1]) / drops

    def integrand(share):
        tau = end * share**2
        lines = tau + lags
        square = gap**2 * lines.prod()
        square += gap * (end - tau) * sum(drops[j] * np.delete(lines, j).prod() for j in range(len(lines)))
        return 2.0 * end * share * np.sqrt(max(square, 0.0))

    integral = quad(integrand, 0.0, 1.0, epsabs=0.0, epsrel=1e-12, limit=500)[0]
    law, correction = laws(p, rewards)
    left = 0.5 * np.log(p.prod() * drops.prod()) + np.log(integral) - law
    assert abs(correction / left - 1.0) < 3e-3


def test_closed_form_of_three_outputs_with_equal_gaps():
    """With ``A = b`` the integrand is ``b`` all along: nothing is left to integrate."""
    p = start(3)
    rewards = np.array([1.0, 0.6, 0.2])
    _, correction = laws(p, rewards)
    lag = 1.0 / p[2] - 1.0 / p[1]
    np.testing.assert_allclose(correction, EPS * (lag / 2.0 - 1.5 / p[1]), rtol=1e-12)


def test_a_level_adds_the_time_of_two_outputs():
    log_p, rewards = jnp.log(jnp.asarray(start(4))), jnp.asarray(REWARDS[:4])
    half, high, low = (
        np.exp(float(log_grpo_time_to_next_order(log_p, rewards, jnp.asarray(level))))
        for level in (0.5, 0.9, 0.1)
    )
    assert half > 1e6  # of which the differences are left
    np.testing.assert_allclose([high - half, half - low], 0.8 / 0.3, rtol=1e-7)
