"""Fields that no other part of the house follows, step by step: what solutions are compared with."""

from collections.abc import Callable

import jax
from jaxtyping import Array, ArrayLike


def runge_kutta(field: Callable[[Array], Array], start: Array, time: ArrayLike, steps: int) -> Array:
    """Where a field leads to in a time, by equal steps of the classical method of fourth order."""
    each = time / steps

    def step(_: Array, at: Array) -> Array:
        first = field(at)
        second = field(at + 0.5 * each * first)
        third = field(at + 0.5 * each * second)
        fourth = field(at + each * third)
        return at + each / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)

    return jax.lax.fori_loop(0, steps, step, start)
