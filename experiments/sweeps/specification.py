"""What a sweep is: read from Python, a TOML file or the command line, and validated."""

import hashlib
import itertools
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from goodteacher.experiments.domains import Domain
from goodteacher.experiments.sweeps import dynamics as evolving
from goodteacher.experiments.sweeps.axes import Axis, axis, scalar
from goodteacher.experiments.sweeps.builders import Builder, find_builder
from goodteacher.experiments.sweeps.dynamics import FLOW, Dynamics
from goodteacher.experiments.sweeps.measures import Measure, Variable, measure
from goodteacher.sim.instance import Instance
from goodteacher.sim.names import unknown

_KEYS = ("builder", "axes", "measures", "parameters", "zip", "dynamics", "chunk", "lanes")


@dataclass(frozen=True)
class Specification:
    """A validated sweep.

    Attributes:
        builder: what makes the instances.
        program: a digest of all that it does, with every choice of what decides shapes.
        parameters: those that are fixed and not left at their defaults.
        dimensions: by name, the axes of each dimension of the grid by their parameters; several if they vary
            together.
        measures: by the name of their variables.
        dynamics: how the policies evolve.
        prompts, outputs: of an instance; outputs are the most that any has.
    """

    builder: Builder
    program: str
    parameters: Mapping[str, Any]
    dimensions: Mapping[str, Mapping[str, Axis]]
    measures: Mapping[str, Measure]
    dynamics: Dynamics
    prompts: int
    outputs: int

    @cached_property
    def axes(self) -> dict[str, Axis]:
        """All axes, by parameter."""
        return {name: axis for axes in self.dimensions.values() for name, axis in axes.items()}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return tuple(self.axes[name].count for name in self.dimensions)

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
            "builder_digest": self.program,
            "parameters": dict(sorted(self.parameters.items())),
            "axes": {name: axis.describe() for name, axis in self.axes.items()},
            "zip": [list(axes) for axes in self.dimensions.values() if len(axes) > 1],
            "measures": [one.text for one in self.measures.values()],
            "dynamics": self.dynamics.describe(),
        }


def specify(
    builder: str | Callable[..., Instance],
    axes: Mapping[str, Any],
    measures: Sequence[Measure | str],
    *,
    parameters: Mapping[str, Any] | None = None,
    zip: Sequence[Sequence[str]] = (),
    dynamics: Dynamics = FLOW,
) -> Specification:
    """Validates a sweep; arguments as for :func:`goodteacher.experiments.sweeps.runner.sweep`.

    Raises:
        ValueError: in one sentence, whatever is wrong.
    """
    if not isinstance(builder, str) and not callable(builder):
        raise ValueError(f"builder is {builder!r}; give a name or a function")
    if not isinstance(dynamics, Dynamics):
        raise ValueError(f"dynamics is {dynamics!r}; give Flow(...), Ascent(...) or Sampled(...)")
    found = find_builder(builder)
    fixed = {name: _domain(found, name).check(name, value) for name, value in (parameters or {}).items()}
    if not axes:
        raise ValueError("axes is empty; give at least one axis")
    every = {name: axis(name, values) for name, values in axes.items()}
    for name, one in every.items():
        domain = _domain(found, name)
        if name in fixed:
            raise ValueError(f"{name} is given as a parameter and as an axis; give one")
        if name == "prompts":
            raise ValueError("prompts cannot be an axis: arrays of the store have one number of prompts")
        for value in one.extremes():
            domain.check(f"axis {name}: {name}", value)
        if domain.whole and one.spaced:
            raise ValueError(f"axis {name} needs whole numbers; give range:FIRST:END or a list")
    dimensions = _dimensions(every, zip)
    program, shapes = _programs(found, fixed, every)
    chosen = _measures(measures)
    for one in chosen:
        if one.kind.of_truth and not found.has_truth:
            raise ValueError(
                f"measure {one.text!r} is of the ground truth, and {found.name} has none; leave it out, or "
                "add a column truth to the file"
            )
        one.check(dynamics, min(outputs for _, outputs in shapes))
    return Specification(
        found,
        program,
        fixed,
        dimensions,
        _named(chosen, dimensions, every),
        dynamics,
        shapes[0][0],
        max(outputs for _, outputs in shapes),
    )


def _domain(builder: Builder, name: str) -> Domain:
    if name not in builder.parameters:
        raise unknown(f"parameter of {builder.name}", name, builder.parameters)
    return builder.parameters[name]


