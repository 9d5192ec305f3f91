"""Laws of samples that are used again, as functions; that updates obey them is verified with the others."""

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.flow import hitting_time
from goodteacher.sim.goals import reward_level
from goodteacher.sim.reuse import reuse
from goodteacher.theory.draws import Source
from goodteacher.theory.reuse_law import FRESH, STALE, fresh_updates, stale_updates


@pytest.mark.parametrize("outputs", [3, 4])
def test_laws_of_one_escape(outputs):
    """Of the middle of all that is drawn: the flow over the rate, and batches that are used up."""
    points = {
        of: jnp.full(of.dimension, 0.5).at[0].set(0.1 if outputs == 3 else 0.9) for of in (FRESH, STALE)
    }
    fresh, stale = (of.draw(Source(point)) for of, point in points.items())
    instance = fresh.instance
    assert instance.rewards.shape == (1, outputs)
    time = hitting_time(instance, reward_level(instance, float(fresh.level))).time[0]
    np.testing.assert_allclose(fresh_updates(fresh) * fresh.rate, time, rtol=0.05 if outputs == 3 else 0.2)

    updates = reuse(
        stale.instance,
        float(stale.level),
        learning_rate=float(stale.rate),
        reuses=int(stale.reuses),
        updates=10_000,
    ).update
    assert abs(updates - stale_updates(stale)) < 1.5 * stale.reuses
    # Twice as rare is a bit more than twice as long, whatever the outputs; with fresh samples 2^(K-1).
    rarer = np.log(0.5) * (np.arange(4) == 0)
    twice = stale_updates(stale._replace(log_start=stale.log_start + rarer)) / stale_updates(stale)
    assert 2.1 < twice < 2.8
    power = fresh_updates(fresh._replace(log_start=fresh.log_start + rarer)) / fresh_updates(fresh)
    np.testing.assert_allclose(power, 2.0 ** (outputs - 1), rtol=1e-12)
