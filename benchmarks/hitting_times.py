"""Hitting times: one, and very many, against diffrax's ``diffeqsolve`` with an event."""

import resource
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.problems import plain_hitting_time, random_problems
from benchmarks.timing import table, timed
from goodteacher.experiments.instances import beneficial_errors
from goodteacher.sim.flow import Control, hitting_time, hitting_times
from goodteacher.sim.goals import probability_level

REFERENCE_TOLERANCE = 1e-13
PLAIN_TOLERANCE = 1e-8  # for errors no smaller than those of the lanes at the same tolerance


def _worst(times: Any, reference: Any) -> float:
    return float(np.abs(np.asarray(times).ravel() / np.asarray(reference).ravel() - 1.0).max())


def one() -> None:
    """Prints what one hitting time takes and how exact it is, near and far."""
    rows = []
    for initial_probability in (0.05, 0.01, 1e-6, 1e-12):
        instance = beneficial_errors(initial_probability)
        goal = probability_level(instance, 0, 0.9)
        reference = hitting_time(instance, goal, Control(tolerance=REFERENCE_TOLERANCE)).time
        ours = timed(lambda i=instance, g=goal: hitting_time(i, g), repeats=50)
        rows.append(
            (
                initial_probability,
                f"{ours.result.time[0]:.10g}",
                int(ours.result.steps),
                1e3 * ours.warm,
                _worst(ours.result.time, reference),
            )
        )
    table(
        "one hitting time of p(y*) = 0.9, five outputs, on the ground truth (milliseconds, warm)",
        ("initial p(y*)", "hitting time", "steps", "ms", "relative error"),
        rows,
    )


def many(counts: tuple[int, ...] = (100_000, 300_000, 1_000_000), plain_count: int = 1_000) -> None:
    """Prints problems per second, and the errors, at several tolerances and numbers of problems."""
    rows = []
    sample = random_problems(100_000)
    reference = np.asarray(hitting_times(*sample, control=Control(tolerance=REFERENCE_TOLERANCE)).time)
    for tolerance in (1e-10, 1e-8):
        for count in counts:
            problems = random_problems(count)
            ours = timed(
                lambda p=problems, t=tolerance: hitting_times(*p, control=Control(tolerance=t)), repeats=3
            )
            error = _worst(ours.result.time[: len(reference)], reference[:count])
            rows.append(
                ("lanes", f"{tolerance:g}", f"{count:,}", ours.warm, f"{count / ours.warm:,.0f}", error)
            )
    problems = random_problems(plain_count)
    plain_times = jax.vmap(partial(plain_hitting_time, tolerance=PLAIN_TOLERANCE))
    plain = timed(lambda: plain_times(*problems), repeats=1)
    rate = f"{plain_count / plain.warm:,.0f}"
    error = _worst(plain.result, reference[:plain_count])
    rows.append(("vmap(diffeqsolve)", f"{PLAIN_TOLERANCE:g}", f"{plain_count:,}", plain.warm, rate, error))
    table(
        "random problems, 8 outputs, half of the attainable increase",
        ("", "tolerance", "problems", "seconds, warm", "per second", "worst relative error"),
        rows,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  peak memory of the process: {peak:.2f} GiB")


def main() -> None:
    """Prints both tables."""
    one()
    many()