def _programs(
    builder: Builder, fixed: Mapping[str, Any], axes: Mapping[str, Axis]
) -> tuple[str, list[tuple[int, int]]]:
    """A digest of what the builder does for every choice of what decides shapes, and these shapes.

    Raises:
        ValueError: whatever the function refuses of its fixed parameters.
    """
    static = [
        [(name, value) for value in one.at(np.arange(one.count)).tolist()]
        for name, one in axes.items()
        if builder.parameters[name].static
    ]
    varying = {
        name: one.at(np.zeros(1, int))[0].item()
        for name, one in axes.items()
        if not builder.parameters[name].static
    }
    digest, shapes = hashlib.sha256(), []
    for combination in itertools.product(*static):
        shape, program = builder.program({**fixed, **dict(combination)}, varying)
        shapes.append(shape)
        for part in program:
            digest.update(part)
    return digest.hexdigest()[:16], shapes


def _measures(given: Any) -> list[Measure]:
    if isinstance(given, str | Measure) or not given:
        raise ValueError(f"measures is {given!r}; give a list of at least one, such as hitting_time:0.95")
    for one in given:
        if not isinstance(one, str | Measure):
            raise ValueError(f"measure {one!r} is no text; give one such as hitting_time:0.95")
    found = [measure(one) if isinstance(one, str) else one for one in given]
    for one in found:
        if found.count(one) > 1:
            raise ValueError(f"measure {one.text!r} is given twice; give each once")
    return found


def _named(
    found: Sequence[Measure], dimensions: Mapping[str, Any], axes: Mapping[str, Axis]
) -> dict[str, Measure]:
    """By the names of their variables: the kind, with the arguments if there are several of it."""
    kinds = [one.kind.name for one in found]
    names = [
        kind if kinds.count(kind) == 1 else one.text.replace(":", "_").replace("+", "")
        for kind, one in zip(kinds, found, strict=True)
    ]
    for name in names:
        if name in axes or name in dimensions or names.count(name) > 1:
            raise ValueError(f"name {name!r} is used twice, by a measure and another name; rename one")
    return dict(zip(names, found, strict=True))


def _dimensions(axes: Mapping[str, Axis], groups: Sequence[Sequence[str]]) -> dict[str, dict[str, Axis]]:
    """Axes by the dimension that they are along: that of the first of those that vary together."""
    together: dict[str, Sequence[str]] = {}
    for group in groups:
        for name in group:
            if name not in axes:
                raise unknown("axis to zip", name, axes)
            if name in together:
                raise ValueError(f"axis {name} is zipped twice; name it once")
            together[name] = group
        counts = {name: axes[name].count for name in group}
        if len(group) < 2 or len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"zip needs two or more axes of one length; {listed} values")
    dimensions: dict[str, dict[str, Axis]] = {}
    for name in axes:
        group = together.get(name, (name,))
        dimensions.setdefault(group[0], {other: axes[other] for other in group})
    return dimensions


# Texts ------------------------------------------------------------------------------


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
    return {**data, "dynamics": evolving.dynamics(data.get("dynamics", {}))}


def from_texts(
    builder: str,
    axes: Iterable[str],
    measures: Sequence[str],
    *,
    parameters: Iterable[str] = (),
    zip: Iterable[str] = (),
    dynamics: str = "flow",
    options: Iterable[str] = (),
) -> dict[str, Any]:
    """The same from the texts of a command line.

    Args:
        builder, measures, dynamics: names and texts as they stand in a file.
        axes, parameters, options: ``NAME=VALUE`` each; the options are those of the dynamics.
        zip: ``NAME,NAME`` each.

    Raises:
        ValueError: for a text that is malformed, or a name that is given twice.
    """
    values = {name: scalar(text) for name, text in _pairs("parameter", parameters).items()}
    chosen = {name: scalar(text) for name, text in _pairs("option", options).items()}
    return {
        "builder": builder,
        "axes": _pairs("axis", axes),
        "measures": measures,
        "parameters": values,
        "zip": [names.split(",") for names in zip],
        "dynamics": evolving.dynamics({"name": dynamics, **chosen}),
    }


def _pairs(kind: str, texts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{kind} {text!r} is malformed; give NAME=VALUE")
        if name in found:
            raise ValueError(f"{kind} {name} is given twice; give it once")
        found[name] = value
    return found


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
