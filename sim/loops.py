"""Loops that NumPy's arrays run through as they are, and JAX's as one compiled program."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np

from goodteacher.sim.validation import AnyArray, namespace

Carry = TypeVar("Carry")
Problems = TypeVar("Problems")


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


def search(
    waiting: Callable[[Carry], AnyArray],
    attempt: Callable[[Problems, Carry], Carry],
    of: Problems,
    start: Carry,
) -> Carry:
    """Attempts for all those side by side that still wait, until none does.

    Args:
        waiting: whether each waits for another attempt.
        attempt: at problems, from where they are.
        of: the problems, along the last axis of all arrays. So is the start.
        start: where they are at first.
    """

    def again(of: Problems, carry: Carry, waits: AnyArray) -> Carry:
        return chosen(waits, attempt(of, carry), carry)

    if namespace(*jax.tree.leaves(start)) is not np:
        return jax.lax.while_loop(
            lambda carry: waiting(carry).any(), lambda carry: again(of, carry, waiting(carry)), start
        )
    part, whole, places = start, start, None
    while (waits := waiting(part)).any():
        # Once most have ended, no more is done for them.
        if 2 * waits.sum() < waits.size:
            whole = replaced(whole, places, part)
            places = waits.nonzero()[0] if places is None else places[waits]
            of, part = jax.tree.map(lambda leaf, waits=waits: leaf[..., waits], (of, part))
            waits = waits[waits]
        part = again(of, part, waits)
    return replaced(whole, places, part)


def replaced(whole: Any, places: AnyArray | None, part: Any) -> Any:
    """A copy of NumPy's arrays with others in some places of the last axis; the others where it is all."""

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        copied = old.copy()
        copied[..., places] = new
        return copied

    return part if places is None else jax.tree.map(put, whole, part)
