"""Every estimator is unbiased: its expectation over all possible draws of a small population is exact."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodteacher.sim import estimates
from goodteacher.sim.flow import final_policy
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import product_accuracy, reward_variance
from goodteacher.theory.closed_forms import kl_optimum, natural_gradient_flow

DRAWS = 4
LEVELS = st.integers(-2, 2).map(float)


@st.composite
def populations(draw):
    """Probabilities, rewards and truths of three outputs; few levels, so that there are ties."""
    weights = np.array(draw(st.lists(st.integers(1, 5), min_size=3, max_size=3)), float)
    rewards, truth = (np.array(draw(st.lists(LEVELS, min_size=3, max_size=3))) for _ in range(2))
    return weights / weights.sum(), rewards, truth


def every_sample(population, draws=DRAWS):
    """All samples of a population, and the probability of each."""
    p, rewards, truth = population
    chosen = np.array(list(itertools.product(range(len(p)), repeat=draws)))
    return p[chosen].prod(1), rewards[chosen], truth[chosen], np.ones(chosen.shape, bool)


def expectation(population, estimate, draws=DRAWS):
    """Of an estimate over all samples; the last of five places of a row is no draw."""
    chance, r, g, mask = every_sample(population, draws)
    padded = [np.pad(of, ((0, 0), (0, 1)), constant_values=7) for of in (r, g)]
    return chance @ estimate(*padded, np.pad(mask, ((0, 0), (0, 1))))


def exact_pairs(population):
    """Shares of independent pairs, by summing over all of them."""
    p, r, g = population
    weight = p[:, None] * p
    signs = [np.sign(of[:, None] - of) for of in (r, g)]
    right, decided = signs[0] == signs[1], signs[1] != 0
    return {
        "right": (weight * right).sum(),
        "decided": (weight * decided).sum(),
        "right_decided": (weight * (right & decided)).sum(),
    }


def exact_best_of(population, number):
    """Ground truth of the best of a sample, by summing over all samples; ties share."""
    chance, r, g, _ = every_sample(population, number)
    best = r == r.max(1, keepdims=True)
    return chance @ ((best * g).sum(1) / best.sum(1))


def exact(population):
    """What each estimator estimates, and the estimator."""
    p, r, g = population
    means = p @ r, p @ g
    found = {
        "mean": (p @ r, lambda r, g, m: estimates.mean(r, m)),
        "variance": (p @ r**2 - means[0] ** 2, lambda r, g, m: estimates.variance(r, m)),
        "covariance": (p @ (r * g) - means[0] * means[1], estimates.covariance),
    }
    for name, value in exact_pairs(population).items():
        found[name] = value, lambda r, g, m, name=name: getattr(estimates.pairs(r, g, m), name)
    values = np.unique(r)
    for group in (2, 3, DRAWS):
        flat = sum(p[r == value].sum() ** group for value in values)
        found[f"spread {group}"] = (
            1 - flat,
            lambda r, g, m, group=group: estimates.share_with_spread(r, m, group),
        )
        best = exact_best_of(population, group)
        found[f"best of {group}"] = (best, lambda r, g, m, n=group: estimates.best_of(r, g, m, n))
    return found


@given(populations())
def test_estimators_are_unbiased(population):
    for name, (value, estimate) in exact(population).items():
        assert expectation(population, estimate) == pytest.approx(value, abs=1e-12), name


SKEWED = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0])


def plug_in(r, g, m):
    return estimates.variance(r, m) * (m.sum(-1) - 1) / m.sum(-1)


def pairs_with_themselves(r, g, m):
    n = m.sum(-1)
    return (estimates.pairs(r, g, m).right * n * (n - 1) + n) / n**2


def pooled_spread(r, g, m):
    shares = np.stack([((r == value) & m).sum(-1) / m.sum(-1) for value in (1.0, 0.0, -1.0)])
    return 1 - (shares**3).sum(0)


def best_with_replacement(r, g, m):
    shares = [((np.arange(1, 5) / 4) ** 3 - (np.arange(4) / 4) ** 3)] * len(r)
    order = np.argsort(-np.where(m, -r, -np.inf), axis=-1)[:, :4]
    return (np.take_along_axis(g, order, 1) * shares).sum(1)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("variance", plug_in),
        ("covariance", lambda r, g, m: estimates.covariance(r, g, m) * 3 / 4),
        ("right", pairs_with_themselves),
        ("right_decided", lambda r, g, m: estimates.pairs(r, g, m).right_decided / 2),
        ("spread 3", pooled_spread),
        ("best of 3", best_with_replacement),
        ("mean", lambda r, g, m: np.where(m, r, 0).sum(-1) / m.shape[-1]),
    ],
)
def test_biased_ones_are_caught(name, wrong):
    value = exact(SKEWED)[name][0]
    assert abs(expectation(SKEWED, wrong) - value) > 1e-3


@given(populations())
def test_draws_that_are_the_whole_population_give_its_exact_values(population):
    """Every output as often as its probability says: pairs that differ, and groups without replacement."""
    p, r, g = population
    counts = np.rint(p * 15 * 14).astype(int)
    weights = counts / counts.sum()
    rs, gs = np.repeat(r, counts)[None], np.repeat(g, counts)[None]
    mask = np.ones(rs.shape, bool)
    n = rs.shape[1]
    shrink = (n - 1) / n
    assert estimates.variance(rs, mask)[0] * shrink == pytest.approx(
        float(reward_variance(jnp.asarray(weights), jnp.asarray(r)))
    )
    by_output = product_accuracy(*map(jnp.asarray, (rs[0], gs[0], np.ones(n))))
    assert estimates.pairs(rs, gs, mask).right[0] == pytest.approx(float(by_output))
    groups = math.comb(n, 2)
    flat = sum(math.comb(int(counts[r == value].sum()), 2) for value in np.unique(r))
    assert estimates.share_with_spread(rs, mask, 2)[0] == pytest.approx(1 - flat / groups)
    assert estimates.best_of(rs, gs, mask, n)[0] == pytest.approx(g[r == r.max()] @ _shares(counts, r))


def _shares(counts, rewards):
    of_best = counts[rewards == rewards.max()]
    return of_best / of_best.sum()


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


@given(populations(), st.floats(0.01, 20.0))
def test_the_tilt_is_the_natural_gradient_flow_and_the_kl_optimum(population, tau):
    p, r, _ = population
    tilted = estimates.tilt(np.log(p)[None], r[None], np.array([tau]))
    log_p = tilted.log_probabilities[0]
    np.testing.assert_allclose(
        log_p, natural_gradient_flow(*map(jnp.asarray, (np.log(p), r, tau))), atol=1e-9
    )
    np.testing.assert_allclose(log_p, kl_optimum(*map(jnp.asarray, (np.log(p), r, 1.0 / tau))), atol=1e-9)
    q = np.exp(log_p)
    divergence = tau * (q @ r) - np.log(p @ np.exp(tau * r))
    assert tilted.kl[0] == pytest.approx(divergence, abs=1e-9)
    assert tilted.effective_size[0] == pytest.approx(1 / (q**2).sum())


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
