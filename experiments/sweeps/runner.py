"""Runs sweeps: chunk by chunk, each a pure function of the sweep and the chunk's number."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from goodteacher.experiments.sweeps import store as stores
from goodteacher.experiments.sweeps.measures import Dynamics, Measure, evaluate
from goodteacher.experiments.sweeps.processes import agreed, is_first, together, use_all_cores
from goodteacher.experiments.sweeps.specification import (
    Chunking,
    Specification,
    chunking,
    chunks,
    region,
    specify,
)
from goodteacher.experiments.sweeps.store import Store, StoreError, open_store, prepare
from goodteacher.sim.instance import Instance

_PILOT = 512  # points
_POLL = 0.5  # seconds between looks at what other processes have done


def sweep(
    builder: str | Callable[..., Instance],
    axes: Mapping[str, Any],
    measures: Sequence[str],
    *,
    store: str | os.PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    zipped: Sequence[Sequence[str]] = (),
    dynamics: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    lanes: int | None = None,
    repair: bool = False,
    overwrite: bool = False,
) -> xr.Dataset:
    """Measures instances over a grid of parameters, into a store; goes on where an earlier run stopped.

    All local devices take part. If JAX has not looked for devices yet, every core becomes one of them; to
    have another number, set ``jax_num_cpu_devices`` before.

    Args:
        builder: a name of :data:`goodteacher.experiments.sweeps.builders.BUILDERS`, ``file:PATH`` of an
            instance file, or a function, see :func:`goodteacher.experiments.sweeps.builders.find_builder`.
        axes: by parameter, values or a text such as ``logspace:-6:-1:200``
            (:data:`goodteacher.experiments.sweeps.axes.FORMS`).
        measures: texts such as ``hitting_time:0.95``, see
            :func:`goodteacher.experiments.sweeps.measures.measure`.
        store: the folder.
        parameters: fixed ones; the others are at the builder's defaults.
        zipped: groups of axes that vary together, along the dimension of the first.
        dynamics: ``name`` and options, see :class:`goodteacher.experiments.sweeps.measures.Dynamics`.
        chunk, lanes: points of a chunk, and problems under way at a time; chosen if not given.
        repair: compute chunks again whose checksum is wrong.
        overwrite: discard what the store holds.

    Returns:
        The store, opened by xarray: a dimension and a coordinate for every axis.

    Raises:
        ValueError: for bad input, before anything is computed.
        StoreError: (a ValueError) if the store cannot be used, or the disk refuses; nothing is lost.
    """
    use_all_cores()
    chosen = specify(builder, axes, measures, parameters=parameters, zipped=zipped, dynamics_options=dynamics)
    run(chosen, Path(store), chunk=chunk, lanes=lanes, repair=repair, overwrite=overwrite)
    return open_store(store)


class Outcome(NamedTuple):
    """How a run ended: chunks that exist and that there are, and problems by measure and status."""

    done: int
    chunks: int
    statuses: Mapping[str, Mapping[str, int]]

    def complete(self, specification: Specification) -> bool:
        """Whether every problem is accounted for."""
        problems = specification.points * specification.prompts
        counts = [sum(self.statuses.get(name, {}).values()) for name in specification.measures]
        return self.done == self.chunks and all(count == problems for count in counts)


def run(
    specification: Specification,
    path: Path,
    *,
    chunk: int | None = None,
    lanes: int | None = None,
    repair: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    apart: Callable[[], None] = lambda: None,
) -> Outcome:
    """Computes the chunks that a store lacks, those of this process; and waits for the other processes.

    Args:
        specification: of the sweep.
        path, chunk, lanes, repair, overwrite: as for :func:`sweep`.
        progress: is told how many chunks exist, of how many.
        apart: is called when the processes need nothing of ``jax.distributed`` any more.

    Raises:
        StoreError: as for :func:`sweep`, and if another process stops before it is done.
    """
    with contextlib.ExitStack() as held:

        def take() -> Store:
            cut = plan(specification, path, chunk=chunk, lanes=lanes, overwrite=overwrite)
            store = held.enter_context(prepare(path, specification, cut, overwrite=overwrite))
            _mend(store, specification, repair)
            return store

        def follow() -> Store:
            plan(specification, path, chunk=chunk, lanes=lanes)
            return held.enter_context(stores.join(path, jax.process_index()))

        if is_first():
            store = together(take)
            together(lambda: None)
        else:
            together(lambda: None)
            store = together(follow)
        total = chunks(specification, store.chunking)
        missing = agreed(set(range(total)) - store.done(), total)
        apart()
        count = jax.process_count()
        shares = [missing[process::count] for process in range(count)]
        _do(store, specification, shares[jax.process_index()], lambda: progress(len(store.done()), total))
        _await_others(store, shares, lambda: progress(len(store.done()), total))
        progress(total, total)
        return Outcome(len(store.done()), total, store.statuses())


def _do(
    store: Store, specification: Specification, numbers: Sequence[int], progress: Callable[[], None]
) -> None:
    progress()
    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        # Chunks are written while the next ones are computed; no more than these are in memory.
        for group in rounds(specification, store.chunking, numbers):
            values = compute(specification, store.chunking, group)
            if writing is not None:
                writing.result()
                progress()
            writing = writer.submit(_write, store, specification, group, values)
        if writing is not None:
            writing.result()


def _await_others(store: Store, shares: Sequence[Sequence[int]], progress: Callable[[], None]) -> None:
    while late := [process for process, share in enumerate(shares) if set(share) - store.done()]:
        progress()
        for process in late:
            if stores.stopped(store.path, process) and (left := set(shares[process]) - store.done()):
                raise StoreError(
                    f"process {process} has stopped with {len(left)} of its chunks missing; what is complete "
                    "is safe: run the same command again to go on"
                )
        time.sleep(_POLL)


def plan(
    specification: Specification,
    path: Path,
    *,
    chunk: int | None = None,
    lanes: int | None = None,
    overwrite: bool = False,
) -> Chunking:
    """How a sweep will be cut: as in the store, if there is one.

    Raises:
        StoreError: if the store cannot take the sweep, or is cut otherwise than asked for.
    """
    found = stores.check(path, specification, overwrite=overwrite)
    wanted = chunking(specification, chunk, lanes)
    if found is None:
        return wanted
    asked = {"chunk": (chunk, wanted.shape, found.shape), "lanes": (lanes, wanted.lanes, found.lanes)}
    for name, (given, now, before) in asked.items():
        if given is not None and now != before:
            raise StoreError(
                f"{path} was made with {name} {before}, which {now} does not agree with; leave --{name} out, "
                "or --overwrite to discard what it holds"
            )
    return found


def _mend(store: Store, specification: Specification, repair: bool) -> None:
    damaged = store.damaged()
    if damaged and not repair:
        first = next(iter(damaged.values()))[0]
        raise StoreError(
            f"{store.path} is damaged: {len(damaged)} of its chunks have files that are not what their "
            f"checksums say, the first is {first}; run again with --repair to compute them anew"
        )
    for name in damaged:
        store.forget(specification, name)
    store.tidy(specification)


def rounds(specification: Specification, cut: Chunking, numbers: Sequence[int]) -> list[list[int]]:
    """Chunks in groups that are computed together: one for each local device."""

    def static(number: int) -> tuple[tuple[str, Any], ...]:
        return _static(specification, [part.start for part in region(specification, cut, number)])

    size = jax.local_device_count()
    groups = [list(group) for _, group in itertools.groupby(numbers, static)]
    return [group[first : first + size] for group in groups for first in range(0, len(group), size)]


def _write(
    store: Store, specification: Specification, numbers: Sequence[int], values: Mapping[str, Any]
) -> None:
    values = {name: np.asarray(array) for name, array in values.items()}
    prompts = (specification.prompts,) if specification.prompts > 1 else ()
    for position, number in enumerate(numbers):
        place = region(specification, store.chunking, number)
        inside = tuple(slice(0, part.stop - part.start) for part in place)
        shape = (*store.chunking.shape, *prompts)
        arrays = {name: array[position].reshape(shape)[inside] for name, array in values.items()}
        store.write(specification, number, arrays)


# Computing --------------------------------------------------------------------------


def compute(specification: Specification, cut: Chunking, numbers: Sequence[int]) -> dict[str, jax.Array]:
    """All variables at the points of chunks that share what decides shapes: a chunk on each local device.

    A chunk's values do not depend on the others, nor on how many devices there are. It is computed as if it
    were whole, so that there is one shape: points beyond the end of an axis repeat its last value.

    Returns:
        By variable, ``[chunks, points of a chunk, prompts]`` in the order of the grid; possibly with further
        chunks that repeat the last. They may still be under way.
    """
    devices = jax.local_devices()
    padded = [*numbers, *[numbers[-1]] * (len(devices) - len(numbers))]
    corners = [[part.start for part in region(specification, cut, number)] for number in padded]
    local = np.indices(cut.shape).reshape(len(cut.shape), 1, -1)
    last = np.array(specification.shape)[:, None, None] - 1
    return _at(specification, np.minimum(local + np.array(corners).T[:, :, None], last), cut.lanes)


def _at(specification: Specification, indices: np.ndarray, lanes: int) -> dict[str, jax.Array]:
    """All variables at points of the grid, ``[dimensions, devices, n]``, that share what decides shapes."""
    static, varying = _static(specification, indices[:, 0, 0].tolist()), {}
    for axes, index in zip(specification.dimensions.values(), indices, strict=True):
        for axis in axes:
            domain = specification.builder.parameters[axis.parameter].domain
            if not domain.static:
                varying[axis.parameter] = axis.at(index).astype(float if domain.kind == "real" else np.int64)
    return _measured(
        specification.builder.build,
        static,
        tuple(specification.measures.items()),
        specification.dynamics,
        lanes,
        tuple(jax.local_devices()),
        varying,
        np.asarray(np.ravel_multi_index(tuple(indices), specification.shape)),
    )


def _static(specification: Specification, index: Sequence[int]) -> tuple[tuple[str, Any], ...]:
    """The parameters that decide shapes, and all fixed ones, at a point of the grid."""
    static = dict(specification.parameters)
    for axes, position in zip(specification.dimensions.values(), index, strict=True):
        for axis in axes:
            domain = specification.builder.parameters[axis.parameter].domain
            if domain.static:
                value = axis.at(np.array([position]))[0].item()
                static[axis.parameter] = domain.check(axis.parameter, value)
    return tuple(static.items())


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


def pilot(specification: Specification, cut: Chunking) -> Pilot:
    """Times some points, spread over the grid of the first chunk's shape."""
    static = [
        any(specification.builder.parameters[a.parameter].domain.static for a in axes)
        for axes in specification.dimensions.values()
    ]
    devices = jax.local_device_count()
    sizes = [1 if fixed else size for fixed, size in zip(static, specification.shape, strict=True)]
    count = min(_PILOT, int(np.prod(sizes, dtype=object)), cut.points)
    chosen = np.random.default_rng(0)
    indices = np.stack([chosen.integers(0, size, (devices, count)) for size in sizes])

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready(_at(specification, indices, min(cut.lanes, count)))
        return time.perf_counter() - start

    cold, warm = seconds(), seconds()
    return Pilot(max(cold - warm, 0.0), devices * count / warm)


def keep_compiled() -> None:
    """Keeps what is compiled on disk, for later runs; unless the user has said where, or not to."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "goodteacher" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
