"""Stale samples, against the numbers of arXiv:2609.36945, Figure 2."""

import jax
import numpy as np
import pytest

import goodteacher as gt
from goodteacher.sim.objective import gradient
from goodteacher.sim.reuse import reuse, stale_gradient

THREE = gt.Instance([[1.0, 0.9, 0.89]], start=[[0.0005, 0.1, 0.8995]])
_SECOND = 0.052647455953625015
TEN = gt.Instance([[1.0, 0.7, *[0.3] * 8]], start=[[0.01, _SECOND, *[(0.99 - _SECOND) / 8] * 8]])


def test_published_numbers():
    once = reuse(THREE, 0.96, learning_rate=0.5, reuses=1, updates=10**6)
    assert int(once.update) == 106_375
    flow = gt.hitting_time(THREE, gt.reward_level(THREE, 0.96)).time[0]
    np.testing.assert_allclose(flow, 53183.73009, rtol=1e-9)
    # Seen at the refreshes alone, that is after 26 batches of 64.
    often = reuse(TEN, 0.95, learning_rate=0.5, reuses=64, updates=10**4)
    assert -(-int(often.update) // 64) * 64 == 1_664
    slow = gt.hitting_time(TEN, gt.reward_level(TEN, 0.95)).time[0]
    np.testing.assert_allclose(slow, 30396869.118, rtol=1e-8)


def test_fresh_samples_are_the_gradient_and_stale_ones_are_not():
    log_p, rewards = THREE.log_probabilities(THREE.initial_parameters)[0], THREE.rewards[0]
    plain = np.asarray(gradient(THREE, THREE.initial_parameters))[0]
    for clip in (None, 0.2):
        np.testing.assert_allclose(stale_gradient(log_p, log_p, rewards, clip), plain, atol=1e-15)
    moved = jax.device_put(np.log([0.1, 0.2, 0.7]))
    assert np.asarray(stale_gradient(moved, log_p, rewards)).min() < -0.01
    # All ratios are beyond the clip, in the directions asked for: nothing is pushed any further.
    np.testing.assert_array_equal(stale_gradient(moved, log_p, rewards, 0.2), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reuses": 0}, "reuses is 0; give a positive number"),
        ({"learning_rate": -0.5}, "learning_rate is -0.5"),
        ({"clip": 1.5}, "clip is 1.5; give a number between 0 and 1"),
    ],
)
def test_bad_input(change, message):
    given = {"learning_rate": 0.5, "reuses": 1, "updates": 10} | change
    with pytest.raises(ValueError, match=message):
        reuse(THREE, 0.96, **given)


def test_powers_with_fresh_samples_and_with_batches_that_are_used_up():
    """arXiv:2609.36945: 1/eps^(K-1) updates at S = 1, and (1/eps) ln(1/eps) at S of the order of 1/eps."""

    def updates(eps, reuses):
        instance = gt.Instance([[1.0, 0.5, 0.1]], start=[[eps, 0.5, 0.5 - eps]])
        return int(reuse(instance, 0.75, learning_rate=0.5, reuses=reuses, updates=10**6).update)

    fresh = [updates(eps, 1) for eps in (2e-3, 1e-3)]
    used = [updates(eps, round(8.0 / eps)) for eps in (2e-3, 1e-3)]
    np.testing.assert_allclose(np.log2(fresh[1] / fresh[0]), 2.0, atol=0.02)
    expected = 2.0 * np.log(0.5 / 1e-3) / np.log(0.5 / 2e-3)
    np.testing.assert_allclose(used[1] / used[0], expected, rtol=0.05)
    assert abs(used[1] / used[0] / 2.0 - 1.0) > 0.05  # the logarithm is there
