"""The rule of the quadrature is fine enough for every number of outputs, and for norms that differ."""

import numpy as np
import pytest

from goodteacher.sim import quadrature
from goodteacher.sim.crossings import trained_crossing
from goodteacher.sim.lines import lines

MANY = 300


def times(outputs, inertia, monkeypatch, nodes=None):
    """Hitting times of random problems, by the rule that is used or by one of so many nodes."""
    rng = np.random.default_rng(0)
    shape = (outputs, MANY)
    logits = rng.normal(size=shape) * rng.choice([0.5, 2.0, 5.0], MANY)
    rewards = rng.uniform(-1.0, 1.0, shape)
    powers = None if inertia == 1.0 else np.where(rng.uniform(size=shape) < 0.5, 1.0, inertia)
    level = 0.9 * rewards.max(0) + 0.1 * np.sort(rewards, 0)[-2]
    with monkeypatch.context() as patch, np.errstate(all="ignore"):
        if nodes is not None:
            patch.setattr(quadrature, "rule", lambda of: quadrature.gauss_rule(nodes))
        flow = lines(logits, rewards, powers)
        sought = (np.exp(flow.logits - flow.normalizer) * (rewards - level)).sum(0) < 0
        found = trained_crossing(flow, rewards - level, sought)
        assert found.found[sought].mean() > 0.95
        # Beyond all numbers, differences of times are none.
        return np.fmin(quadrature.time(flow, found.position)[found.found], 1e300)


@pytest.mark.parametrize(
    ("outputs", "inertia"), [(4, 1.0), (12, 1.0), (13, 1.0), (64, 1.0), (65, 1.0), (6, 9.0), (16, 4.0)]
)
def test_twice_as_many_nodes_change_nothing(outputs, inertia, monkeypatch):
    found = times(outputs, inertia, monkeypatch)
    np.testing.assert_allclose(found, times(outputs, inertia, monkeypatch, 320), rtol=1e-11)


@pytest.mark.parametrize(("outputs", "inertia", "nodes"), [(12, 1.0, 24), (64, 1.0, 40), (6, 9.0, 40)])
def test_fewer_nodes_are_caught(outputs, inertia, nodes, monkeypatch):
    coarse, fine = (times(outputs, inertia, monkeypatch, n) for n in (nodes, 320))
    assert np.abs(coarse / fine - 1.0).max() > 1e-10
