"""Runs sweeps: chunk by chunk, on every device and in every process that takes part."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from goodteacher.experiments.sweeps import store as stores
from goodteacher.experiments.sweeps.computation import compute
from goodteacher.experiments.sweeps.dynamics import FLOW, Dynamics
from goodteacher.experiments.sweeps.grid import Grid
from goodteacher.experiments.sweeps.measures import Measure
from goodteacher.experiments.sweeps.processes import agreed, is_first, together, use_all_cores
from goodteacher.experiments.sweeps.specification import Specification, specify
from goodteacher.experiments.sweeps.store import StoreError, Writer, open_store, prepare
from goodteacher.sim.instance import Instance

_POLL = 0.5  # seconds between looks at what other processes have done


def sweep(
    builder: str | Callable[..., Instance],
    axes: Mapping[str, Any],
    measures: Sequence[Measure | str],
    *,
    store: str | os.PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    zip: Sequence[Sequence[str]] = (),
    dynamics: Dynamics = FLOW,
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
            instance file, ``rollouts:PATH``, or a function, see
            :func:`goodteacher.experiments.sweeps.builders.find_builder`.
        axes: by parameter, values, an axis such as ``Logspace(-6, -1, 200)`` of
            :mod:`goodteacher.experiments.sweeps.axes`, or its text, ``logspace:-6:-1:200``.
        measures: such as ``hitting_time(0.95)`` of :mod:`goodteacher.experiments.sweeps.measures`, or their
            texts, ``hitting_time:0.95``.
        store: the folder.
        parameters: fixed ones; the others are at the builder's defaults.
        zip: groups of axes that vary together, along the dimension of the first.
        dynamics: ``Flow``, ``Ascent`` or ``Sampled`` of :mod:`goodteacher.experiments.sweeps.dynamics`.
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
    chosen = specify(builder, axes, measures, parameters=parameters, zip=zip, dynamics=dynamics)
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

        def take() -> Writer:
            grid = plan(specification, path, chunk=chunk, lanes=lanes, overwrite=overwrite)
            store = held.enter_context(prepare(path, grid, overwrite=overwrite))
            _mend(store, repair)
            return store

        def follow() -> Writer:
            plan(specification, path, chunk=chunk, lanes=lanes)
            return held.enter_context(stores.join(path, specification, jax.process_index()))

        if is_first():
            store = together(take)
            together(lambda: None)
        else:
            together(lambda: None)
            store = together(follow)
        chunks = store.grid.chunks()
        total = len(chunks)
        missing = agreed(set(chunks) - store.done(), total)
        apart()
        count = jax.process_count()
        shares = [missing[process::count] for process in range(count)]
        _do(store, shares[jax.process_index()], lambda: progress(len(store.done()), total))
        _await_others(store, shares, lambda: progress(len(store.done()), total))
        progress(total, total)
        return Outcome(len(store.done()), total, store.statuses())


def _do(store: Writer, numbers: Sequence[int], progress: Callable[[], None]) -> None:
    progress()
    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        # Chunks are written while the next ones are computed; no more than these are in memory.
        for group in store.grid.rounds(numbers, jax.local_device_count()):
            values = compute(store.grid, group)
            if writing is not None:
                writing.result()
                progress()
            writing = writer.submit(_write, store, group, values)
        if writing is not None:
            writing.result()


def _await_others(store: Writer, shares: Sequence[Sequence[int]], progress: Callable[[], None]) -> None:
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
) -> Grid:
    """How a sweep will be cut: as in the store, if there is one.

    Raises:
        StoreError: if the store cannot take the sweep, or is cut otherwise than asked for.
    """
    found = stores.check(path, specification, overwrite=overwrite)
    wanted = Grid.cut(specification, chunk, lanes)
    if found is None:
        return wanted
    asked = {"chunk": (chunk, wanted.chunk, found.chunk), "lanes": (lanes, wanted.lanes, found.lanes)}
    for name, (given, now, before) in asked.items():
        if given is not None and now != before:
            raise StoreError(
                f"{path} was made with {name} {before}, which {now} does not agree with; leave {name} out, "
                "or discard what it holds (overwrite)"
            )
    return found


def _mend(store: Writer, repair: bool) -> None:
    damaged = store.damaged()
    if damaged and not repair:
        first = next(iter(damaged.values()))[0]
        raise StoreError(
            f"{store.path} is damaged: {len(damaged)} of its chunks have files that are not what their "
            f"checksums say, the first is {first}; run again with repair to compute them anew"
        )
    for name in damaged:
        store.forget(name)
    store.tidy()


def _write(store: Writer, numbers: Sequence[int], values: Mapping[str, Any]) -> None:
    values = {name: np.asarray(array) for name, array in values.items()}
    prompts = (store.grid.specification.prompts,) if store.grid.specification.prompts > 1 else ()
    for position, number in enumerate(numbers):
        inside = tuple(slice(0, part.stop - part.start) for part in store.grid.region(number))
        shape = (*store.grid.chunk, *prompts)
        arrays = {name: array[position].reshape(shape)[inside] for name, array in values.items()}
        store.write(number, arrays)
