"""What a sweep is: read from Python, a TOML file or the command line, validated, and cut into chunks."""

import itertools
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from goodteacher.experiments.sweeps.axes import Axis, axis
from goodteacher.experiments.sweeps.builders import Builder, find_builder
from goodteacher.experiments.sweeps.measures import Dynamics, Measure, Variable, dynamics, measure
from goodteacher.sim.instance import Instance
from goodteacher.sim.names import unknown

_MOST_POINTS, _LEAST_POINTS = 1 << 17, 1 << 11  # of a chunk, if memory allows
_MEMORY = 256 << 20  # bytes for a chunk
_ARRAYS = 16  # of the size of the rewards, that a problem of a chunk takes
_CHUNKS = 8  # of each device, at least, if the sweep is not small
_ACCELERATED = 8  # times as many lanes and points, and as much memory, on an accelerator
_KEYS = ("builder", "axes", "measures", "parameters", "zip", "dynamics", "chunk", "lanes")


@dataclass(frozen=True)
class Specification:
    """A validated sweep.

    Attributes:
        builder: what makes the instances.
        parameters: those that are fixed and not left at their defaults.
        dimensions: by name, the axis of each dimension of the grid; several if they are zipped.
        measures: by the name of their variables.
        dynamics: how the policies evolve.
        prompts, outputs: of an instance; outputs are the most that any has.
    """

    builder: Builder
    parameters: Mapping[str, Any]
    dimensions: Mapping[str, tuple[Axis, ...]]
    measures: Mapping[str, Measure]
    dynamics: Dynamics
    prompts: int
    outputs: int

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return tuple(axes[0].count for axes in self.dimensions.values())

    @property
    def points(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @cached_property
    def variables(self) -> dict[str, Variable]:
        """All arrays over the grid."""
        found: dict[str, Variable] = {}
        for name, one in self.measures.items():
            found |= one.variables(name, self.dynamics)
        return found

    @property
    def bytes(self) -> int:
        """Of all variables, before compression."""
        of_a_point = sum(np.dtype(variable.dtype).itemsize for variable in self.variables.values())
        return self.points * self.prompts * of_a_point

    def describe(self) -> dict[str, Any]:
        """Plain data that says it all; equal for equal sweeps."""
        return {
            "builder": self.builder.name,
            **({"builder_digest": self.builder.identity} if self.builder.identity else {}),
            "parameters": dict(sorted(self.parameters.items())),
            "axes": {a.parameter: a.describe() for axes in self.dimensions.values() for a in axes},
            "zip": [[a.parameter for a in axes] for axes in self.dimensions.values() if len(axes) > 1],
            "measures": [one.text for one in self.measures.values()],
            "dynamics": self.dynamics.describe(),
        }


class Chunking(NamedTuple):
    """How a sweep is computed: fixed when its store is made.

    Attributes:
        shape: of a chunk; those at the far end of a dimension are cut off.
        lanes: how many problems are under way at a time.
    """

    shape: tuple[int, ...]
    lanes: int

    @property
    def points(self) -> int:
        """Of a whole chunk."""
        return math.prod(self.shape)


def specify(
    builder: str | Callable[..., Instance],
    axes: Mapping[str, Any],
    measures: Sequence[str],
    *,
    parameters: Mapping[str, Any] | None = None,
    zipped: Sequence[Sequence[str]] = (),
    dynamics_options: Mapping[str, Any] | None = None,
) -> Specification:
    """Validates a sweep; arguments as for :func:`goodteacher.experiments.sweeps.runner.sweep`.

    Raises:
        ValueError: in one sentence, whatever is wrong.
    """
    if isinstance(builder, str | bytes) or callable(builder):
        found = find_builder(builder if callable(builder) else str(builder))
    else:
        raise ValueError(f"builder is {builder!r}; give a name or a function")
    fixed = {name: _domain(found, name).check(name, value) for name, value in (parameters or {}).items()}
    if not axes:
        raise ValueError("axes is empty; give at least one axis")
    every = {name: axis(name, values) for name, values in axes.items()}
    for one in every.values():
        domain = _domain(found, one.parameter)
        if one.parameter in fixed:
            raise ValueError(f"{one.parameter} is given as a parameter and as an axis; give one")
        if one.parameter == "prompts":
            raise ValueError("prompts cannot be an axis: arrays of the store have one number of prompts")
        for value in one.extremes():
            domain.check(f"axis {one.parameter}: {one.parameter}", value)
        if domain.kind in ("seed", "count") and one.kind in ("linspace", "logspace"):
            raise ValueError(f"axis {one.parameter} needs whole numbers; give range:FIRST:END or a list")
    dimensions = _zip(every, zipped)

    # Shapes, and whatever the function refuses of its fixed parameters.
    static = [
        [(a.parameter, v) for v in a.at(np.arange(a.count)).tolist()]
        for a in every.values()
        if _domain(found, a.parameter).static
    ]
    first = {a.parameter: _plain(a.at(np.zeros(1, int))[0]) for a in every.values()}
    shapes = []
    for combination in itertools.product(*static):
        traced = {k: v for k, v in first.items() if not _domain(found, k).static}
        chosen = dict(combination)
        shape = jax.eval_shape(lambda chosen=chosen, **v: found.build(**fixed, **chosen, **v), **traced)
        shapes.append(shape.rewards.shape)
    outputs = [shape[1] for shape in shapes]
    evolving = dynamics(**_text_keys(dynamics_options))
    return Specification(
        found,
        fixed,
        dimensions,
        _named([measure(text, evolving, min(outputs)) for text in _measures(measures)], dimensions, every),
        evolving,
        shapes[0][0],
        max(outputs),
    )


def _measures(texts: Any) -> list[str]:
    if isinstance(texts, str) or not texts:
        raise ValueError(f"measures is {texts!r}; give a list of at least one, such as hitting_time:0.95")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"measure {text!r} is no text; give one such as hitting_time:0.95")
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if list(texts).count(text) > 1)
        raise ValueError(f"measure {twice!r} is given twice; give each once")
    return list(texts)


