"""What parameters may be: annotations that say it once, and the checks that they stand for.

Builders of instances, dynamics and measures annotate their parameters with the types of this module; sweeps
read from the annotations what may vary and what it may be.
"""

import inspect
import math
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from goodteacher.sim.names import unknown

P = ParamSpec("P")
T = TypeVar("T")


class Domain(ABC):
    """What a parameter may be.

    Attributes:
        whole: whether it is a whole number.
        static: whether it decides shapes, so that every value has a compiled computation of its own.
    """

    whole: bool
    static: bool

    @abstractmethod
    def check(self, name: str, value: Any) -> Any:
        """The value in its own type.

        Raises:
            ValueError: naming the parameter, if it is not one of this domain.
        """


@dataclass(frozen=True)
class Number(Domain):
    """Finite numbers between two ends, which are excluded if it is open."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = True
    whole: bool = False
    static: bool = False

    def check(self, name: str, value: Any) -> float | int:
        """The value as a Python number."""
        number = value.item() if isinstance(value, np.generic | jax.Array) and value.ndim == 0 else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{name} is {value!r}; give a number")
        if not math.isfinite(number):
            raise ValueError(f"{name} is {number}; give a finite number")
        if self.whole and number != int(number):
            raise ValueError(f"{name} is {number}; give a whole number")
        if not (self.low < number < self.high if self.open else self.low <= number <= self.high):
            raise ValueError(f"{name} is {number}; give a {self._words}")
        return int(number) if self.whole else float(number)

    @property
    def _words(self) -> str:
        number = "whole number" if self.whole else "number"
        if self.high < math.inf:
            between = "strictly between" if self.open else "between"
            return f"{number} {between} {self.low:g} and {self.high:g}"
        if not self.open:
            return f"{number} of at least {self.low:g}"
        return f"positive {number}" if self.low == 0 else f"{number} above {self.low:g}"


@dataclass(frozen=True)
class Choice(Domain):
    """One of some names."""

    choices: tuple[str, ...]
    whole = False
    static = True

    def check(self, name: str, value: Any) -> str:
        """The value itself."""
        if value not in self.choices:
            raise unknown(name, value, self.choices)
        return value


@dataclass(frozen=True)
class Text(Domain):
    """Any text."""

    whole = False
    static = True

    def check(self, name: str, value: Any) -> str:
        """The value itself."""
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; give a text")
        return value


@dataclass(frozen=True)
class Flag(Domain):
    """Yes or no, in files also 1 or 0."""

    whole = True
    static = True

    def check(self, name: str, value: Any) -> bool:
        """The value as a Python truth value."""
        if not isinstance(value, int) or value not in (0, 1):
            raise ValueError(f"{name} is {value!r}; give 1 or 0")
        return bool(value)


@dataclass(frozen=True)
class Maybe(Domain):
    """Another domain, or ``None`` for what is not given: zero is a value like any other."""

    of: Domain

    @property
    def whole(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the other."""
        return self.of.whole

    @property
    def static(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the other."""
        return self.of.static

    def check(self, name: str, value: Any) -> Any:
        """The value in its own type, or none."""
        return None if value is None else self.of.check(name, value)


# Values of these may be traced.
Real = Annotated[Any, Number()]
Probability = Annotated[Any, Number(0, 1)]
Share = Annotated[Any, Number(0, 1, open=False)]
Reward = Annotated[Any, Number(-1, 1)]
Positive = Annotated[Any, Number(0)]
NotNegative = Annotated[Any, Number(0, open=False)]
AtLeastOne = Annotated[Any, Number(1, open=False)]
Seed = Annotated[Any, Number(0, 2**31 - 1, open=False, whole=True)]
Count = Annotated[int, Number(1, 100_000, open=False, whole=True, static=True)]
Outputs = Annotated[int, Number(2, 100_000, open=False, whole=True, static=True)]


def domains(annotated: Callable[..., Any], *, without: Container[str] = ()) -> Mapping[str, Domain]:
    """The domains of the parameters of a function, or of the fields of a dataclass, by name.

    An annotation is one of this module, ``float`` for a real number, ``int`` for what decides a shape, or a
    ``Literal`` of names, any of them ``| None`` where it may be left out; a parameter without one is real.
    Further keyword arguments have none.

    Args:
        annotated: the function or class.
        without: names of parameters that are something else.

    Raises:
        ValueError: for another annotation.
    """
    hints = typing.get_type_hints(annotated, include_extras=True)
    return {
        name: _domain(annotated, name, hints.get(name, float))
        for name, parameter in inspect.signature(annotated).parameters.items()
        if name not in without and parameter.kind is not parameter.VAR_KEYWORD
    }


def _domain(annotated: Callable[..., Any], name: str, hint: Any) -> Domain:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        for extra in hint.__metadata__:
            if isinstance(extra, Domain):
                return extra
        hint = typing.get_args(hint)[0]
    if origin is Literal:
        return Choice(typing.get_args(hint))
    if origin in (types.UnionType, typing.Union):
        one, *others = (of for of in typing.get_args(hint) if of is not types.NoneType)
        if not others:
            return Maybe(_domain(annotated, name, one))
    if hint not in (float, int):
        raise ValueError(
            f"parameter {name} of {annotated.__qualname__} is annotated {hint}; give float, int or a Literal"
        )
    return Number() if hint is float else Number(whole=True, static=True)


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """A function that checks its arguments against their annotations first; those that are concrete."""
    known, signature = domains(function), inspect.signature(function)

    @wraps(function)
    def check_first(*args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if name in known and not isinstance(value, Tracer):
                given.arguments[name] = known[name].check(name, value)
        return function(*given.args, **given.kwargs)

    return check_first


def check_fields(made: Any) -> None:
    """Checks the fields of a new dataclass against their annotations, and gives each its own type."""
    for name, domain in domains(type(made)).items():
        object.__setattr__(made, name, domain.check(name, getattr(made, name)))
