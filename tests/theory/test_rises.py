"""What statements observe is what the integrators find, one compilation for problems of different sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.flow import hitting_times, hitting_times_only
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory import rises
from goodteacher.theory.rises import escape_times, first_output_goals


def problems(outputs, prompts=1):
    rng = np.random.default_rng(outputs)
    shape = (3, prompts, outputs)
    rewards = np.sort(rng.uniform(-1, 1, shape))[..., ::-1].copy()
    make = jax.vmap(lambda r, z: Instance(r, start=Parameters(z)))
    return make(jnp.asarray(rewards), jnp.asarray(rng.normal(size=shape)))


def test_escape_times_are_hitting_times_of_one_width(monkeypatch):
    widths = []

    def recorded(instances, goals, control):
        widths.append(instances.rewards.shape[-1])
        return hitting_times_only(instances, goals, control)

    monkeypatch.setattr(rises, "hitting_times_only", recorded)
    for outputs in (2, 5, 8, 12):
        instances = problems(outputs)
        goals = first_output_goals(instances, jnp.array([0.5, 0.9, 0.99]))
        expected = hitting_times(instances, goals).time[:, 0]
        np.testing.assert_allclose(escape_times(instances, goals), expected, rtol=1e-9)
        assert np.isfinite(expected).all()
    assert widths == [8, 8, 8, 16]


def test_escape_times_are_not_for_more_outputs():
    instances = problems(17)
    with pytest.raises(ValueError, match="17 outputs; give at most 16"):
        escape_times(instances, first_output_goals(instances, jnp.full(3, 0.5)))
