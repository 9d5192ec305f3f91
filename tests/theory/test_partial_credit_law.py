"""The joint distribution of two constraints, and the limits of the law of partial credit."""

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.theory.partial_credit_law import (
    CRITICAL_ODDS_RATIO,
    critical_odds_ratio,
    joint_probabilities,
    log_ratio,
)


@pytest.mark.parametrize("odds_ratio", [0.01, 1.0, 100.0])
def test_joint_probabilities(odds_ratio):
    first, second = np.array([1e-9, 0.3, 0.8]), np.array([1e-4, 0.3, 0.4])
    both, one, other, neither = np.asarray(joint_probabilities(first, second, np.full(3, odds_ratio))).T
    np.testing.assert_allclose(both + one, first, rtol=1e-12)
    np.testing.assert_allclose(both + other, second, rtol=1e-12)
    np.testing.assert_allclose(both + one + other + neither, 1.0, rtol=1e-12)
    np.testing.assert_allclose(both * neither / (one * other), odds_ratio, rtol=1e-9)


def ratio(first, second, odds_ratio):
    start = joint_probabilities(first, second, odds_ratio)
    return np.exp(float(log_ratio(jnp.log(start)))), np.asarray(start)


@pytest.mark.parametrize("odds_ratio", [0.1, 1.0, CRITICAL_ODDS_RATIO, 100.0])
def test_equally_likely_rare_constraints(odds_ratio):
    found, _ = ratio(1e-7, 1e-7, odds_ratio)
    assert found == pytest.approx(np.pi / odds_ratio**0.5, rel=1e-4)


def test_one_constraint_much_likelier():
    found, (both, one, other, neither) = ratio(0.1, 1e-8, 1.0)
    stalled = (one - other) * neither / (3.0 * both**2)
    # The binary reward: exp(-logit) of each other output grows by the same s.
    s = np.geomspace(1e-9, 1e9, 40_001)
    z = sum(p / (1.0 + p * s) for p in (one, other, neither))
    binary = np.trapezoid(z**2 / np.prod([1.0 + p * s for p in (one, other, neither)], axis=0), s) / both
    assert found == pytest.approx(stalled / binary, rel=1e-5)


def test_where_partial_credit_begins_to_help():
    """Below pi squared, and the more so the less rare the constraints are; in the limit it is that."""
    rare = critical_odds_ratio(np.array([1e-6, 1e-3, 1e-2]))
    np.testing.assert_allclose(rare, [CRITICAL_ODDS_RATIO, 9.3027, 6.8010], rtol=1e-4)
    assert (np.diff(rare) < 0).all()
    early = critical_odds_ratio(np.array([1e-3, 5e-2, 1e-2]), 0.1)
    np.testing.assert_allclose(early, [9.2996, 3.7051, 6.6686], rtol=1e-4)
    assert critical_odds_ratio(np.array([5e-2, 5e-2, 5e-2]), 0.9)[0] == pytest.approx(2 * CRITICAL_ODDS_RATIO)
