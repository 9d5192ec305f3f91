"""Hitting times at the default tolerance against the closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import table
from goodteacher.sim.flow import hitting_times
from goodteacher.sim.goals import probability_level
from goodteacher.sim.instance import Instance
from goodteacher.theory.closed_forms import one_good_output_time

INITIAL = np.array([0.3, 0.1, 0.01, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12])


def main() -> None:
    """Prints the worst relative error for each number of outputs."""
    rows = []
    for outputs in (2, 3, 5, 8, 16, 32, 64):

        def instance(probability: jax.Array, outputs: int = outputs) -> Instance:
            others = jnp.full(outputs - 1, (1.0 - probability) / (outputs - 1))
            rewards = jnp.full(outputs, -1.0).at[0].set(1.0)
            return Instance(rewards, start=jnp.append(probability, others))

        instances = jax.vmap(instance)(jnp.asarray(INITIAL))
        goals = jax.vmap(lambda i: probability_level(i, 0, 0.9))(instances)
        result = hitting_times(instances, goals)
        exact = one_good_output_time(INITIAL, 0.9, 2.0, outputs)
        error = np.abs(np.asarray(result.time)[:, 0] / np.asarray(exact) - 1.0)
        rows.append((outputs, float(error.max()), int(result.steps.max())))
    table(
        f"one good output among K, initial probability {INITIAL.max():g} to {INITIAL.min():g}, up to 0.9",
        ("K", "worst relative error", "most steps"),
        rows,
    )
