import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from goodteacher.sim.sampling import best_of_n


def by_enumeration(policy, rewards, samples):
    """Over all tuples of samples; the first of the best ones in a tuple is taken."""
    law = np.zeros(len(policy))
    for drawn in itertools.product(range(len(policy)), repeat=samples):
        chosen = max(drawn, key=lambda output: rewards[output])  # the first of equally good ones
        law[chosen] += np.prod(policy[list(drawn)])
    return law


@pytest.mark.parametrize("rewards", [[0.3, -1.0, 0.5, 0.1], [0.5, 0.5, -1.0, 0.5], [0.2] * 4])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_law_against_all_tuples(rewards, samples):
    policy = np.array([0.1, 0.5, 0.15, 0.25])
    found = best_of_n(jnp.asarray(policy), jnp.asarray(rewards), samples)
    np.testing.assert_allclose(found, by_enumeration(policy, rewards, samples), rtol=1e-14)


@pytest.mark.parametrize("samples", [1, 7, 1_000, 1_000_000, 10**9])
def test_law_for_many_samples_and_rare_outputs(samples):
    """Against the powers themselves, with 400 digits; relatively, from 1 down to 1e-300."""
    rewards = np.array([2.0, 1.0, 3.0, 1.0, -1.0, 0.0, 0.0])
    weights = np.array([1e-9, 0.3, 1e-13, 1e-12, 0.3, 0.4, 1e-20])
    policy = weights / weights.sum()
    found = np.asarray(best_of_n(jnp.asarray(policy), jnp.asarray(rewards), samples))
    with mpmath.workdps(400):
        exact = [mpmath.mpf(p) for p in policy.tolist()]
        total = mpmath.fsum(exact)
        for y, reward in enumerate(rewards):
            below, up_to = (
                mpmath.fsum(p for p, r in zip(exact, rewards, strict=True) if keeps(r, reward)) / total
                for keeps in (np.less, np.less_equal)
            )
            expected = exact[y] / total / (up_to - below) * (up_to**samples - below**samples)
            np.testing.assert_allclose(found[y], float(expected), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-14)


def test_outputs_that_do_not_exist_are_never_chosen_and_batches_broadcast():
    policy = jnp.array([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]])
    rewards = jnp.array([[1.0, 0.0, 9.0], [0.0, 1.0, 1.0]])
    found = jax.jit(best_of_n)(policy, rewards, jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(found, [[0.36, 0.64, 0.0], [0.125, 0.4375, 0.4375]], rtol=1e-14)
