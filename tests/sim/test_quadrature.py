"""The rule of the quadrature is fine enough for every number of outputs, and for norms that differ."""

import numpy as np
import pytest

from goodteacher.sim import quadrature
from goodteacher.sim.crossings import trained_crossing
from goodteacher.sim.lines import Position, base, lines, state, width

MANY = 300


def problems(outputs, inertia=1.0):
    rng = np.random.default_rng(0)
    shape = (outputs, MANY)
    logits = rng.normal(size=shape) * rng.choice([0.5, 2.0, 5.0], MANY)
    powers = None if inertia == 1.0 else np.where(rng.uniform(size=shape) < 0.5, 1.0, inertia)
    return lines(logits, rng.uniform(-1.0, 1.0, shape), powers)


def goals(flow):
    """Where a reward close to the best is reached."""
    level = 0.9 * flow.rewards.max(0) + 0.1 * np.sort(flow.rewards, 0)[-2]
    sought = (np.exp(flow.logits - flow.normalizer) * (flow.rewards - level)).sum(0) < 0
    found = trained_crossing(flow, flow.rewards - level, sought)
    assert found.found[sought].mean() > 0.95
    return found.position


def anywhere(flow):
    """From breakpoints to far from them, into what is next to no probability."""
    rng = np.random.default_rng(1)
    anchor = rng.integers(0, 1000, MANY) % (flow.last + 1)
    return Position(anchor, 10.0 ** rng.uniform(-2, 2, MANY) * width(base(flow, anchor)))


def times(where, outputs, inertia, monkeypatch, nodes=None):
    """At places of random problems, by the rule that is used or by one of so many nodes."""
    with monkeypatch.context() as patch, np.errstate(all="ignore"):
        if nodes is not None:
            patch.setattr(quadrature, "rule", lambda of: quadrature.gauss_rule(nodes))
        flow = problems(outputs, inertia)
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


@pytest.mark.parametrize("outputs", [5, 40])
def test_what_is_at_a_time_is_where_that_time_is(outputs):
    flow = problems(outputs)
    with np.errstate(all="ignore"):
        position = anywhere(flow)
        time = quadrature.time(flow, position)
        there, _ = quadrature.at_times(flow, np.stack([time, 0.5 * time]))
        here = state(base(flow, position.anchor), position.offset)
        again = np.stack([quadrature.time(flow, Position(*of)) for of in zip(*there, strict=True)])
        # Rounding of the time moves it by so much of the smallest x.
        loose = 1e-15 * time * np.abs(here.slope / here.x).max(0) / quadrature.rate_of_time(flow, here.x)
        found = state(base(flow, there.anchor[0]), there.offset[0])
    judged = (time < 1e300) & (loose < 1e-9)
    assert judged.mean() > 0.5
    np.testing.assert_allclose(again[:, judged], np.stack([time, 0.5 * time])[:, judged], rtol=1e-11)
    np.testing.assert_allclose(found.x[:, judged], here.x[:, judged], rtol=1e-7)
