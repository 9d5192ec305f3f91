"""Hitting times: one, and very many, solved and integrated, against heyoka and diffrax."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import taylor
from benchmarks.problems import plain_hitting_time, random_problems
from benchmarks.timing import peak_memory, table, timed
from goodteacher.experiments.instances import beneficial_errors
from goodteacher.sim import integrated, solved
from goodteacher.sim.control import HORIZON
from goodteacher.sim.flow import LANES, Control, hitting_time, hitting_times
from goodteacher.sim.goals import Goal, probability_level
from goodteacher.sim.instance import Instance

REFERENCE_TOLERANCE = 1e-13
TOLERANCE = 1e-10
PLAIN_TOLERANCE = 1e-8  # for errors no smaller than those of the integrator


def _errors(times: Any, reference: Any) -> tuple[float, float]:
    """The median and the worst relative error."""
    found = np.asarray(times).ravel()
    errors = np.abs(found / np.asarray(reference).ravel()[: len(found)] - 1.0)
    return float(np.median(errors)), float(errors.max())


def _integrated(instances: Instance, goals: Goal, tolerance: float) -> Any:
    horizons = jnp.full(goals.level.shape[:1], HORIZON)
    return integrated.hitting_times(instances, goals, horizons, Control(tolerance=tolerance), LANES).time


def one() -> None:
    """Prints what one hitting time takes and how exact it is, near and far."""
    rows = []
    compiled = jax.jit(hitting_time)
    for initial_probability in (0.05, 0.01, 1e-6, 1e-12):
        instance = beneficial_errors(initial_probability)
        goal = probability_level(instance, 0, 0.9)
        reference = integrated.hitting_time(instance, goal, Control(tolerance=REFERENCE_TOLERANCE)).time
        ours = timed(lambda i=instance, g=goal: hitting_time(i, g), repeats=50)
        under_jit = timed(lambda i=instance, g=goal: compiled(i, g), repeats=50)
        rows.append(
            (
                initial_probability,
                f"{ours.result.time[0]:.10g}",
                1e3 * ours.cold,
                1e3 * ours.warm,
                1e3 * under_jit.cold,
                1e3 * under_jit.warm,
                _errors(ours.result.time, reference)[1],
            )
        )
    table(
        "one hitting time of p(y*) = 0.9, five outputs, on the ground truth (milliseconds)",
        ("initial p(y*)", "hitting time", "first", "again", "jitted, first", "again", "relative error"),
        rows,
    )


def many(counts: tuple[int, ...] = (100_000, 1_000_000), few: int = 4_096, plain_count: int = 1_000) -> None:
    """Prints problems per second and the errors: solved, integrated, and by the alternatives."""
    rows = []
    sample = random_problems(100_000)
    reference = np.asarray(_integrated(*sample, REFERENCE_TOLERANCE))

    def row(name: str, count: int, timing: Any) -> None:
        times = timing.result[: len(reference)]
        rate = f"{count / timing.warm:,.0f}"
        rows.append((name, f"{count:,}", timing.cold, timing.warm, rate, *_errors(times, reference)))

    for count in counts:
        problems = random_problems(count)
        row("solved", count, timed(lambda p=problems: hitting_times(*p).time, repeats=3))
    row("integrated", len(reference), timed(lambda: _integrated(*sample, TOLERANCE), repeats=3))
    problems = random_problems(few)
    flow = taylor.integrator(problems[0].rewards.shape[-1], TOLERANCE)
    row("heyoka", few, timed(lambda: taylor.hitting_times(flow, *problems), repeats=3))
    problems = random_problems(plain_count)
    plain_times = jax.vmap(partial(plain_hitting_time, tolerance=PLAIN_TOLERANCE))
    row("vmap(diffeqsolve)", plain_count, timed(lambda: plain_times(*problems), repeats=1))
    table(
        "random problems, 8 outputs, half of the attainable increase",
        ("", "problems", "seconds, first", "again", "per second", "median error", "worst error"),
        rows,
    )
    print(f"  peak memory of the process: {peak_memory():.2f} GiB")


@contextmanager
def _without_shortcuts() -> Iterator[None]:
    """All flows go from breakpoint to breakpoint."""
    with patch.object(solved, "_SHORTCUTS", ()):
        jax.clear_caches()
        yield
    jax.clear_caches()


def shortcuts(cases: tuple[tuple[int, int], ...] = ((2, 400_000), (8, 1_000_000), (64, 40_000))) -> None:
    """Prints what the shortcuts gain, and by how much times differ from those without: outputs, problems."""
    rows = []
    for outputs, count in cases:
        problems = random_problems(count, outputs, seed=1)
        with_them = timed(lambda p=problems: hitting_times(*p).time, repeats=3)
        with _without_shortcuts():
            without = timed(lambda p=problems: hitting_times(*p).time, repeats=3)
        rates = (count / timing.warm for timing in (with_them, without))
        rows.append(
            (
                outputs,
                f"{count:,}",
                *(f"{rate:,.0f}" for rate in rates),
                without.warm / with_them.warm,
                _errors(with_them.result, without.result)[1],
            )
        )
    table(
        "random problems solved per second, on one core",
        ("outputs", "problems", "with shortcuts", "without", "ratio", "worst difference"),
        rows,
    )


def main() -> None:
    """Prints all tables."""
    one()
    many()
    shortcuts()
