"""The numbers of a sweep: each chunk a pure function of the grid and the chunk's number."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from goodteacher.experiments.sweeps.dynamics import Dynamics
from goodteacher.experiments.sweeps.grid import Grid
from goodteacher.experiments.sweeps.measures import Measure, evaluate
from goodteacher.sim.instance import Instance

_PILOT = 512  # points


def compute(grid: Grid, numbers: Sequence[int]) -> dict[str, jax.Array]:
    """All variables at the points of chunks that share what decides shapes: a chunk on each local device.

    A chunk's values do not depend on the others, nor on how many devices there are. It is computed as if it
    were whole, so that there is one shape.

    Returns:
        By variable, ``[chunks, points of a chunk, prompts]`` in the order of the grid; possibly with further
        chunks that repeat the last. They may still be under way.
    """
    padded = [*numbers, *[numbers[-1]] * (jax.local_device_count() - len(numbers))]
    return _at(grid, np.stack([grid.indices(number) for number in padded], axis=1), grid.lanes)


def _at(grid: Grid, indices: np.ndarray, lanes: int) -> dict[str, jax.Array]:
    """All variables at points of the grid, ``[dimensions, devices, n]``, that share what decides shapes."""
    specification, varying = grid.specification, {}
    for axes, index in zip(specification.dimensions.values(), indices, strict=True):
        for name, axis in axes.items():
            domain = specification.builder.parameters[name]
            if not domain.static:
                varying[name] = axis.at(index).astype(np.int64 if domain.whole else float)
    return _measured(
        specification.builder.build,
        grid.static(indices[:, 0, 0].tolist()),
        tuple(specification.measures.items()),
        specification.dynamics,
        lanes,
        tuple(jax.local_devices()),
        varying,
        np.asarray(np.ravel_multi_index(tuple(indices), specification.shape)),
    )


@partial(jax.jit, static_argnums=range(6))
def _measured(
    build: Callable[..., Instance],
    static: tuple[tuple[str, Any], ...],
    measures: tuple[tuple[str, Measure], ...],
    dynamics: Dynamics,
    lanes: int,
    devices: tuple[Any, ...],
    varying: Mapping[str, jax.Array],
    positions: jax.Array,
) -> dict[str, jax.Array]:
    """Every device measures its own points, of ``[devices, n]``; none waits for another."""

    def instance(position: jax.Array, values: Mapping[str, jax.Array]) -> Instance:
        return build(**dict(static), **values)

    def of_a_device(varying: Mapping[str, jax.Array], positions: jax.Array) -> dict[str, jax.Array]:
        mine = {name: values[0] for name, values in varying.items()}
        instances = jax.vmap(instance)(positions[0], mine)
        found = evaluate(measures, dynamics, instances, positions[0], lanes)
        return {name: values[None] for name, values in found.items()}

    mesh = jax.sharding.Mesh(np.array(devices), ("device",))
    split = jax.sharding.PartitionSpec("device")
    return jax.shard_map(of_a_device, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)(
        varying, positions
    )


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
