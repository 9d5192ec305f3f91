"""What the command line prints, and numbers as it prints them and as its JSON files hold them."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

_UNLIMITED = 10_000


def console() -> Console:
    """Standard output; as wide as need be where it is not a terminal.

    Texts stand as they are: in the names of prompts, rewards and files ``[/INST]`` and ``:x:`` mean nothing.
    """
    width = None if sys.stdout.isatty() else _UNLIMITED
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_table(table: Table, keys: int = 1) -> None:
    """Prints a table; in several below each other where the terminal is narrower.

    Args:
        table: of texts.
        keys: how many columns say what a row is of: the first of each part.
    """
    out = console()
    for part in _parts(table, keys, out):
        out.print(part)


def _parts(table: Table, keys: int, out: Console) -> list[Table]:
    """Tables that fit, each with as many columns as find room: of other cells than keys each has one line."""
    if out.measure(table, options=out.options.update_width(_UNLIMITED)).maximum <= out.width:
        return [table]
    names, others = table.columns[:keys], table.columns[keys:]
    room = out.width - sum(_width(column) + _GAP for column in others) - 1
    if room < keys * (_LEAST + _GAP):
        room = out.width // 2
    widths = {id(column): min(_width(column), room // keys - _GAP) for column in names}
    left = out.width - sum(widths.values()) - _GAP * keys - 1
    widths |= {id(column): min(_width(column), left - _GAP) for column in others}
    groups: list[list[Column]] = [[]]
    for column in others:
        if sum(widths[id(each)] + _GAP for each in [*groups[-1], column]) > left:
            groups.append([])
        groups[-1].append(column)
    parts = []
    for group in groups:
        part = Table(box=table.box, header_style=table.header_style, title_justify=table.title_justify)
        part.padding = (0, 1, 0, 0)
        columns = [*names, *group]
        for column in columns:
            part.add_column(column.header, justify=column.justify, width=widths[id(column)], overflow="fold")
        for row, *cells in zip(table.rows, *(column.cells for column in columns), strict=True):
            part.add_row(*cells, end_section=row.end_section)
        parts.append(part)
    parts[0].title = table.title
    return parts


_GAP = 2  # between columns, less than elsewhere: padding, and a line
_LEAST = 16  # of the width of a key, below which the table is rather printed in parts


def _width(column: Column) -> int:
    """That of the longest cell, or of the longest word of the header."""
    return max(map(cell_len, [*map(str, column.cells), *str(column.header).split()]))


def listed(names: Sequence[str], most: int) -> str:
    """Names in a sentence, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
