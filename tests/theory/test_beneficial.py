"""Beneficial errors: public functions against independent formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.theory.beneficial import ideal_proxy, ideal_proxy_kl_limit, ideal_proxy_time_bound, log_gain

LOG_P = jnp.log(jnp.array([1e-9, 0.4, 0.1, 0.3, 0.2 - 1e-9]))
REWARDS = jnp.array([0.9, 0.5, 0.2, -0.3, -0.8])


def test_bound_of_the_ideal_proxy():
    assert ideal_proxy(REWARDS).tolist() == [1, -1, -1, -1, -1]
    rho, eps = (0.3 + 1) / (0.9 + 1), 0.01
    delta = (1 - rho) * (1 - (2 * eps - 1))
    bound = 4 * 3 / ((1 - rho) * delta) * (1 / eps - 1 / rho)
    assert float(ideal_proxy_time_bound(eps, 0.9, 0.3, prompts=3)) == pytest.approx(bound)
    limit = eps * (1 - rho) * delta / (8 * (2 * np.log(1 / 1e-3) + 1 / (2 * np.e)))
    assert float(ideal_proxy_kl_limit(eps, 1e-3, 0.9, 0.3)) == pytest.approx(limit)


def test_an_error_gains_a_power_only_if_it_leaves_nothing_in_its_place():
    def power(truth, proxy):
        gains = [
            log_gain(start, jnp.asarray(truth), jnp.asarray(proxy)) for start in (LOG_P, LOG_P.at[0].add(-1))
        ]
        return float(gains[1] - gains[0])

    flat = [0.9, 0.5, -0.8, -0.8, -0.8]
    assert power(flat, [0.9, *[-0.8] * 4]) == pytest.approx(3.0, abs=1e-6)
    assert power(REWARDS, [0.9, -0.8, *REWARDS[2:]]) == pytest.approx(0.0, abs=1e-6)
