"""The bound on hitting times of autoregressive policies by hand."""

import jax.numpy as jnp
import numpy as np

from goodteacher.sim.autoregressive import Sequences, TokenLinear
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.theory.token_hitting_times import hitting_time_lower_bound


def test_hitting_time_bound_by_hand():
    policy = TokenLinear(Sequences(2, 2, 2), jnp.ones((2, 3, 2, 1)))
    rewards = [[0.5, 0.5, -0.5, -0.5], [0.1, 0.1, -0.1, -0.1]]

    def bound(gamma, kl=0.0):
        start, regularizer = Parameters([0.0]), Regularizer(kl=kl)
        instance = Instance(rewards, start=start, policy=policy, regularizer=regularizer)
        return float(hitting_time_lower_bound(instance, gamma, 3.0))

    root = ((0.25 + 0.01) / 2) ** (1 / 3)
    rise = 1 - np.exp(-0.9 / 9)
    np.testing.assert_allclose(bound(0.9), rise / (8 * 4 * 9 * root), rtol=1e-13)
    assert bound(0.9, kl=10.0) == bound(0.9)
    np.testing.assert_allclose(bound(0.9, kl=100.0), (1 - np.exp(-7 / 300)) / (8 * 4 * 9 * root), rtol=1e-13)
