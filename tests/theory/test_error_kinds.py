import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.flow import hitting_time
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import expected_reward
from goodteacher.theory import error_kinds as errors
from goodteacher.theory.error_kinds import (
    Category,
    Thresholds,
    categories,
    effects,
    shapley,
    shares,
    trained_on,
    trials,
)
from goodteacher.theory.logit_velocity import below_value

POLICY = [0.05, 0.5, 0.15, 0.15, 0.15]
TRUTH = [1.0, 0.8, -1.0, -1.0, -1.0]


def problem(rewards, policy=POLICY, truth=TRUTH):
    return Instance(rewards, truth, start=policy)


@pytest.mark.parametrize(
    ("output", "reward", "expected"),
    [
        (2, -1.0, Category.NONE),
        (2, 1.5, Category.HARMFUL_I),  # reward hacking
        (2, 0.6, Category.HARMFUL_II),  # above V_P(0), below y*
        (2, -0.6, Category.BENIGN_I),  # V_P(0) is about 0
        (1, -1.0, Category.BENEFICIAL),
        (1, 0.4, Category.BENEFICIAL),  # underrated above the line: less in the way
        (1, 0.9, Category.HARMFUL_II),
        (1, 1.0, Category.HARMFUL_I),
        (0, 1.5, Category.BENEFICIAL),
        (0, 0.9, Category.HARMFUL_II),
        (0, 0.7, Category.HARMFUL_I),  # another output is better by the proxy
    ],
)
def test_rule(output, reward, expected):
    rewards = [reward if y == output else r for y, r in enumerate(TRUTH)]
    found = categories(problem(rewards))[0]
    assert Category(int(found[output])) == expected
    assert (np.delete(found, output) == Category.NONE).all()


def test_thresholds_change_the_rule():
    hacked = problem([1.0, 0.8, 0.9, -1.0, -1.0])
    assert categories(hacked)[0, 2] == Category.HARMFUL_II
    assert categories(hacked, Thresholds(high=0.8))[0, 2] == Category.HARMFUL_I
    rare = problem([1.0, 0.8, 0.9, -1.0, -1.0], [0.05, 0.5, 1e-4, 0.2, 0.2499])
    assert categories(rare)[0, 2] == Category.BENIGN_II
    assert categories(rare, Thresholds(negligible=1e-3))[0, 2] == Category.HARMFUL_II
    assert categories(problem([1.0, -1.0, -1.0, -1.0, -1.0]), Thresholds(low=0.93))[0, 1] == Category.BENIGN_I
    assert categories(hacked, Thresholds(error=2.0))[0, 2] == Category.NONE


@pytest.mark.parametrize("reward", [0.9, 0.1])
def test_no_rounding_puts_equal_rewards_below_their_mean(reward):
    """Then what is underrated is beneficial, and what is overrated is harmful."""
    policies = np.random.default_rng(0).dirichlet(np.ones(7), 20)
    truth = np.tile(np.r_[1.0, np.linspace(-1.0, 0.95, 6)], (20, 1))
    flat = problem(np.full((20, 7), reward), policies, truth)
    start = flat.probabilities(flat.initial_parameters)
    assert (flat.rewards < expected_reward(start, flat.rewards)[:, None]).any()  # that is why
    assert not below_value(flat).any()
    codes = categories(flat, Thresholds(negligible=0.0))[:, 1:]
    np.testing.assert_array_equal(
        codes, np.where(truth[:, 1:] < reward, Category.HARMFUL_I, Category.BENEFICIAL)
    )
    # An output that is truly below, by the least that there is, is found.
    nudged = problem(np.full(7, reward) - np.spacing(reward) * (np.arange(7) == 1), policies[0], truth[0])
    assert below_value(nudged).tolist() == [[False, True] + [False] * 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 0.96}, "thresholds are out of order: low is 0.96 and high 0.95"),
        ({"low": math.nan}, "out of order"),
        ({"negligible": -1.0}, "negligible is -1.0; give a multiple"),
        ({"error": 0.0}, "error is 0.0; give a positive difference"),
    ],
)
def test_bad_thresholds(given, message):
    with pytest.raises(ValueError, match=message):
        Thresholds(**given)


