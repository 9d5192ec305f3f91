"""Closed forms against arithmetic of 60 digits, and against each other."""

from itertools import product

import diffrax
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import natural_gradient
from goodteacher.theory.closed_forms import (
    kl_optimum,
    natural_gradient_flow,
    one_good_output_log_odds,
    one_good_output_time,
)

DIGITS = 60
STARTS = (1e-150, 1e-12, 0.01, 0.3, 0.5, 0.9)
ENDS = (1e-9, 0.3, 0.5, 0.6, 0.9, 1 - 1e-9, 1 - 2**-52)


def exact_f(p):
    p = mp.mpf(p)
    return -1 / p + 1 / (1 - p) + 2 * mp.log(p / (1 - p))


def exact_time(p0, p1, gap, outputs):
    return mp.mpf(outputs - 1) / outputs * (exact_f(p1) - exact_f(p0)) / mp.mpf(gap)


def naive_time(p0, p1, gap, outputs):
    def f(p):
        return -1 / p + 1 / (1 - p) + 2 * np.log(p / (1 - p))

    return (outputs - 1) / outputs * (f(p1) - f(p0)) / gap


def worst_error(time, problems):
    with mp.workdps(DIGITS):
        return max(abs(mp.mpf(float(time(*p))) / exact_time(*p) - 1) for p in problems)


def test_time_is_exact_to_rounding():
    apart = [(p0, p1, 0.7, k) for p0, p1 in product(STARTS, ENDS) if p0 != p1 for k in (2, 64)]
    close = [(p, p * (1 + d), 1e-3, 3) for p in STARTS[1:] for d in (1e-3, 1e-9, 4e-16)]
    assert worst_error(one_good_output_time, apart + close) < 1e-14
    assert worst_error(naive_time, close) > 1e-3


@pytest.mark.parametrize(("start", "expected"), [(0.01, 48.585390693), (1e-12, 400000000027.018)])
def test_time_of_the_standard_example(start, expected):
    assert float(one_good_output_time(start, 0.9, 2.0, 5)) == pytest.approx(expected, rel=2e-11)


def test_time_at_the_edges():
    assert float(one_good_output_time(0.2, 1.0, 1.0)) == np.inf
    assert float(one_good_output_time(0.2, 0.2, 1.0)) == 0.0
    there, back = float(one_good_output_time(0.2, 0.7, 1.0)), float(one_good_output_time(0.7, 0.2, 1.0))
    assert back == pytest.approx(-there, rel=1e-14)


def exact_log_odds(p0, time, gap, outputs):
    y = (exact_f(p0) + mp.mpf(outputs) / (outputs - 1) * mp.mpf(gap) * mp.mpf(time)) / 2
    u = mp.asinh(y)
    for _ in range(12):
        u -= (mp.sinh(u) + u - y) / (mp.cosh(u) + 1)
    return y, u


def test_log_odds_solve_the_flow():
    eps = np.finfo(float).eps
    for p0, gap, outputs in product((1e-12, 0.01, 0.3, 0.9), (1e-3, 2.0), (2, 5)):
        escape = float(one_good_output_time(p0, 0.999, gap, outputs))
        for time in (0.0, 1e-3 * escape, 0.5 * escape, escape, 10 * escape, 1e20 * escape):
            with mp.workdps(DIGITS):
                _, u = exact_log_odds(p0, time, gap, outputs)
                start = abs(exact_f(p0)) / 2
                error = abs(mp.mpf(float(one_good_output_log_odds(p0, time, gap, outputs))) - u)
                assert error < 4 * eps * (1 + abs(u) + start / (mp.cosh(u) + 1))


def test_log_odds_invert_the_time():
    probabilities = jnp.geomspace(1e-4, 0.9, 20)
    times = one_good_output_time(1e-5, probabilities, 0.3, 7)
    found = jax.nn.sigmoid(one_good_output_log_odds(1e-5, times, 0.3, 7))
    np.testing.assert_allclose(found, probabilities, rtol=1e-10)
    assert not np.allclose(jax.nn.sigmoid(one_good_output_log_odds(1e-5, times, 0.3, 6)), probabilities)


def exact_tilt(log_p, exponents):
    weights = [mp.mpf(float(a)) + e for a, e in zip(log_p, exponents, strict=True)]
    top = max(weights)
    total = top + mp.log(mp.fsum(mp.exp(w - top) for w in weights))
    return [w - total for w in weights]


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_tilts_are_exact_to_rounding(size):
    rng = np.random.default_rng(0)
    log_p, rewards = jax.nn.log_softmax(5 * rng.normal(size=6)), rng.uniform(-1, 1, 6)
    flow = natural_gradient_flow(log_p, jnp.asarray(rewards), size)
    optimum = kl_optimum(log_p, jnp.asarray(rewards), 1 / size)
    with mp.workdps(DIGITS):
        of_flow = exact_tilt(log_p, [mp.mpf(float(r)) * mp.mpf(size) for r in rewards])
        of_optimum = exact_tilt(log_p, [mp.mpf(float(r)) / mp.mpf(1 / size) for r in rewards])
    for found, exact in ((flow, of_flow), (optimum, of_optimum)):
        reference = np.array([float(e) for e in exact])
        assert np.max(np.abs(found - reference) / (1 + np.abs(reference))) < 2e-15


def test_tilts_keep_excluded_outputs_out_and_batch():
    log_p = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]))
    rewards = jnp.array([[0.1, 0.2, 0.3]])
    flow = natural_gradient_flow(log_p, rewards, jnp.array([1.0, 2.0]))
    assert flow.shape == (2, 3)
    assert flow[0, 2] == -jnp.inf
    np.testing.assert_allclose(flow[1], natural_gradient_flow(log_p[1], rewards[0], 2.0), rtol=1e-15)
    np.testing.assert_allclose(kl_optimum(log_p, rewards, jnp.array([1.0, 0.5])), flow, rtol=1e-15)


def test_natural_gradient_flow_is_what_integration_finds():
    rng = np.random.default_rng(1)
    instance = Instance(rng.uniform(-1, 1, (2, 5)), start=Parameters(2 * rng.normal(size=(2, 5))))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: natural_gradient(instance, y)),
        diffrax.Dopri8(),
        t0=0.0,
        t1=9.0,
        dt0=0.1,
        y0=instance.initial_parameters,
        stepsize_controller=diffrax.PIDController(rtol=0.0, atol=1e-11),
    )
    assert solution.ys is not None
    found = instance.log_probabilities(solution.ys[0])
    start = instance.log_probabilities(instance.initial_parameters)
    np.testing.assert_allclose(found, natural_gradient_flow(start, instance.rewards, 9.0), atol=1e-9)
    assert not np.allclose(found, natural_gradient_flow(start, instance.rewards, 4.5), atol=1e-3)
