"""Hitting times on an accelerator, beside the processor next to it, and where their time goes."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import random_problems
from benchmarks.timing import table, timed
from goodteacher.sim import solved
from goodteacher.sim.flow import hitting_times
from goodteacher.sim.goals import is_possible
from goodteacher.sim.separation import envelopes, outputs_first, separate

CASES = ((2, 4_000_000), (8, 100_000), (8, 1_000_000), (8, 10_000_000), (64, 400_000))
COMPARED = 20_000


def speed() -> None:
    """Prints hitting times per second, and how far they are from the processor's for the same problems."""
    rows = []
    processor = jax.devices("cpu")[0]
    for outputs, count in CASES:
        problems = random_problems(count, outputs)
        timing = timed(lambda p=problems: hitting_times(*p).time, repeats=3)
        some = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf[:COMPARED]), processor), problems)
        with jax.default_device(processor), patch.object(solved, "_WIDE_BLOCK", solved._BLOCK):
            beside = timed(lambda p=some: hitting_times(*p).time, repeats=1)
        errors = np.abs(np.asarray(timing.result[:COMPARED]) / np.asarray(beside.result) - 1.0)
        rates = count / timing.warm, COMPARED / beside.warm
        rates = (*(f"{rate:,.0f}" for rate in rates), rates[0] / rates[1])
        rows.append((outputs, f"{count:,}", timing.cold, timing.warm, *rates, float(errors.max())))
    table(
        "hitting times of random problems on an accelerator, and on the processor beside it",
        (
            "outputs",
            "problems",
            "seconds, first",
            "again",
            "per second",
            "there",
            "ratio",
            "worst difference",
        ),
        rows,
    )


def parts(count: int = 1_000_000) -> None:
    """Prints what a million hitting times are made of, and what the card does at best."""
    instances, goals = random_problems(count)
    problems = solved._Problems(
        separate(instances, None),
        outputs_first(goals.values),
        goals.level.ravel(),
        jnp.full(count, jnp.nan),
        is_possible(instances, goals).ravel(),
        jnp.full(count, jnp.inf),
    )

    def blocks(of: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return jax.jit(lambda problems: solved._by_blocks(jnp, of, problems))

    rows = [
        (name, 1e3 * timed(partial(of, problems)).warm)
        for name, of in (
            ("envelopes of the lines", blocks(lambda some: envelopes(some.prompts).breakpoints)),
            ("and the shortcut of 24 nodes", blocks(partial(solved._easily, nodes=24))),
            ("and what that leaves", jax.jit(lambda some: solved._found(jnp, some, True))),
            ("no shortcut", blocks(lambda some: solved._searched(some, True)[0].spent)),
        )
    ]
    table(f"{count:,} problems, 8 outputs", ("up to", "milliseconds"), rows)

    many = jnp.linspace(0.1, 1.0, 1 << 26)
    moved = timed(partial(jax.jit(lambda x: x + 1.0), many)).warm
    exponentials = jax.jit(lambda x: jax.lax.fori_loop(0, 64, lambda _, x: jnp.exp(-x), x, unroll=64))
    rate = 64 * many.size / timed(partial(exponentials, many)).warm
    print(f"  at best {2 * many.nbytes / moved / 1e12:.2f} TB/s, {rate:.3g} exponentials per second")


def main() -> None:
    """Prints both tables, if there is an accelerator."""
    if jax.default_backend() == "cpu":
        print("\nno accelerator: nothing to measure on it")
        return
    speed()
    parts()


if __name__ == "__main__":
    main()
