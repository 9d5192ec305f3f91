"""Tables with a row for each prompt, whose draws stand in lists or in numbered columns."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from goodteacher.experiments.rollouts.collection import Column, Frame, numbers, texts
from goodteacher.experiments.rollouts.layouts import PROMPT_NAMES, named

_NUMBERED = re.compile(r"(.+?)[_.]?(\d+)")


def _is_numeric(column: Column) -> bool:
    """Whether most of it is numbers, and some of it."""
    given = column.dropna()
    if given.empty or given.map(lambda value: isinstance(value, list | dict | np.ndarray)).any():
        return False
    return bool(np.isfinite(numbers(given)).mean() > 0.5)


def lengthening(frame: Frame, source: str) -> Callable[[Frame], Frame]:
    """How a table gets a row for each draw, as its first rows have it: what it makes of these and all others.

    A table has a row for each prompt if it has lists of values, or numbered columns such as ``score_1`` to
    ``score_8`` while few prompts have several rows. Any other stays as it is. Rows keep their index.

    Args:
        frame: the first rows.
        source: of which rows that name no prompt are prompts.
    """
    if lists := _lists_of_draws(frame):
        return partial(_from_lists, lists)
    prompts = named(PROMPT_NAMES, list(frame.columns))
    if prompts and _most_repeat(frame[prompts[0]]):
        return lambda longer: longer
    families: dict[str, list[tuple[int, str]]] = {}
    for name in frame.columns:
        if found := _NUMBERED.fullmatch(name):
            families.setdefault(found[1].rstrip("_."), []).append((int(found[2]), name))
    families = {family: sorted(of) for family, of in families.items() if len(of) > 1}
    if not any(_is_numeric(frame[of[0][1]]) for of in families.values()):
        return lambda longer: longer
    numbered: dict[int, dict[str, str]] = {}
    for family, of in families.items():
        for number, name in of:
            numbered.setdefault(number, {})[name] = family
    return partial(_from_numbered, numbered, None if prompts else source)


def _lists_of_draws(frame: Frame) -> list[str]:
    """Columns that mostly are lists, of the length of the first one that has numbers."""
    lists = [
        name
        for name in frame.columns
        if frame[name].dtype == object
        and name.lower() not in PROMPT_NAMES
        and frame[name].dropna().map(_is_list).mean() > 0.5
    ]
    numeric = [name for name in lists if frame[name].map(_holds_numbers).any()]
    if not numeric:
        return []
    lengths = {name: frame[name].map(_length) for name in lists}
    length = lengths[numeric[0]]
    return [name for name, of in lengths.items() if (of == length)[(of > 0) & (length > 0)].mean() > 0.5]


def _from_lists(lists: Sequence[str], frame: Frame) -> Frame:
    """As many rows as the longest list has; of a shorter one it is not known which draws it is of."""
    cells = frame.reindex(columns=lists)
    count = cells.map(_length).max(axis=1).clip(lower=1)
    whole = {
        name: [
            list(value) if _length(value) == n else [np.nan] * n
            for value, n in zip(cells[name], count, strict=True)
        ]
        for name in lists
    }
    return frame.assign(**whole).explode(list(lists))


def _from_numbered(numbered: Mapping[int, Mapping[str, str]], source: str | None, frame: Frame) -> Frame:
    if source is not None:
        frame = frame.assign(prompt=[f"row {place} of {source}" for place in frame.index])
    # A column with the name of a family, such as the mean of its scores, is not of the draws.
    members = {name for of in numbered.values() for pair in of.items() for name in pair}
    rest = [name for name in frame.columns if name not in members]
    parts = [frame.reindex(columns=[*rest, *of]).rename(columns=of) for _, of in sorted(numbered.items())]
    return pd.concat(parts)


def _most_repeat(column: Column) -> bool:
    """Whether most values stand in several rows."""
    code, levels = texts(column)
    several = np.bincount(code[code >= 0], minlength=len(levels)) > 1
    return 2 * int(several.sum()) > len(levels)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | np.ndarray)


def _length(value: Any) -> int:
    return len(value) if _is_list(value) else 0


def _holds_numbers(value: Any) -> bool:
    return _length(value) > 1 and all(isinstance(each, int | float | np.number) for each in value)
