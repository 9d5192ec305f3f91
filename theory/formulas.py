"""Formulas as data: their constants and exponents have names, so that who checks a claim can alter each."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Number = float | Float[Array, ""]
"""A constant or exponent of a formula: a keyword-only parameter of the function that is the law."""

BEYOND = np.log10(1.05)  # decades by which a number that is known to be false is refuted
_LEAST, _MOST = 1e-4, 1e3  # relative changes of a number that are tried
_HALVINGS = 24


@dataclass(frozen=True, eq=False)
class Formula:
    """A judge of observations whose constants and exponents have names.

    Attributes:
        law: what is claimed, a function whose numbers are its keyword-only parameters; the defaults are those
            of the claim. For example ``def bound(x, *, constant=2.0, exponent=-0.5)``.
        judged: makes a judge of a law without these parameters.
        numbers: the numbers by name; those of the claim if not given.
        unrefuted: numbers that nothing near the claim refutes, each with the reason why: mostly a stronger
            statement, by which the claim is true with other values too.
    """

    law: Callable[..., Any]
    judged: Callable[[Callable[..., Any]], Callable[[Any], Any]]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    unrefuted: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Completes the numbers.

        Raises:
            ValueError: if a number is named that the law has not.
        """
        parameters = inspect.signature(self.law).parameters.values()
        claimed = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        for name in [*self.numbers, *self.unrefuted]:
            if name not in claimed:
                raise ValueError(f"the law has no number {name!r}; its numbers are {', '.join(claimed)}")
        object.__setattr__(self, "numbers", MappingProxyType({**claimed, **self.numbers}))

    def __call__(self, observed: Any) -> Any:
        """The two sides on one observation."""
        return self.sides(observed, self.numbers)

    def sides(self, observed: Any, numbers: Mapping[str, Any]) -> Any:
        """The two sides by other numbers, which may be traced."""
        return self.judged(partial(self.law, **numbers))(observed)

    def altered(self, **numbers: Any) -> "Formula":
        """The same with other numbers."""
        return replace(self, numbers={**self.numbers, **numbers})

    def off_by_a_tenth(self) -> Mapping[str, "Formula"]:
        """Sabotages of an identity: every number larger by a tenth, one at a time."""
        return MappingProxyType(
            {
                f"{name} {1.1 * number:.4g} for {number:.4g}": self.altered(**{name: 1.1 * number})
                for name, number in self.numbers.items()
            }
        )

    @cached_property
    def root(self) -> tuple[Any, Any]:
        """What formulas that differ in their numbers alone have in common."""
        return self.law, self.judged


def changed(number: float, by: Any) -> Any:
    """A number changed in magnitude by a share: larger where that is positive, else smaller."""
    by = jnp.asarray(by)
    return number * jnp.where(by > 0, 1.0 + by, 1.0 / (1.0 - by))


def nearest_false(formula: Formula, observed: Any, witnesses: int = 1) -> dict[str, list[float]]:
    """For each number the nearest values, above and below in magnitude, that some observations refute.

    Refuted means: the claim with that value in its place is violated by 5 %. Of a number for which there is
    no such value: the nearest of the other sign.

    Args:
        formula: whose numbers are altered one at a time.
        observed: a batch of observations.
        witnesses: how many of them must refute a value, so that others like them can be expected to.

    Returns:
        At most two values for each number, the nearer one first; the other one within a factor of two.
    """
    found = {}
    for name, number in formula.numbers.items():

        def nearest(away: Callable[[Any], Any], name: str = name) -> list[tuple[float, float]]:
            """The least share at which the number is refuted, and the value there; if there is one."""
            shares = np.geomspace(_LEAST, _MOST, 57)
            ladder = _refuted(formula, name, observed, away(shares), witnesses)
            if not ladder.any():
                return []
            first = int(ladder.argmax())
            between = np.geomspace(shares[max(first - 1, 0)], shares[first], _HALVINGS)
            share = between[int(_refuted(formula, name, observed, away(between), witnesses).argmax())]
            return [(share, float(away(share)))]

        values = sorted(
            each for sign in (1.0, -1.0) for each in nearest(lambda by, n=number, s=sign: changed(n, s * by))
        )
        # What is false on the other side too, but only far away, would ask for much.
        values = [each for each in values if each[0] <= 1.0 or each == values[0]]
        found[name] = [value for _, value in values or nearest(lambda by, n=number: -n * by)]
    return found


def _refuted(formula: Formula, name: str, observed: Any, values: Any, witnesses: int) -> np.ndarray:
    """For each value of a number whether so many observations refute it."""
    margins = _least_margins(formula, name, observed, jnp.asarray(values), witnesses)
    return np.asarray(margins) <= -BEYOND


@partial(jax.jit, static_argnames=("formula", "name", "witnesses"))
def _least_margins(formula: Formula, name: str, observed: Any, values: Any, witnesses: int) -> Any:
    def least(value: Any) -> Any:
        numbers = {**formula.numbers, name: value}
        margins = jax.vmap(lambda one: formula.sides(one, numbers).margin)(observed)
        return jnp.sort(jnp.where(jnp.isnan(margins), -jnp.inf, margins))[witnesses - 1]

    return jax.vmap(least)(values)  # what no number enters is computed once
