"""The closed forms of :mod:`goodteacher.theory.estimator_moments` beside what their statements do not see."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.estimator_moments import (
    baseline_variance,
    enumerate_estimates,
    grpo_factor,
    grpo_norm_bound,
    reinforce_variance,
    rloo_variance,
)

PROBABILITIES, REWARDS = np.array([0.1, 0.2, 0.7]), np.array([1.0, 0.6, -0.5])


def plain_moments(weigh, group):
    """Mean and total variance over every group, by a loop over the tuples of outputs."""
    mean, square = np.zeros(3), 0.0
    for drawn in itertools.product(range(3), repeat=group):
        chance = math.prod(PROBABILITIES[list(drawn)])
        rewards = REWARDS[list(drawn)]
        scores = np.eye(3)[list(drawn)] - PROBABILITIES
        estimate = sum(weigh(i, rewards) * scores[i] for i in range(group)) / group
        mean += chance * estimate
        square += chance * estimate @ estimate
    return mean, square - mean @ mean


def leave_one_out(i, rewards):
    return rewards[i] - np.delete(rewards, i).mean()


VALUE = PROBABILITIES @ REWARDS
CLOSED_FORMS = {
    "reinforce": (lambda i, r: r[i], reinforce_variance),
    "a baseline of 0.3": (lambda i, r: r[i] - 0.3, lambda p, r, g: reinforce_variance(p, r, g, 0.3)),
    "baseline": (lambda i, r: r[i] - VALUE, baseline_variance),
    "rloo": (leave_one_out, rloo_variance),
}


@pytest.mark.parametrize("group", [2, 3, 5])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_moments_by_a_plain_loop(name, group):
    weigh, variance = CLOSED_FORMS[name]
    mean, spread = plain_moments(weigh, group)
    np.testing.assert_allclose(mean, PROBABILITIES * (REWARDS - VALUE), atol=1e-14)
    found = variance(jnp.asarray(PROBABILITIES), jnp.asarray(REWARDS), group)
    np.testing.assert_allclose(found, spread, rtol=1e-12)
    assert abs(plain_moments(lambda i, r: r[i] - r.mean(), group)[1] - spread) > 1e-2 * spread


def test_enumeration_is_the_law():
    """Chances of a prompt's groups sum to one; RLOO's moments are the loop's."""
    instance = Instance(REWARDS, start=PROBABILITIES)
    chances, estimates = enumerate_estimates(instance, instance.initial_parameters, "rloo", 3)
    assert estimates.shape == (10, 1, 3)
    np.testing.assert_allclose(chances.sum(0), 1.0)
    mean, spread = plain_moments(leave_one_out, 3)
    found = jnp.einsum("gx,gxy->xy", chances, estimates)[0]
    np.testing.assert_allclose(found, mean, atol=1e-15)
    total = jnp.einsum("gx,gxy->", chances, estimates**2) - (found**2).sum()
    np.testing.assert_allclose(total, spread, rtol=1e-12)


def test_what_leave_one_out_costs():
    """``E A^2 (1 + pi - sum pi^2) / (G (G-1))`` beyond the exact baseline; it vanishes with the group."""
    rng = np.random.default_rng(0)
    p, r = jnp.asarray(rng.dirichlet(np.full(5, 0.5), 1000)), jnp.asarray(rng.uniform(-1, 1, (1000, 5)))
    advantages = r - (p * r).sum(-1, keepdims=True)
    share = 1.0 + p - (p**2).sum(-1, keepdims=True)
    for group in (2, 8, 1000):
        excess = rloo_variance(p, r, group) - baseline_variance(p, r, group)
        np.testing.assert_allclose(
            excess, (p * advantages**2 * share).sum(-1) / (group * (group - 1)), rtol=1e-8, atol=1e-17
        )
        assert (excess > 0).all()
    assert (reinforce_variance(p, r, 8) < baseline_variance(p, r, 8)).any()  # V is not the best baseline


def test_factor_of_grpo_by_its_definition_and_in_its_limits():
    for success, group in itertools.product((1e-3, 0.3, 0.9), (2, 3, 8, 64)):
        binomial = [math.comb(group, k) * success**k * (1 - success) ** (group - k) for k in range(group + 1)]
        expected = sum(chance * math.sqrt(k * (group - k)) for k, chance in enumerate(binomial))
        plain = expected / (group * success * (1 - success) * 0.5)
        np.testing.assert_allclose(grpo_factor(jnp.asarray(success), 0.5, group), plain, rtol=1e-12)
    for group in (2, 8, 1000):
        ends = grpo_factor(jnp.array([0.0, 1e-300, 1.0]), 2.0, group)
        np.testing.assert_allclose(ends, math.sqrt(group - 1) / 2.0, rtol=1e-12)
        inside = grpo_factor(jnp.linspace(0.0, 1.0, 101), 1.0, group)
        assert (inside <= math.sqrt(group - 1) * (1 + 1e-12)).all()

    # A group of 1000 is large where it holds many of both kinds, and not where it holds one good output.
    def large(p: float) -> float:
        return 1.0 / math.sqrt(p * (1.0 - p))

    np.testing.assert_allclose(grpo_factor(jnp.asarray(0.3), 1.0, 1000), large(0.3), rtol=1e-3)
    assert grpo_factor(jnp.asarray(1e-4), 1.0, 1000) < 0.5 * large(1e-4)


def test_the_scale_of_rewards_moves_the_gradient_and_not_grpo():
    def expected(scale, name):
        instance = Instance(scale * REWARDS, start=PROBABILITIES)
        chances, estimates = enumerate_estimates(instance, instance.initial_parameters, name, 3)
        return jnp.einsum("gx,gxy->y", chances, estimates)

    np.testing.assert_allclose(expected(1e-6, "grpo"), expected(1.0, "grpo"), rtol=1e-8)
    np.testing.assert_allclose(expected(1e-6, "rloo"), 1e-6 * expected(1.0, "rloo"), rtol=1e-8)
    norm = jnp.linalg.norm(expected(1.0, "grpo"))
    assert norm < grpo_norm_bound(jnp.asarray(PROBABILITIES), 3) < 2 * norm


def test_equal_rewards_teach_nothing():
    """Not even by rounding: 0.1 + 0.1 + 0.1 is not 0.3."""
    instance = Instance([0.1, 0.1, 0.1, 0.7], start=Parameters([1.0, 0.5, 0.2, -800.0]))
    for name in ("rloo", "grpo", "grpo_unscaled"):
        chances, estimates = jax.jit(lambda i, n=name: enumerate_estimates(i, i.initial_parameters, n, 3))(
            instance
        )
        assert (estimates[np.asarray(chances[:, 0]) > 0] == 0).all()
