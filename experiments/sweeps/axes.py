"""Axes of a sweep: sequences of values, computed where they are needed."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np

from goodteacher.experiments.domains import Number, Real, check_fields
from goodteacher.sim.names import unknown

FORMS = (
    "linspace:FIRST:LAST:COUNT, logspace:EXPONENT:EXPONENT:COUNT, range:FIRST:END[:STEP] or VALUE,VALUE,..."
)

Whole = Annotated[int, Number(whole=True)]
Size = Annotated[int, Number(0, open=False, whole=True)]


class Axis(ABC):
    """The values of one parameter.

    Attributes:
        count: how many there are.
        spaced: whether they are real numbers, spaced between two ends.
    """

    count: int
    spaced: bool

    @abstractmethod
    def at(self, indices: np.ndarray) -> np.ndarray:
        """The values at some positions; each depends on its position alone."""

    def extremes(self) -> list[Any]:
        """Values between which all others are."""
        return self.at(np.array([0, self.count - 1])).tolist()

    @abstractmethod
    def describe(self) -> Any:
        """Plain data, equal for equal axes: a text of :data:`FORMS`, or the list of values."""


@dataclass(frozen=True)
class Linspace(Axis):
    """Evenly spaced numbers from the first to the last, both included, as of :func:`numpy.linspace`."""

    first: Real
    last: Real
    count: Size
    spaced = True

    def __post_init__(self) -> None:
        """Refuses what is not finite."""
        check_fields(self)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The values at some positions."""
        values = indices * ((self.last - self.first) / max(self.count - 1, 1)) + self.first
        return np.where((indices == self.count - 1) & (self.count > 1), self.last, values)

    def describe(self) -> str:
        """The text."""
        return f"linspace:{self.first}:{self.last}:{self.count}"


@dataclass(frozen=True)
class Logspace(Axis):
    """Powers of ten with evenly spaced exponents, as of :func:`numpy.logspace`."""

    first: Real
    last: Real
    count: Size
    spaced = True

    def __post_init__(self) -> None:
        """Refuses what is not finite."""
        check_fields(self)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The values at some positions."""
        with np.errstate(over="ignore"):
            return 10.0 ** Linspace(self.first, self.last, self.count).at(indices)

    def describe(self) -> str:
        """The text."""
        return f"logspace:{self.first}:{self.last}:{self.count}"


@dataclass(frozen=True)
class Range(Axis):
    """Whole numbers from the first to the end, which is excluded, as of :class:`range`."""

    first: Whole
    end: Whole
    step: Whole = 1
    spaced = False

    def __post_init__(self) -> None:
        """Refuses what is no range."""
        check_fields(self)
        if self.step == 0:
            raise ValueError("step is 0; give another whole number")

    @property
    def count(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many there are."""
        return len(range(self.first, self.end, self.step))

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The values at some positions."""
        return self.first + self.step * indices.astype(np.int64)

    def describe(self) -> str:
        """The text."""
        return f"range:{self.first}:{self.end}:{self.step}"


@dataclass(frozen=True)
class Values(Axis):
    """Numbers or names, one by one."""

    values: tuple[int | float | str, ...]
    spaced = False

    @property
    def count(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many there are."""
        return len(self.values)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The values at some positions."""
        return np.asarray(self.values)[indices]

    def extremes(self) -> list[Any]:
        """All of them."""
        return list(self.values)

    def describe(self) -> list[Any]:
        """The values."""
        return list(self.values)


_KINDS: Mapping[str, tuple[Callable[..., Axis], tuple[Callable[[str], float], ...]]] = MappingProxyType(
    {
        "linspace": (Linspace, (float, float, int)),
        "logspace": (Logspace, (float, float, int)),
        "range": (Range, (int, int, int)),
    }
)


def axis(parameter: str, values: Any) -> Axis:
    """The axis of a parameter.

    Args:
        parameter: its name, for the error.
        values: an axis, a text (:data:`FORMS`), or the values themselves as a list or an array.

    Raises:
        ValueError: if it is empty, not finite, has a value twice, or is malformed.
    """
    try:
        found = values
        if not isinstance(values, Axis):
            found = _parse(values) if isinstance(values, str) else _listed(values)
        if found.count == 0:
            raise ValueError("is empty; give at least one value")
        ends = found.extremes()
        for value in ends:
            if not isinstance(value, str) and not math.isfinite(value):
                raise ValueError(f"holds {value}; give finite numbers")
        if isinstance(found, Values) and len(set(ends)) < len(ends):
            twice = next(value for value in ends if ends.count(value) > 1)
            raise ValueError(f"has the value {twice} twice; give each once")
        return found
    except ValueError as error:
        raise ValueError(f"axis {parameter} {error}") from error


def _parse(text: str) -> Axis:
    name, colon, rest = text.partition(":")
    if not colon:
        return Values(tuple(scalar(part.strip()) for part in text.split(",") if part.strip()))
    if name not in _KINDS:
        raise ValueError(f"is {text!r}: {unknown('form', name, _KINDS)}")
    kind, types = _KINDS[name]
    parts = rest.split(":")
    try:
        return kind(*(number(part) for number, part in zip(types[: len(parts)], parts, strict=True)))
    except (TypeError, ValueError):
        raise ValueError(f"is {text!r}; give {FORMS}, of finite numbers") from None


def _listed(values: Iterable[Any]) -> Values:
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
    return Values(tuple(values))


def scalar(text: str) -> int | float | str:
    """A number if the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
