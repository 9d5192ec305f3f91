"""Hitting times under clocks beside those of the gradient, in processor seconds of the same run."""

import time
from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np

from benchmarks.problems import random_problems
from benchmarks.timing import table
from goodteacher.sim.clocks import Clock, ColdStart, Gradient, Grpo
from goodteacher.sim.flow import hitting_times
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance

_CLOCKS: dict[str, Clock] = {
    "gradient": Gradient(),
    "GRPO": Grpo(),
    "GRPO, epsilon": Grpo(epsilon=1e-4),
    "cold start, of rewards that are not negative": ColdStart(0.5),
}


def _spent(batches: Sequence[Instance], goals: Goal) -> list[float]:
    """Processor seconds of each in turn."""
    spent = []
    for batch in batches:
        start = time.process_time()
        jax.block_until_ready(hitting_times(batch, goals).time)
        spent.append(time.process_time() - start)
    return spent


def main(count: int = 50_000, repeats: int = 3) -> None:
    """Prints the table; each clock takes turns with the gradient."""
    instances, goals = random_problems(count)
    shift = 1.0 - instances.rewards.min()
    shifted = eqx.tree_at(lambda i: i.rewards, instances, instances.rewards + shift)
    rows = []
    for name, clock in _CLOCKS.items():
        plain = shifted if isinstance(clock, ColdStart) else instances
        pair = plain, plain.following(clock)
        _, first = _spent(pair, goals)
        both = np.array([_spent(pair, goals) for _ in range(repeats)])
        least = both.min(0)
        rows.append((name, first, least[1], f"{count / least[1]:,.0f}", least[1] / least[0]))
    table(
        f"{count:,} random problems under clocks, 8 outputs (processor seconds)",
        ("", "first", "again", "per second", "over the gradient"),
        rows,
    )
