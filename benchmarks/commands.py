"""What one waits for commands: with nothing compiled before, and again.

The rollouts are made up. A file of one's own is measured beside them by
``python -m benchmarks.commands diagnose FILE``.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.timing import table

_RUNS = 5


def _rollouts(path: Path, prompts: int, draws: int, rewards: int, truth: bool) -> list[str]:
    """Writes a file whose rewards are more or less of the truth, and says how it is diagnosed."""
    rng = np.random.default_rng(0)
    size = prompts * draws
    right = (rng.random(size) < np.repeat(rng.beta(0.5, 1.0, size=prompts), draws)).astype(float)
    columns = {"prompt": np.repeat(np.arange(prompts), draws)}
    columns |= {"truth": right} if truth else {}
    for name, share in zip("abcdefghi", np.linspace(0.9, 0.3, 9)[:rewards], strict=False):
        columns[name] = (share * right + (1.0 - share) * rng.normal(size=size)).round(4)
    pd.DataFrame(columns).to_json(path, orient="records", lines=True)
    return ["diagnose", str(path), "--reward", *list("abcdefghi"[:rewards])]


def _waited(command: list[str], cache: str) -> tuple[float, float]:
    """Seconds, and GiB at most."""
    start = time.perf_counter()
    whole = [sys.executable, "-m", "goodteacher", *command]
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    process = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, used.ru_maxrss / 2**20


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds cold and again, medians, and the most memory in GiB."""
    cold, again, memory = [], [], []
    for _ in range(_RUNS):
        with tempfile.TemporaryDirectory() as cache:
            for seconds in (cold, again):
                spent, held = _waited(command, cache)
                seconds.append(spent)
                memory.append(held)
    return statistics.median(cold), statistics.median(again), max(memory)


def main() -> None:
    """Prints a row for each command."""
    with tempfile.TemporaryDirectory() as folder:

        def made(name: str, *of: int, truth: bool = True) -> list[str]:
            return _rollouts(Path(folder) / f"{name}.jsonl", *of, truth=truth)

        commands = {
            "run examples/ground_truth.json": ["run", "examples/ground_truth.json", "--gamma", "0.9"],
            "errors examples/errors.json": ["errors", "examples/errors.json"],
            "diagnose, 483 prompts x 10, 9 rewards": made("nine", 483, 10, 9),
            "diagnose, 10,000 x 16, 4 rewards": made("four", 10_000, 16, 4),
            "diagnose, a million rows, no truth": made("million", 62_500, 16, 1, truth=False),
        }
        rows = [(name, *(f"{value:.2f}" for value in measure(command))) for name, command in commands.items()]
    table("commands: seconds", ("", "nothing compiled", "again", "most memory, GiB"), rows)


if __name__ == "__main__":
    print("seconds with nothing compiled, again; GiB:", *(f"{value:.2f}" for value in measure(sys.argv[1:])))
