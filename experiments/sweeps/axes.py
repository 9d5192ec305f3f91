"""Axes of a sweep: named sequences of values, computed where they are needed."""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FORMS = (
    "linspace:FIRST:LAST:COUNT, logspace:EXPONENT:EXPONENT:COUNT, range:FIRST:END[:STEP] or VALUE,VALUE,..."
)


@dataclass(frozen=True)
class Axis:
    """The values of one parameter.

    Attributes:
        parameter: its name.
        kind: ``linspace``, ``logspace``, ``range`` or ``values``.
        arguments: of the kind: both ends and a count, or the values themselves.
    """

    parameter: str
    kind: str
    arguments: tuple[Any, ...]

    @property
    def count(self) -> int:
        """How many values there are."""
        if self.kind == "range":
            return len(range(*self.arguments))
        return len(self.arguments) if self.kind == "values" else self.arguments[2]

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The values at some positions; each depends on its position alone."""
        if self.kind == "values":
            return np.asarray(self.arguments)[indices]
        if self.kind == "range":
            first, _, step = self.arguments
            return first + step * indices.astype(np.int64)
        first, last, count = self.arguments
        values = indices * ((last - first) / max(count - 1, 1)) + first
        values = np.where((indices == count - 1) & (count > 1), last, values)
        with np.errstate(over="ignore"):
            return values if self.kind == "linspace" else 10.0**values

    def extremes(self) -> list[Any]:
        """Values between which all others are: all of them if they are listed."""
        if self.kind == "values":
            return list(self.arguments)
        return self.at(np.array([0, self.count - 1])).tolist()

    def describe(self) -> Any:
        """As it stands in a specification: a text, or the list of values."""
        if self.kind == "values":
            return list(self.arguments)
        return ":".join([self.kind, *map(repr, self.arguments)])


def axis(parameter: str, values: Any) -> Axis:
    """An axis from its text (:data:`FORMS`), or from the values themselves.

    Raises:
        ValueError: if it is empty, not finite, has a value twice, or is malformed.
    """
    try:
        kind, arguments = _parse(values) if isinstance(values, str) else ("values", _listed(values))
        found = Axis(parameter, kind, arguments)
        if found.count == 0:
            raise ValueError("is empty; give at least one value")
        if kind == "values" and len(set(arguments)) < len(arguments):
            twice = next(value for value in arguments if arguments.count(value) > 1)
            raise ValueError(f"has the value {twice} twice; give each once")
        ends = found.extremes()
        for value in ends:
            if not isinstance(value, str) and not math.isfinite(value):
                raise ValueError(f"holds {value}; give finite numbers")
        return found
    except ValueError as error:
        raise ValueError(f"axis {parameter} {error}") from error


def _parse(text: str) -> tuple[str, tuple[Any, ...]]:
    kind, colon, rest = text.partition(":")
    if not colon:
        return "values", tuple(_value(part) for part in text.split(",") if part.strip())
    if kind not in ("linspace", "logspace", "range"):
        close = difflib.get_close_matches(kind, ("linspace", "logspace", "range"), 1)
        raise ValueError(f"is {text!r}; " + (f"did you mean {close[0]}" if close else f"give {FORMS}"))
    parts = rest.split(":")
    try:
        if kind == "range":
            first, end, step = (int(part) for part in (parts if len(parts) == 3 else [*parts, "1"]))
            if step == 0:
                raise ValueError
            return kind, (first, end, step)
        low, high, count = parts
        bounds = (float(low), float(high))
        if not all(map(math.isfinite, bounds)):
            raise ValueError(f"is {text!r}; give finite numbers")
        return kind, (*bounds, max(int(count), 0))
    except ValueError as error:
        problem = str(error) if str(error).startswith("is ") else f"is {text!r}; give {FORMS}"
        raise ValueError(problem) from None


def _listed(values: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(values, np.ndarray) or not isinstance(values, Sequence):
        array = np.asarray(values)
        if array.ndim != 1:
            raise ValueError(f"has {array.ndim} dimensions; give a list of values")
        values = array.tolist()
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"holds {value!r}; give numbers or names")
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError("mixes numbers and names; give one kind")
    return tuple(values)


def _value(text: str) -> Any:
    return scalar(text.strip())


def scalar(text: str) -> int | float | str:
    """A number if the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
