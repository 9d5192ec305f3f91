"""The rule of the quadrature is fine enough for every number of outputs, and for norms that differ."""

import numpy as np
import pytest
from sim_strategies import anywhere, random_lines

from goodteacher.sim import quadrature
from goodteacher.sim.crossings import trained_crossing


def goals(flow):
    """Where a reward close to the best is reached."""
    level = 0.9 * flow.rewards.max(0) + 0.1 * np.sort(flow.rewards, 0)[-2]
    sought = (np.exp(flow.logits - flow.normalizer) * (flow.rewards - level)).sum(0) < 0
    found = trained_crossing(flow, flow.rewards - level, sought)
    assert found.found[sought].mean() > 0.95
    return found.position


def times(where, outputs, inertia, monkeypatch, nodes=None):
    """At places of random problems, by the rule that is used or by one of so many nodes."""
    with monkeypatch.context() as patch, np.errstate(all="ignore"):
        if nodes is not None:
            patch.setattr(quadrature, "rule", lambda of: quadrature.gauss_rule(nodes))
        flow = random_lines(outputs, inertia)
        spent = quadrature.time(flow, where(flow))
        # Beyond all numbers, differences of times are none; some goals are met at the start.
        return np.fmin(spent[spent > 0], 1e300)


SIZES = [(n, 1.0) for n in (4, 6, 7, 8, 9, 16, 17, 32, 33, 64, 65)] + [(6, 9.0), (16, 4.0)]


@pytest.mark.parametrize("where", [goals, anywhere])
@pytest.mark.parametrize(("outputs", "inertia"), SIZES)
def test_more_nodes_change_nothing(where, outputs, inertia, monkeypatch):
    found = times(where, outputs, inertia, monkeypatch)
    np.testing.assert_allclose(found, times(where, outputs, inertia, monkeypatch, 320), rtol=1e-11)


@pytest.mark.parametrize(("outputs", "inertia", "nodes"), [(12, 1.0, 24), (64, 1.0, 40), (6, 9.0, 40)])
def test_fewer_nodes_are_caught(outputs, inertia, nodes, monkeypatch):
    coarse, fine = (times(goals, outputs, inertia, monkeypatch, n) for n in (nodes, 320))
    assert np.abs(coarse / fine - 1.0).max() > 1e-10
