"""How things are timed: what is cold apart from what is warm, and medians of several runs."""

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Seconds: of the first call, with compilation, and the median of the later ones."""

    cold: float
    warm: float
    result: Any


def timed(function: Callable[[], Any], repeats: int = 5) -> Timing:
    """Calls a function once cold and some times warm, waiting for its arrays each time."""
    seconds = []
    result = None
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return Timing(seconds[0], statistics.median(seconds[1:]), result)


def peak_memory() -> float:
    """The most that this process has held, in GiB.

    Where the kernel says so, of this program alone: ``getrusage`` counts what the process held before it was
    this program, as a child of a large one did.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Prints a table in plain aligned columns."""
    cells = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    print(f"\n{title}")
    for line in [list(header), *cells]:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  " + "  ".join([first, *rest]), flush=True)
