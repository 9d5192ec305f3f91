"""Loops that NumPy's arrays run through as they are, and JAX's as one compiled program."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np

from goodteacher.sim.validation import AnyArray, namespace

Carry = TypeVar("Carry")


def repeat(xp: ModuleType, count: int, body: Callable[[Any, Carry], Carry], carry: Carry) -> Carry:
    """``carry = body(i, carry)`` for all ``i`` below a number that is known."""
    if xp is not np:
        return jax.lax.fori_loop(0, count, body, carry)
    for i in range(count):
        carry = body(i, carry)
    return carry


def repeat_while(
    xp: ModuleType, condition: Callable[[Carry], Any], body: Callable[[Carry], Carry], carry: Carry
) -> Carry:
    """``carry = body(carry)`` as long as the condition holds."""
    if xp is not np:
        return jax.lax.while_loop(condition, body, carry)
    while condition(carry):
        carry = body(carry)
    return carry


def every(xp: ModuleType, of: Callable[[AnyArray], AnyArray], rows: AnyArray) -> AnyArray:
    """A function of every row, side by side along a second axis of what it returns."""
    if xp is not np:
        return jax.vmap(of, out_axes=1)(rows)
    return np.stack([np.asarray(of(row)) for row in rows], axis=1)


def fixed(tree: Any) -> Any:
    """Without derivatives, of which NumPy's arrays have none."""
    return jax.tree.map(lambda of: of if isinstance(of, np.ndarray) else jax.lax.stop_gradient(of), tree)


def chosen(condition: AnyArray, new: Any, old: Any) -> Any:
    """The new where the condition holds, the old elsewhere."""
    xp = namespace(condition, *jax.tree.leaves(new))
    return jax.tree.map(partial(xp.where, condition), new, old)


def search(waiting: Callable[[Carry], AnyArray], attempt: Callable[[Carry], Carry], start: Carry) -> Carry:
    """Attempts for all those side by side that still wait, until none does."""

    def again(carry: Carry) -> Carry:
        return chosen(waiting(carry), attempt(carry), carry)

    xp = namespace(*jax.tree.leaves(start))
    return repeat_while(xp, lambda carry: waiting(carry).any(), again, start)
