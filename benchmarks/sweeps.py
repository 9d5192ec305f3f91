"""Sweeps of random problems: hitting times per second over devices and outputs, memory.

Each measurement runs in a process of its own, with its own number of CPU devices:
``python -m benchmarks.sweeps OUTPUTS POINTS`` prints one as JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from scipy.integrate import solve_ivp

from benchmarks.problems import plain_hitting_time, random_problems
from benchmarks.timing import peak_memory, table, timed
from goodteacher.experiments.sweeps import runner
from goodteacher.experiments.sweeps.axes import Range
from goodteacher.experiments.sweeps.dynamics import Flow
from goodteacher.experiments.sweeps.measures import share_time
from goodteacher.experiments.sweeps.specification import Specification, specify
from goodteacher.experiments.workers import cores

TOLERANCE = 1e-10  # of the alternatives; the flow is solved
POINTS = {4: 400_000, 8: 400_000, 16: 200_000, 64: 40_000}
PLAIN = {4: 1_000, 8: 1_000, 16: 100, 64: 20}  # so slow with many outputs: all wait for the slowest
RUNS = 3


def _specification(outputs: int, points: int) -> Specification:
    """The problems of :func:`benchmarks.problems.random_problems`, each from its own seed."""
    return specify(
        "random",
        {"seed": Range(0, points)},
        [share_time(0.5)],
        parameters={"outputs": outputs, "logit_scale": 2.0},
        dynamics=Flow(),
    )


def measure(outputs: int, points: int) -> dict[str, float]:
    """Sweeps into a store in a temporary folder: first cold, then warm; very many points only once."""
    chosen = _specification(outputs, points)
    seconds = []
    for _ in range(1 + min(RUNS, 3_000_000 // points)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            runner.run(chosen, Path(folder) / "store")
            seconds.append(time.perf_counter() - start)
    warm = statistics.median(seconds[1:] or seconds)
    return {"cold": seconds[0], "warm": warm, "peak": peak_memory()}


def _apart(devices: int, outputs: int, points: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.sweeps", str(outputs), str(points)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return json.loads(subprocess.check_output(command, env=environment, text=True))


def scipy_hitting_times(problems: Any) -> np.ndarray:
    """A loop over problems, each with ``solve_ivp`` and an event."""
    instances, goals = problems

    def one(rewards: Any, start: Any, level: Any) -> float:
        def policy(logits: np.ndarray) -> np.ndarray:
            weights = np.exp(logits - logits.max())
            return weights / weights.sum()

        def velocity(t: float, logits: np.ndarray) -> np.ndarray:
            p = policy(logits)
            return p * (rewards - p @ rewards)

        def gap(t: float, logits: np.ndarray) -> float:
            return policy(logits) @ rewards - level

        gap.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
        found = solve_ivp(
            velocity, (0.0, 1e60), start, method="DOP853", events=gap, rtol=TOLERANCE, atol=TOLERANCE
        )
        return float(found.t_events[0][0])

    arrays = (instances.rewards[:, 0], instances.initial_parameters[:, 0], goals.level[:, 0])
    return np.array([one(*row) for row in zip(*map(np.asarray, arrays), strict=True)])


def _plain(problems: Any) -> Array:
    return jax.vmap(partial(plain_hitting_time, tolerance=TOLERANCE))(*problems)


def speed() -> None:
    """Prints hitting times per second by number of outputs and devices, beside the alternatives."""
    rows = []
    counts = (1, 2, 4) if jax.default_backend() == "cpu" else (1,)
    for outputs, points in POINTS.items():
        rates = [points / _apart(devices, outputs, points)["warm"] for devices in counts]
        few, many = random_problems(200, outputs), random_problems(PLAIN[outputs], outputs)
        plain = PLAIN[outputs] / timed(partial(_plain, many), repeats=1).warm
        loop = 200 / timed(partial(scipy_hitting_times, few), repeats=1).warm
        best = max(rates)
        rows.append(
            (
                outputs,
                *(f"{rate:,.0f}" for rate in rates),
                f"{plain:,.0f}",
                f"{loop:,.1f}",
                f"{best / plain:,.0f}",
                f"{best / loop:,.0f}",
            )
        )
    table(
        "sweeps of random problems into a store: hitting times per second, warm",
        (
            "outputs",
            *(f"{n} device{'s' * (n > 1)}" for n in counts),
            "vmap(diffeqsolve)",
            "SciPy loop",
            "times the one",
            "the other",
        ),
        rows,
    )


def scale() -> None:
    """Prints what becomes of speed and memory with many points, on all cores."""
    rows = []
    for points in (100_000, 1_000_000, 10_000_000):
        found = _apart(cores(), 8, points)
        rows.append((f"{points:,}", found["cold"], f"{points / found['warm']:,.0f}", f"{found['peak']:.2f}"))
    table(
        "a sweep on all cores, 8 outputs",
        ("points", "seconds, cold", "per second, warm", "peak memory of the process, GiB"),
        rows,
    )


def main() -> None:
    """Prints both tables."""
    speed()
    scale()


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
