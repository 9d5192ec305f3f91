"""Estimates of many draws and of few, beside what the statements of ``theory/draw_estimates.py`` check."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodteacher.sim import estimates
from goodteacher.sim.flow import final_policy
from goodteacher.sim.instance import Instance, Parameters, Regularizer

LEVELS = st.integers(-2, 2).map(float)


@st.composite
def populations(draw):
    """Probabilities, rewards and truths of three outputs; few levels, so that there are ties."""
    weights = np.array(draw(st.lists(st.integers(1, 5), min_size=3, max_size=3)), float)
    rewards, truth = (np.array(draw(st.lists(LEVELS, min_size=3, max_size=3))) for _ in range(2))
    return weights / weights.sum(), rewards, truth


@given(populations(), st.sampled_from([2, 8, 50]))
def test_large_groups_of_many_draws(population, group):
    """Draws that are the whole population, in groups without replacement up to all of them."""
    p, r, g = population
    counts = np.rint(p * 15 * 14).astype(int)
    rs, gs = np.repeat(r, counts)[None], np.repeat(g, counts)[None]
    mask = np.ones(rs.shape, bool)
    n = rs.shape[1]
    flat = sum(math.comb(int(counts[r == value].sum()), group) for value in np.unique(r))
    share = estimates.share_with_spread(rs, mask, group)[0]
    assert share == pytest.approx(1 - flat / math.comb(n, group), abs=1e-12)
    assert estimates.best_of(rs, gs, mask, n)[0] == pytest.approx(g[r == r.max()] @ _shares(counts, r))


def _shares(counts, rewards):
    of_best = counts[rewards == rewards.max()]
    return of_best / of_best.sum()


def test_thousands_of_draws_beside_few_are_exact():
    """Beside exact fractions; of places that are filled up nothing overflows."""
    rng = np.random.default_rng(0)
    r = rng.permuted(np.tile(np.arange(2100.0) // 2, (3, 1)), axis=1)  # in ties of two
    g = np.where(rng.random(r.shape) < 0.9, 1.0, 0.0)
    mask = np.arange(2100) < np.array([2100, 1100, 3])[:, None]
    for group in (2, 700, 1024, 2048):
        best = estimates.best_of(r, g, mask, group)
        spread = estimates.share_with_spread(g, mask, group)
        for i, m in enumerate(mask):
            n = int(m.sum())
            if n < group:
                assert np.isnan([best[i], spread[i]]).all()
                continue
            all_groups, truth, rewards = math.comb(n, group), g[i][m], r[i][m]
            flat = sum(math.comb(int((truth == value).sum()), group) for value in (0, 1))
            assert spread[i] == pytest.approx(float(1 - Fraction(flat, all_groups)), rel=1e-11, abs=1e-15)
            expected, below = Fraction(0), 0
            for value in np.unique(rewards):
                tied = truth[rewards == value]
                upto = below + len(tied)
                share = Fraction(math.comb(upto, group) - math.comb(below, group), all_groups)
                expected += share * Fraction(int(tied.sum()), len(tied))
                below = upto
            assert best[i] == pytest.approx(float(expected), rel=1e-11)


def test_too_few_draws_are_not_a_number():
    r, mask = np.array([[1.0, 2.0, 3.0]]), np.array([[True, False, False]])
    for value in (
        estimates.variance(r, mask),
        estimates.pairs(r, r, mask).right,
        estimates.share_with_spread(r, mask, 2),
        estimates.best_of(r, r, mask, 2),
    ):
        assert np.isnan(value).all()
    assert estimates.mean(r, mask) == 1.0


def test_a_tie_of_the_truth_is_right_only_by_a_tie():
    """One right output of ten, ranked first by the reward: 0.2 of all pairs, and all that are told apart."""
    truth = np.eye(10)[:1]
    rewards = truth + 1e-3 * np.arange(10)
    pairs = estimates.pairs(rewards, truth, np.ones((1, 10), bool))
    assert pairs.right == pytest.approx(0.2)
    assert pairs.right_decided / pairs.decided == pytest.approx(1.0)
    exact_ties = estimates.pairs(truth, truth, np.ones((1, 10), bool))
    assert exact_ties.right == pytest.approx(1.0)


def test_what_is_below_the_mean_does_no_harm():
    rewards, truth = np.array([[0.0, 1.0, -5.0, 4.0]]), np.array([[1.0, 0.0, 0.5, 2.0]])
    pairs = estimates.pairs(rewards, truth, np.ones((1, 4), bool))
    # Outputs 0 and 2 are better than output 1, which has more and is above the mean of zero.
    assert pairs.harmless / pairs.decided == pytest.approx(4 / 6)
    low = np.array([[-1.0, -0.5, -5.0, 6.5]])
    assert estimates.pairs(low, truth, np.ones((1, 4), bool)).harmless == pytest.approx(1.0)


def test_the_tilt_is_where_a_regularized_flow_comes_to_rest():
    p, r = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.5, -1.0])
    instance = Instance(r, start=Parameters(np.log(p)[None]), regularizer=Regularizer(kl=0.5))
    rest, _ = jax.device_get(final_policy(instance))
    np.testing.assert_allclose(
        estimates.tilt(np.log(p)[None], r[None], np.array([2.0])).log_probabilities, rest, atol=1e-6
    )


def test_outputs_that_do_not_exist_have_no_share_of_a_tilt():
    log_p = np.array([[np.log(0.5), np.log(0.5), -np.inf]])
    tilted = estimates.tilt(log_p, np.array([[0.0, 1.0, 99.0]]), np.array([3.0]), np.array([[4, 4, 0]]))
    p = np.exp(tilted.log_probabilities[0])
    np.testing.assert_allclose(p, [1 / (1 + np.e**3), 1 / (1 + np.e**-3), 0.0])
    assert tilted.effective_size[0] == pytest.approx(4 / (p**2).sum())


@given(st.integers(1, 1000), st.floats(0.5, 0.999))
def test_the_bound_of_what_was_never_drawn(draws, confidence):
    bound = estimates.unseen_probability(np.array(float(draws)), confidence)
    assert (1 - bound) ** draws == pytest.approx(1 - confidence)


def test_first_crossing():
    grid = np.linspace(0.0, 4.0, 41)
    centre, width = np.array([1.0, 2.0, 9.0, 0.0]), np.array([0.3, 0.7, 1.0, 0.5])
    found = estimates.first_crossing(lambda i, x: width[i] - np.abs(x - centre[i]), 4, grid)
    np.testing.assert_allclose(found, [0.7, 1.3, np.inf, 0.0])
