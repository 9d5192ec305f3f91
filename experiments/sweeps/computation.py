"""The numbers of a sweep: each chunk a pure function of the grid and the chunk's number."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from goodteacher.experiments.sweeps.dynamics import Dynamics, Policies, Times
from goodteacher.experiments.sweeps.grid import Grid
from goodteacher.experiments.sweeps.measures import Measure, prepare, settle
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance

_PILOT = 512  # points


def compute(grid: Grid, numbers: Sequence[int]) -> dict[str, Array]:
    """All variables at the points of chunks that share what decides shapes: a chunk on each local device.

    A chunk's values do not depend on the others, nor on how many devices there are. It is computed as if it
    were whole, so that there is one shape.

    Returns:
        By variable, ``[chunks, points of a chunk, prompts]`` in the order of the grid; possibly with further
        chunks that repeat the last. They may still be under way.
    """
    padded = [*numbers, *[numbers[-1]] * (jax.local_device_count() - len(numbers))]
    return _at(grid, np.stack([grid.indices(number) for number in padded], axis=1), grid.lanes)


def _at(grid: Grid, indices: np.ndarray, lanes: int) -> dict[str, Array]:
    """All variables at points of the grid, ``[dimensions, devices, n]``, that share what decides shapes."""
    specification, varying = grid.specification, {}
    for axes, index in zip(specification.dimensions.values(), indices, strict=True):
        for name, axis in axes.items():
            domain = specification.builder.parameters[name]
            if not domain.static:
                varying[name] = axis.at(index).astype(np.int64 if domain.whole else float)
    positions = np.asarray(np.ravel_multi_index(tuple(indices), specification.shape))
    dynamics, measures = specification.dynamics, tuple(specification.measures.items())
    build = (specification.builder.build, grid.static(indices[:, 0, 0].tolist()), measures)
    instances, valid, goals = _on_devices(_prepare, build, varying, positions)
    # Apart from the rest: goals, builders and measures of one shape share what takes longest to compile.
    times = {name: _on_devices(_wait, (dynamics, lanes), goal, instances) for name, goal in goals.items()}
    looked = dict.fromkeys(one.time(dynamics) for _, one in measures if not one.kind.waits)
    policies = {time: _on_devices(_look, (dynamics, time, lanes), instances, positions) for time in looked}
    return _on_devices(_settle, (measures, dynamics), instances, valid, times, policies)


def _prepare(
    build: Callable[..., Instance],
    static: tuple[tuple[str, Any], ...],
    measures: tuple[tuple[str, Measure], ...],
    varying: Mapping[str, Array],
    positions: Array,
) -> Any:
    instances = jax.vmap(lambda position, values: build(**dict(static), **values))(positions, varying)
    return prepare(dict(measures), instances)


def _wait(dynamics: Dynamics, lanes: int, goals: Goal, instances: Instance) -> Times:
    return dynamics.hitting_times(goals, instances, lanes)


def _look(dynamics: Dynamics, time: float, lanes: int, instances: Instance, positions: Array) -> Policies:
    return dynamics.policies(time, instances, positions, lanes)


def _settle(measures: tuple[tuple[str, Measure], ...], dynamics: Dynamics, *found: Any) -> dict[str, Array]:
    return settle(dict(measures), dynamics, *found)


def _on_devices(act: Callable[..., Any], fixed: tuple[Any, ...], *arrays: Any) -> Any:
    """What a function makes of each device's part of arrays ``[devices, ...]``; none waits for another."""
    return _split(act, fixed, tuple(jax.local_devices()), *arrays)


@partial(jax.jit, static_argnums=range(3))
def _split(act: Callable[..., Any], fixed: tuple[Any, ...], devices: tuple[Any, ...], *arrays: Any) -> Any:
    def of_a_device(*parts: Any) -> Any:
        made = act(*fixed, *jax.tree.map(lambda leaf: leaf[0], parts))
        return jax.tree.map(lambda leaf: leaf[None], made)

    mesh = jax.sharding.Mesh(np.array(devices), ("device",))
    split = jax.sharding.PartitionSpec("device")
    return jax.shard_map(of_a_device, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)(*arrays)


class Pilot(NamedTuple):
    """What a short trial tells: seconds to compile, and problems per second after that."""

    compiling: float
    rate: float


def pilot(grid: Grid) -> Pilot:
    """Times some points, spread over the grid of the first chunk's shape."""
    indices = grid.spread(_PILOT, jax.local_device_count())

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready(_at(grid, indices, min(grid.lanes, indices.shape[-1])))
        return time.perf_counter() - start

    cold, warm = seconds(), seconds()
    return Pilot(max(cold - warm, 0.0), indices[0].size / warm)