def _named(
    found: Sequence[Measure], dimensions: Mapping[str, Any], axes: Mapping[str, Axis]
) -> dict[str, Measure]:
    """By the names of their variables: the kind, with the arguments if there are several of it."""
    kinds = [one.kind for one in found]
    names = [
        one.kind if kinds.count(one.kind) == 1 else one.text.replace(":", "_").replace("+", "")
        for one in found
    ]
    for name in names:
        if name in axes or name in dimensions or names.count(name) > 1:
            raise ValueError(f"name {name!r} is used twice, by a measure and another name; rename one")
    return dict(zip(names, found, strict=True))


def _text_keys(options: Mapping[str, Any] | None) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"dynamics is {options!r}; give a table with a name, such as name = 'flow'")
    return dict(options or {})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _domain(builder: Builder, name: str) -> Any:
    if name not in builder.parameters:
        raise unknown(f"parameter of {builder.name}", name, builder.parameters)
    return builder.parameters[name].domain


def _zip(axes: Mapping[str, Axis], zipped: Sequence[Sequence[str]]) -> dict[str, tuple[Axis, ...]]:
    together: dict[str, tuple[Axis, ...]] = {}
    for group in zipped:
        for name in group:
            if name not in axes:
                raise unknown("axis to zip", name, axes)
        for name in group:
            if name in together:
                raise ValueError(f"axis {name} is zipped twice; name it once")
            together[name] = tuple(axes[n] for n in group)
        counts = {name: axes[name].count for name in group}
        if len(group) < 2 or len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"zipped axes need two or more of one length; {listed} values")
    dimensions = {}
    for name, one in axes.items():
        group = together.get(name, (one,))
        dimensions.setdefault(group[0].parameter, group)
    return dimensions


# Chunks -----------------------------------------------------------------------------


def chunking(specification: Specification, points: int | None = None, lanes: int | None = None) -> Chunking:
    """Chooses what is not given from the number of outputs and the device.

    Raises:
        ValueError: if a number is not positive.
    """
    for name, value in {"chunk": points, "lanes": lanes}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value}; give a whole number of at least 1")
    scale = 1 if jax.default_backend() == "cpu" else _ACCELERATED
    if points is None:
        most = max(1, min(scale * _MOST_POINTS, scale * _MEMORY // memory(specification)))
        # Several chunks for each device, so that little is lost and all have something to do; but not so
        # short that lanes wait for a chunk's slowest problem.
        several = -(-specification.points // (_CHUNKS * jax.device_count()))
        points = min(most, max(_LEAST_POINTS, several))
    shape = []
    left = points
    for axes in reversed(list(specification.dimensions.values())):
        alone = any(specification.builder.parameters[a.parameter].domain.static for a in axes)
        shape.insert(0, 1 if alone else max(1, min(axes[0].count, left)))
        left //= shape[0]
    if lanes is None:
        # On a CPU, lanes and all that a step makes of them stay in a core's own cache.
        lanes = max(32, min(128, 2048 // specification.outputs)) if scale == 1 else 1 << 14
    return Chunking(tuple(shape), min(lanes, math.prod(shape)))


def memory(specification: Specification) -> int:
    """Bytes that a point of a chunk takes while it is computed."""
    return 8 * _ARRAYS * specification.prompts * specification.outputs


def grid(specification: Specification, chunking: Chunking) -> tuple[int, ...]:
    """How many chunks there are along each dimension."""
    pairs = zip(specification.shape, chunking.shape, strict=True)
    return tuple(-(-size // part) for size, part in pairs)


def chunks(specification: Specification, chunking: Chunking) -> int:
    """How many chunks there are."""
    return math.prod(grid(specification, chunking))


def region(specification: Specification, chunking: Chunking, number: int) -> tuple[slice, ...]:
    """The part of the grid that a chunk covers."""
    index = np.unravel_index(number, grid(specification, chunking))
    parts = zip(index, chunking.shape, specification.shape, strict=True)
    return tuple(slice(int(i) * part, min((int(i) + 1) * part, size)) for i, part, size in parts)


# Files ------------------------------------------------------------------------------


def read(path: str | Path) -> dict[str, Any]:
    """A TOML file as arguments of :func:`specify`, and ``chunk`` and ``lanes`` if given.

    Raises:
        ValueError: if it cannot be read or has unknown keys, with the line if it is not TOML.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; give a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    for key in data:
        if key not in _KEYS:
            raise ValueError(f"{path}: {unknown('key', key, _KEYS)}")
    for key in ("builder", "axes", "measures"):
        if key not in data:
            raise ValueError(f"{path}: key {key} is missing; give builder, measures and a table axes")
    for key in ("axes", "parameters", "dynamics"):
        if not isinstance(data.get(key, {}), dict):
            raise ValueError(f"{path}: {key} is {data[key]!r}; give a table, [{key}]")
    data["zipped"], data["dynamics_options"] = data.pop("zip", ()), data.pop("dynamics", None)
    return data


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two descriptions, a line each."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} is {_short(before)} in the store and {_short(after)} now")
    return found


def _short(value: Any) -> str:
    text = "not given" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
