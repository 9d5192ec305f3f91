"""Hitting times by NumPy, as ``hitting_times`` finds them where problems are few, beside compiled ones."""

import jax
import numpy as np

from benchmarks.problems import random_problems
from benchmarks.timing import table, timed
from goodteacher.sim.clocks import Gradient, Grpo
from goodteacher.sim.flow import hitting_times
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import expected_reward

_CASES = (2_000, 8, Gradient()), (16_000, 8, Gradient()), (2_000, 64, Gradient()), (2_000, 8, Grpo())
_SHARE = 0.5  # of the attainable increase


def _of_other_rewards(instances: Instance) -> Goal:
    """Goals of rewards that are not trained on: the first crossing has to be found."""
    values = np.random.default_rng(0).uniform(-1.0, 1.0, instances.rewards.shape)
    value = np.asarray(expected_reward(instances.probabilities(instances.initial_parameters), values))
    return jax.vmap(Goal)(values, value + _SHARE * (values.max(-1) - value))


def main() -> None:
    """Prints the table; both ways have to find the same."""
    rows = []
    for count, outputs, clock in _CASES:
        instances, goals = random_problems(count, outputs)
        instances = instances.following(clock)
        for of, goal in {"trained on": goals, "other rewards": _of_other_rewards(instances)}.items():
            at_once = timed(lambda i=instances, g=goal: hitting_times(i, g).time, repeats=3)
            compiled = jax.jit(lambda i, g: hitting_times(i, g).time)
            both = timed(lambda i=instances, g=goal, run=compiled: run(i, g), repeats=3)
            np.testing.assert_allclose(at_once.result, both.result, rtol=1e-9)
            what = f"{count:,} of {outputs} outputs, {type(clock).__name__}, {of}"
            rows.append((what, at_once.warm, both.cold, both.warm))
    table("Seconds for hitting times", ("", "NumPy", "compiled, first", "again"), rows)


if __name__ == "__main__":
    main()
