"""The stalling law as a function; that simulations obey it is verified with the other statements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodteacher.sim.goals import probability_level
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory import stalling
from goodteacher.theory.closed_forms import natural_gradient_flow, one_good_output_time
from goodteacher.theory.rises import escape_times

POLICY = (1e-6, 0.5, *[(0.5 - 1e-6) / 3] * 3)
REWARDS = (1.0, 0.8, -1.0, -1.0, -1.0)


def random_problem(outputs, eps, seed=0):
    rng = np.random.default_rng(seed)
    others = rng.dirichlet(np.full(outputs - 1, 3.0)) * (1 - eps)
    rewards = np.r_[0.9, 0.4, rng.uniform(-1, 0.2, outputs - 2)]
    return jnp.log(jnp.r_[eps, others]), jnp.asarray(rewards)


def simulate(log_p, rewards, level=0.5):
    """Times ``[n]`` at which the best output, the first, has the given probability."""
    instances = jax.vmap(lambda p, r: Instance(r, start=Parameters(p[None])))(log_p, rewards)
    goals = jax.vmap(lambda i: probability_level(i, 0, level))(instances)
    return np.asarray(escape_times(instances, goals))


def test_time_of_the_standard_example():
    found = stalling.time(jnp.log(jnp.array(POLICY)), jnp.array(REWARDS))
    assert float(found) == pytest.approx(4.219e23, rel=1e-3)


@pytest.mark.parametrize("outputs", [3, 5, 8])
def test_log_time_is_the_product_and_does_not_overflow(outputs):
    eps = 1e-20
    log_p, rewards = random_problem(outputs, eps)
    p, r = np.exp(np.asarray(log_p)), np.asarray(rewards)
    product = p[1] * np.prod((r[1] - r[2:]) * p[2:]) / (outputs * (outputs - 1))
    expected = product / ((r[0] - r[1]) * eps) ** (outputs - 1)
    assert float(stalling.time(log_p, rewards)) == pytest.approx(expected, rel=1e-12)
    assert stalling.exponent(outputs) == outputs - 1
    rarer = stalling.log_time(log_p.at[0].set(-2000.0), rewards)
    slope = (float(rarer) - np.log(expected)) / (2000.0 + np.log(eps))
    assert slope == pytest.approx(outputs - 1, rel=1e-12)


@jax.jit
def laws(log_p, rewards):
    functions = (
        stalling.log_time,
        stalling.correction,
        stalling.small_parameter,
        stalling.natural_gradient_time,
    )
    return jnp.stack([law(jnp.asarray(log_p), jnp.asarray(rewards)) for law in functions])


@given(st.permutations(range(7)), st.floats(-5, 5))
@settings(max_examples=25)
def test_neither_order_nor_shift_nor_absent_outputs_matter(order, shift):
    log_p, rewards = random_problem(5, 1e-4)
    padded_p = np.r_[log_p, -np.inf, -np.inf][order]
    padded_r = (np.r_[rewards, 9.0, 0.5] + shift)[order]
    np.testing.assert_allclose(laws(padded_p, padded_r), laws(log_p, rewards), rtol=1e-9)
    assert not np.isclose(laws(padded_p, padded_r), laws(log_p, rewards**3), rtol=1e-9).any()


def test_two_outputs_are_the_leading_term_of_the_exact_solution():
    log_p, rewards = jnp.log(jnp.array([1e-9, 1 - 1e-9])), jnp.array([0.3, -0.1])
    exact = float(one_good_output_time(1e-9, 0.5, 0.4))
    assert float(stalling.time(log_p, rewards)) == pytest.approx(exact, rel=1e-7)


def test_laws_hold_where_they_do_not_where_the_second_best_is_tied():
    log_p = jnp.log(jnp.array(POLICY))
    assert stalling.log_time(log_p, jnp.array([1.0, 1.0, -1.0, -1.0, -1.0])) == jnp.inf
    assert stalling.log_time(log_p, jnp.array([1.0, 0.8, 0.8, -1.0, -1.0])) == -jnp.inf


def test_the_deviation_falls_in_proportion_to_epsilon_and_is_the_correction():
    problems = [random_problem(5, eps) for eps in (1e-3, 1e-4, 1e-5)]
    log_p, rewards = (jnp.stack(leaves) for leaves in zip(*problems, strict=True))
    logs = np.log(simulate(log_p, rewards))
    deviation = logs - np.asarray(stalling.log_time(log_p, rewards))
    np.testing.assert_allclose(deviation[:-1] / deviation[1:], 10.0, rtol=0.02)
    np.testing.assert_allclose(deviation, stalling.correction(log_p, rewards), rtol=0.02)
    assert not np.allclose(deviation, stalling.small_parameter(log_p, rewards), rtol=0.02)


def test_the_law_is_differentiable():
    log_p, rewards = random_problem(5, 1e-6)
    by_policy, by_reward = jax.grad(stalling.log_time, argnums=(0, 1))(log_p, rewards)
    np.testing.assert_allclose(by_policy, [-4.0, 1.0, 1.0, 1.0, 1.0])
    low = 1 / (0.4 - rewards[2:])
    np.testing.assert_allclose(by_reward, jnp.r_[-4 / 0.5, 4 / 0.5 + low.sum(), -low], rtol=1e-12)


@pytest.mark.parametrize("eps", [1e-3, 1e-9, 1e-30])
def test_natural_gradient_time_is_the_leading_term(eps):
    log_p, rewards = random_problem(6, eps, seed=3)
    leading = stalling.natural_gradient_time(log_p, rewards)
    latest = leading - log_p[1] / (rewards[0] - rewards[1])
    early = natural_gradient_flow(log_p, rewards, leading)[0]
    late = natural_gradient_flow(log_p, rewards, latest)[0]
    assert early <= jnp.log(0.5) <= late
    assert natural_gradient_flow(log_p, rewards, 0.9 * leading)[0] < early - 0.1


def test_published_rates_are_below_the_law():
    published = (stalling.PUBLISHED_PROXY_EXPONENT, stalling.PUBLISHED_GROUND_TRUTH_EXPONENT)
    assert published[0] < published[1] < min(stalling.exponent(outputs) for outputs in range(3, 9))
