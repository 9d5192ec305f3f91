"""Flows are, at a time, where that time is."""

import jax
import numpy as np
import pytest
from sim_strategies import anywhere, random_lines

from goodteacher.sim import positions, quadrature
from goodteacher.sim.batching import as_batch
from goodteacher.sim.clocks import Grpo
from goodteacher.sim.flow import policies
from goodteacher.sim.instance import Instance
from goodteacher.sim.lines import Lines, Position, base, lines, state
from goodteacher.sim.positions import _WIDEST, at_times
from goodteacher.sim.separation import envelopes, separate


@pytest.mark.parametrize("outputs", [5, 40])
def test_what_is_at_a_time_is_where_that_time_is(outputs):
    flow = random_lines(outputs)
    with np.errstate(all="ignore"):
        position = anywhere(flow)
        time = quadrature.time(flow, position)
        there, _ = at_times(flow, np.stack([time, 0.5 * time]))
        here = state(base(flow, position.anchor), position.offset)
        again = np.stack([quadrature.time(flow, Position(*of)) for of in zip(*there, strict=True)])
        # Rounding of the time moves it by so much of the smallest x.
        loose = 1e-15 * time * np.abs(here.slope / here.x).max(0) / quadrature.rate_of_time(flow, here.x)
        found = state(base(flow, there.anchor[0]), there.offset[0])
    judged = (time < 1e300) & (loose < 1e-9)
    assert judged.mean() > 0.5
    np.testing.assert_allclose(again[:, judged], np.stack([time, 0.5 * time])[:, judged], rtol=1e-11)
    np.testing.assert_allclose(found.x[:, judged], here.x[:, judged], rtol=1e-7)


def test_times_are_met_to_rounding_with_many_outputs():
    rng = np.random.default_rng(1)
    count, outputs = 500, 64
    logits = rng.normal(size=(outputs, count)) * rng.choice([0.5, 3.0, 20.0], count)
    flow = lines(logits, rng.normal(size=(outputs, count)))
    times = 10.0 ** rng.uniform(-3.0, 8.0, (1, count))
    with np.errstate(all="ignore"):
        there, _ = at_times(flow, times)
        again = quadrature.time(flow, Position(there.anchor[0], there.offset[0]))
    np.testing.assert_allclose(again, times[0], rtol=1e-12)


def test_however_many_problems_stand_side_by_side():
    """Halves are integrated several at a time, as many as fit; the last of them need not fill that up."""
    way = Instance([[0.9, 0.2, -0.5, -1.0]], start=[[0.1, 0.2, 0.3, 0.4]])
    count = 700
    several = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], count, axis=0), way)
    assert _WIDEST // several.rewards.size == 5  # of six halves
    found = np.asarray(policies(several, np.full((count, 1), 1e200)))
    alone = policies(as_batch(way), np.array([[1e200]]))
    np.testing.assert_allclose(found, np.broadcast_to(alone, found.shape), rtol=1e-12)


def under_grpo() -> tuple[Lines, np.ndarray]:
    """A problem of twenty outputs, and times."""
    rng = np.random.default_rng(2)
    start = rng.dirichlet(np.ones(20)) + 1e-4
    problem = Instance(rng.uniform(-1.0, 1.0, 20), start=start / start.sum()).following(Grpo())
    flow = envelopes(separate(jax.tree.map(np.asarray, as_batch(problem)), None))
    return flow, np.geomspace(0.1, 1e12, 40)[:, None]


def test_under_a_clock_times_are_foreseen(monkeypatch):
    """Each trial integrates up to where a time may be, panel by panel: three or four are enough."""
    flow, times = under_grpo()
    trials = []
    whole = positions.integral
    monkeypatch.setattr(positions, "integral", lambda *of: trials.append(of) or whole(*of))
    with np.errstate(all="ignore"):
        there, _ = at_times(flow, times)
        again = np.stack([quadrature.time(flow, Position(*of)) for of in zip(*there, strict=True)])
    np.testing.assert_allclose(again, times, rtol=1e-11)
    assert len(trials) <= 6  # that of all halves among them


def test_trials_that_went_much_too_far_leave_nothing_behind(monkeypatch):
    """Of the time up to there, next to nothing would be right of the difference."""
    flow, times = under_grpo()
    foreseen = positions._foreseen
    monkeypatch.setattr(positions, "_foreseen", lambda *of: foreseen(*of) + 14.0)
    with np.errstate(all="ignore"):
        there, _ = at_times(flow, times)
        again = np.stack([quadrature.time(flow, Position(*of)) for of in zip(*there, strict=True)])
    np.testing.assert_allclose(again, times, rtol=1e-11)
