"""The grid of a sweep, cut into chunks that are computed and written at once."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from goodteacher.experiments.sweeps.specification import Specification

_MOST_POINTS, _LEAST_POINTS = 1 << 17, 1 << 11  # of a chunk, if memory allows
_MEMORY = 256 << 20  # bytes for a chunk
_ARRAYS = 16  # of the size of the rewards, that a problem of a chunk takes
_CHUNKS = 8  # of each device, at least, if the sweep is not small
_ACCELERATED = 8  # times as many lanes and points, and as much memory, on an accelerator


@dataclass(frozen=True)
class Grid:
    """A sweep, and how it is computed, which is fixed when its store is made.

    Attributes:
        specification: of the sweep.
        chunk: the shape of a chunk; those at the far end of a dimension are cut off.
        lanes: how many problems are under way at a time.
    """

    specification: Specification
    chunk: tuple[int, ...]
    lanes: int

    @classmethod
    def cut(cls, specification: Specification, points: int | None = None, lanes: int | None = None) -> "Grid":
        """Chooses what is not given from the number of outputs and the device.

        Args:
            specification: of the sweep.
            points: of a chunk, about.
            lanes: how many problems are under way at a time.

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
        shape, left = [], points
        static = _static_dimensions(specification)
        for dimension in reversed(list(specification.dimensions)):
            alone = dimension in static
            shape.insert(0, 1 if alone else max(1, min(specification.axes[dimension].count, left)))
            left //= shape[0]
        if lanes is None:
            # On a CPU, lanes and all that a step makes of them stay in a core's own cache.
            lanes = max(32, min(128, 2048 // specification.outputs)) if scale == 1 else 1 << 14
        return cls(specification, tuple(shape), min(lanes, math.prod(shape)))

    @property
    def points(self) -> int:
        """Of a whole chunk."""
        return math.prod(self.chunk)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many chunks there are along each dimension."""
        pairs = zip(self.specification.shape, self.chunk, strict=True)
        return tuple(-(-size // part) for size, part in pairs)

    def chunks(self) -> range:
        """The numbers of all chunks."""
        return range(math.prod(self.counts))

    def region(self, number: int) -> tuple[slice, ...]:
        """The part of the grid that a chunk covers."""
        parts = zip(self._corner(number), self.chunk, self.specification.shape, strict=True)
        return tuple(slice(first, min(first + part, size)) for first, part, size in parts)

    def number(self, cell: Sequence[int]) -> int:
        """The number of the chunk at a place along each dimension, counted in chunks."""
        return int(np.ravel_multi_index(tuple(cell), self.counts))

    def indices(self, number: int) -> np.ndarray:
        """The places of a chunk's points, ``[dimensions, points]``, as if it were whole.

        Points beyond the end of a dimension repeat the last one.
        """
        local = np.indices(self.chunk).reshape(len(self.chunk), -1)
        last = np.array(self.specification.shape)[:, None] - 1
        return np.minimum(local + np.array(self._corner(number))[:, None], last)

    def static(self, index: Sequence[int]) -> tuple[tuple[str, Any], ...]:
        """The parameters that decide shapes, and all fixed ones, at a point of the grid."""
        found = dict(self.specification.parameters)
        for axes, position in zip(self.specification.dimensions.values(), index, strict=True):
            for name, axis in axes.items():
                domain = self.specification.builder.parameters[name]
                if domain.static:
                    found[name] = domain.check(name, axis.at(np.array([position]))[0].item())
        return tuple(found.items())

    def rounds(self, numbers: Sequence[int], size: int) -> Iterator[list[int]]:
        """Chunks in groups that can be computed together: up to a size, and of the same shapes."""
        for _, group in itertools.groupby(numbers, lambda number: self.static(self._corner(number))):
            alike = list(group)
            yield from (alike[first : first + size] for first in range(0, len(alike), size))

    def spread(self, count: int, rows: int) -> np.ndarray:
        """Random points of the shapes of the first one, ``[dimensions, rows, points]``; at most a chunk's."""
        static = _static_dimensions(self.specification)
        dimensions = zip(self.specification.dimensions, self.specification.shape, strict=True)
        sizes = [1 if dimension in static else size for dimension, size in dimensions]
        chosen = np.random.default_rng(0)
        few = min(count, math.prod(sizes), self.points)
        return np.stack([chosen.integers(0, size, (rows, few)) for size in sizes])

    def _corner(self, number: int) -> list[int]:
        cell = np.unravel_index(number, self.counts)
        return [int(place) * part for place, part in zip(cell, self.chunk, strict=True)]


def memory(specification: Specification) -> int:
    """Bytes that a point of a chunk takes while it is computed."""
    return 8 * _ARRAYS * specification.prompts * specification.outputs


def _static_dimensions(specification: Specification) -> set[str]:
    """Those along which shapes change."""
    return {
        dimension
        for dimension, axes in specification.dimensions.items()
        if any(specification.builder.parameters[name].static for name in axes)
    }
