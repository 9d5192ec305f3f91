"""What the command line prints, and numbers as it prints them and as its JSON files hold them."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output; as wide as need be where it is not a terminal.

    Texts stand as they are: in the names of prompts, rewards and files ``[/INST]`` and ``:x:`` mean nothing.
    """
    width = None if sys.stdout.isatty() else 10_000
    return Console(highlight=False, markup=False, emoji=False, width=width)


def numbers_table(text: str, *numbers: str) -> Table:
    """A table whose first column is text and the others numbers."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(text)
    for header in numbers:
        table.add_column(header, justify="right")
    return table


def titles(kind: str, entries: Mapping[str, Any]) -> Table:
    """What there is of a kind, by name, with the title of each."""
    table = numbers_table(kind)
    table.add_column("title")
    for name, entry in entries.items():
        table.add_row(name, entry.title)
    return table


def digits(value: float | None, count: int = 5) -> str:
    """A number to so many digits, ``-`` for none."""
    return "-" if value is None else f"{value:.{count}g}"


def reward_text(value: float | None) -> str:
    """A reward, without rounding errors and ``-0``."""
    return digits(value if value is None else round(value, 15) + 0.0)


def plain(values: Any) -> list[Any]:
    """An array as lists, with ``None`` for what is not finite."""
    array = np.asarray(values)
    nested = array.astype(object)
    nested[~np.isfinite(array)] = None
    return nested.tolist()
