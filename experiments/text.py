"""What the command line prints, and numbers as it prints them and as its JSON files hold them."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from goodteacher.sim.names import unknown as unknown


def console() -> Console:
    """Standard output; as wide as need be where it is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


def digits(value: float | None, count: int = 5) -> str:
    """A number to so many digits, ``-`` for none."""
    return "-" if value is None else f"{value:.{count}g}"


def reward_text(value: float | None) -> str:
    """A reward, without rounding errors and ``-0``."""
    return digits(value if value is None else round(value, 15) + 0.0)


def several_best(best_outputs: Sequence[Sequence[int]]) -> str:
    """A sentence on prompts with several best outputs; empty if there are none."""
    several = ", ".join(str(prompt) for prompt, best in enumerate(best_outputs) if len(best) > 1)
    return f"Prompts with several best outputs ({several}): y* is the first of them." if several else ""


def plain(values: Any) -> list[Any]:
    """An array as lists, with ``None`` for what is not finite."""
    array = np.asarray(values)
    nested = array.astype(object)
    nested[~np.isfinite(array)] = None
    return nested.tolist()