def test_rule_is_vectorised_over_prompts_and_instances():
    rows = jnp.array([[[1.0, -1.0, -1.0, -1.0, -1.0], [1.0, 0.8, 1.5, -1.0, 0.6]]] * 2)
    instance = Instance(rows[0], [TRUTH] * 2, start=[POLICY] * 2)
    batch = jax.vmap(lambda row: trained_on(instance, row))(rows)
    found = jax.jit(jax.vmap(categories))(batch)
    for codes in found:
        for prompt in range(2):
            np.testing.assert_array_equal(codes[prompt], categories(problem(rows[0, prompt]))[0])


def test_effects_are_hitting_times_of_corrected_proxies():
    """A beneficial error, reward hacking, and a problem in which correcting one of two does not help."""
    rows = [[1.0, -1.0, -1.0, -1.0, -1.0], [1.0, 0.8, 1.5, -1.0, -1.0], [1.0, 0.8, 1.5, 1.5, -1.0]]
    instance = Instance(rows, [TRUTH] * 3, start=[POLICY] * 3)
    goal = errors.most_of_the_way(instance)
    found = effects(instance, goal)
    assert found.errors.tolist() == [[0, 1], [1, 2], [2, 2], [2, 3]]
    truth = Instance([TRUTH] * 3, start=[POLICY] * 3)
    proxy, corrected = (hitting_time(i, goal).time for i in (instance, truth))
    np.testing.assert_allclose(found.time, proxy, rtol=1e-8)
    np.testing.assert_allclose(found.log_ratio[0], np.log10(proxy[0] / corrected[0]), rtol=1e-8)
    assert found.log_ratio[0] < -3
    assert found.log_ratio[1] == np.inf
    np.testing.assert_allclose(found.corrected_time[1], corrected[1], rtol=1e-8)
    assert np.isnan(found.log_ratio[2:]).all()
    np.testing.assert_allclose(found.reward, [1.0, -1.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(found.reward_change, [0.0, -2.0, 0.0, 0.0], atol=1e-6)

    # All subsets: two overrated outputs each make the goal unreachable; together no more than alone.
    shared = shares(instance, 2, goal)
    together = math.log10(errors.HORIZON) - math.log10(float(corrected[2]))
    assert shared.outputs.tolist() == [2, 3]
    np.testing.assert_allclose(shared.values, [together / 2] * 2, rtol=1e-9)
    np.testing.assert_allclose(shared.interactions, [[0, -together], [-together, 0]], rtol=1e-9)


def test_shapley_values_are_averages_over_orders():
    worth = np.random.default_rng(0).normal(size=(2,) * 4)
    values, interactions = shapley(worth)
    by_orders = np.zeros(4)
    for order in itertools.permutations(range(4)):
        present = [0] * 4
        for player in order:
            before = worth[tuple(present)]
            present[player] = 1
            by_orders[player] += (worth[tuple(present)] - before) / math.factorial(4)
    np.testing.assert_allclose(values, by_orders, rtol=1e-12)
    assert values.sum() == pytest.approx(worth[1, 1, 1, 1] - worth[0, 0, 0, 0])
    # Of what adds up, nothing interacts.
    additive = np.einsum("p,p...->...", np.arange(1.0, 4.0), np.indices((2, 2, 2)))
    np.testing.assert_allclose(shapley(additive)[0], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(shapley(additive)[1], 0.0, atol=1e-15)
    assert np.abs(interactions).max() > 0.1


def test_too_many_errors_to_share_out():
    many = Instance([0.5] * 11, [1.0] + [0.0] * 10)
    with pytest.raises(ValueError, match=r"prompt 0 has 11 errors, whose 2.05e\+03 subsets are too many"):
        shares(many, 0)


def test_rule_and_effect():
    """They agree more often than a rule that calls every error harmful, or that is turned about."""
    sample = trials(0, 400)
    assert not np.isnan(sample.log_ratio).any()
    counts = errors.confusion(sample)
    assert counts.sum() == 400
    agreed = errors.agreement(counts)
    assert agreed > 0.6
    assert errors.agreement(counts[:, ::-1]) < 0.4
    always = np.zeros_like(counts)
    always[Category.HARMFUL_I] = counts.sum(0)
    assert errors.agreement(always) == pytest.approx(1 / 3)
    best, agreed_best = errors.best_thresholds(sample)
    assert agreed_best == errors.agreement(errors.confusion(sample, best))
    assert agreed_best >= 0.97 * agreed
