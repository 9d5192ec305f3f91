"""The stalling law of features that are not orthogonal: its exponent, c = 0, and where nothing escapes."""

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.flow import Control, hitting_time
from goodteacher.sim.goals import probability_level
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory import stalling
from goodteacher.theory.feature_geometry_law import log_stalling_time, unequal
from goodteacher.theory.stalling_extensions import log_escape_time

START = jnp.log(jnp.array([1e-7, 0.4, 0.2, 0.3, 0.1 - 1e-7]))
REWARDS = jnp.array([1.0, 0.5, -0.2, -1.0, 0.1])


@pytest.mark.parametrize("inner_product", [-0.2, 0.0, 0.3, 0.9])
def test_exponent(inner_product):
    rarer = START.at[0].add(-np.log(10.0))
    times = [log_stalling_time(start, REWARDS, inner_product) for start in (START, rarer)]
    assert float(times[1] - times[0]) / np.log(10.0) == pytest.approx(4 / (1 + 3 * inner_product))


def test_orthogonal_features_give_the_laws_that_are_known():
    assert log_stalling_time(START, REWARDS, 0.0) == pytest.approx(float(stalling.log_time(START, REWARDS)))
    norms = jnp.array([2.0, 1.0, 1.0, 1.0, 1.0])
    known = log_escape_time(START, REWARDS, norms)
    assert log_stalling_time(START, REWARDS, 0.0, 2.0) == pytest.approx(float(known), abs=1e-5)
    padded = jnp.append(START, -jnp.inf), jnp.append(REWARDS, 0.4)
    assert log_stalling_time(*padded, 0.3) == pytest.approx(float(log_stalling_time(START, REWARDS, 0.3)))


def test_the_three_published_geometries():
    """|feature(y*)| = 1.5 at 45 degrees to feature(y_med) either way (arXiv:2604.25872, Appendix A.1).

    The negative one is beyond -1/(K-2): from there nothing escapes, in whatever time.
    """
    start, rewards = np.log([1e-3, 0.5, 0.2, 0.15, 0.149]), [1.0, 0.8, -1.0, -1.0, -1.0]

    def escape(inner_product):
        features = np.eye(5)
        features[0, :2] = np.sqrt(2.25 - inner_product**2), inner_product
        weights = np.linalg.solve(features, start)
        instance = Instance(rewards, start=Parameters(weights), policy=LinearSoftmax(features[None]))
        found = hitting_time(instance, probability_level(instance, 0, 0.5), Control(horizon=1e40))
        law = float(jnp.exp(log_stalling_time(jnp.asarray(start), jnp.asarray(rewards), inner_product, 2.25)))
        return float(found.time[0]), law, np.exp(np.asarray(found.log_probabilities[0]))

    side = 1.5 / np.sqrt(2.0)
    (negative, never, end), (none, law, _), (positive, _, _) = map(escape, (-side, 0.0, side))
    assert negative == never == np.inf
    assert end[0] < 1e-40
    assert end[1] == pytest.approx(1.0)
    assert none == pytest.approx(law, rel=0.1)
    assert positive < 1e-4 * none


def test_where_features_go_together_the_error_is_that_of_low_outputs_still_unequal():
    """beta = 2.95: the error falls like eps^(2/beta), not like eps ln(1/eps), which is far less."""
    rewards, inner_product, squared_norm = jnp.array([1.0, 0.68, -0.59, 0.06, 0.61, -0.9]), 0.487, 2.2
    errors, expected = [], []
    for eps in (1e-8, 1e-10):
        start = np.log(np.append(eps, (1.0 - eps) * np.array([0.24, 0.37, 0.21, 0.06, 0.12])))
        features = np.eye(6)
        features[0, :2] = np.sqrt(squared_norm - inner_product**2), inner_product
        weights = np.linalg.solve(features, start)
        problem = Instance(rewards, start=Parameters(weights), policy=LinearSoftmax(features[None]))
        time = hitting_time(problem, probability_level(problem, 0, 0.5), Control(tolerance=1e-11)).time[0]
        law = log_stalling_time(jnp.asarray(start), rewards, inner_product, squared_norm)
        errors.append(abs(np.expm1(np.log(float(time)) - float(law))))
        expected.append(float(unequal(jnp.asarray(start), rewards, time)))
    assert errors[0] > 1000 * 1e-8 * np.log(1e8)
    np.testing.assert_allclose(np.log10(errors[0] / errors[1]), 2 * 2 / (1 + 4 * inner_product), rtol=0.06)
    assert all(0.1 < error / e < 1.0 for error, e in zip(errors, expected, strict=True))


def test_how_unequal_low_outputs_are_by_a_plain_loop():
    """Lines ``a_j (tau + d_j)``, and ``tau`` from the time of the polynomial; one output does not exist."""
    start, time = np.exp(np.asarray(START)), 1e15
    drops = 0.5 - np.asarray(REWARDS)[2:]
    places = [(1 / p - 1 / start[1]) / a for p, a in zip(start[2:], drops, strict=True)]
    mean = sum(places) / 3
    tau = (4 * time / (start[1] * np.prod([a * p for p, a in zip(start[2:], drops, strict=True)]))) ** (1 / 4)
    padded = jnp.append(START, -jnp.inf), jnp.append(REWARDS, 0.4)
    expected = sum((d - mean) ** 2 for d in places) / tau**2
    np.testing.assert_allclose(unequal(*padded, time), expected, rtol=1e-12)
