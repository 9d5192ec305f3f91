"""Given numbers as arrays, refused in plain words if they are none.

What is concrete stays in NumPy, which compiles nothing; what is traced becomes a JAX array.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

AnyArray = Array | np.ndarray  # where NumPy computes what is not traced

# A number, an array, or numbers nested in lists: whatever it is, it is validated and refused in plain words.
Numbers = Any


def is_concrete(*values: Any) -> bool:
    """Whether no value is traced."""
    return not any(isinstance(value, Tracer) for value in values)


def namespace(*values: Any) -> ModuleType:
    """What computes with these arrays: NumPy, or ``jax.numpy`` if one is traced."""
    return np if is_concrete(*values) else jnp


def beside(*values: AnyArray) -> ModuleType:
    """What computes at once with arrays where they are: NumPy, unless one is traced or on an accelerator."""
    if not is_concrete(*values):
        return jnp
    arrays = [value for value in values if isinstance(value, jax.Array)]
    return np if all(device.platform == "cpu" for of in arrays for device in of.devices()) else jnp


def strongly_typed(tree: Any) -> Any:
    """Without weak types (of what Python's numbers went into): they would compile everything anew."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), tree)


def as_array(name: str, value: Numbers) -> Any:
    """An array of given numbers, finite or not: NumPy's if they are concrete.

    Raises:
        ValueError: naming the field, if it holds anything but numbers, or rows of different lengths.
    """
    if isinstance(value, Tracer):
        return jnp.asarray(value, float)  # not weakly typed: that would compile everything anew
    try:
        array = np.asarray(value)
    except ValueError as error:
        if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
            return jnp.asarray(value, float)
        raise ValueError(
            f"{name} has rows of different lengths or nesting; pad the rows to one length and give a mask"
        ) from error
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(value, float)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold numbers only, nested as lists; it has {_offender(value)}")
    return array.astype(float)


def _offender(value: Any) -> str:
    while isinstance(value, list | tuple) and value:
        value = next((v for v in value if not isinstance(v, int | float)), value[0])
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def finite(name: str, value: Numbers, exists: np.ndarray | None = None, ndim: int | None = None) -> Any:
    """An array of given numbers: NumPy's if they are concrete.

    Args:
        name: of the field, for the error.
        value: an array, or numbers nested in lists.
        exists: where they count; everywhere if not given.
        ndim: how many dimensions it must have.

    Raises:
        ValueError: if it holds anything but numbers, rows of different lengths, or a number that counts and
            is not finite.
    """
    array = as_array(name, value)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} has {array.ndim} levels of nesting; give {ndim}")
    if is_concrete(array):
        bad = ~np.isfinite(array)
        if exists is not None:
            bad &= exists
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            place = "".join(f"[{i}]" for i in index)
            raise ValueError(f"{name}{place} is {float(array[index])}; give finite numbers")
    return array


def rows(name: str, value: Numbers, shape: tuple[int, ...] | None = None) -> Any:
    """Numbers by prompt and output; a single prompt may be given without its axis.

    Raises:
        ValueError: as :func:`as_array`, and if they have another shape than the rewards.
    """
    array = as_array(name, value)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise ValueError(f"{name} has {array.ndim} levels of nesting; give 2: a list of outputs per prompt")
    if shape is not None and array.shape != shape:
        raise ValueError(
            f"{name} has shape {list(array.shape)} but rewards has shape {list(shape)}; make them equal"
        )
    return array


def rows_of_times(times: Numbers, problems: int) -> Any:
    """Times of each of many problems.

    Raises:
        ValueError: as :func:`as_array`; if they have another shape, or one is negative or not finite.
    """
    array = as_array("times", times)
    if array.ndim != 2 or len(array) != problems or array.size == 0:
        shape = list(array.shape)
        raise ValueError(f"times has shape {shape}; give a row of times for each of {problems} problems")
    if is_concrete(array) and not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError("times must be finite and not negative")
    return array


def scalar(name: str, value: Numbers, requirement: str) -> Any:
    """One number that is ``positive`` or ``not negative``.

    Raises:
        ValueError: if it is none.
    """
    number = finite(name, value)
    if number.ndim != 0:
        raise ValueError(f"{name} has shape {list(number.shape)}; give one number")
    # Numbers below the normal ones are zero to a compiled program.
    if is_concrete(number) and (number < 0 or (requirement == "positive" and number < np.finfo(float).tiny)):
        raise ValueError(f"{name} is {float(number)}; it must be {requirement}")
    return number


def jax_array(array: Any) -> Array:
    """An array of JAX, in its default precision, with nothing compiled; concrete under jit too, if it is."""
    if not is_concrete(array):
        return jnp.asarray(array, float)
    with jax.ensure_compile_time_eval():
        return jnp.asarray(array, float)
