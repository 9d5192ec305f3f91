"""Runs sweeps: chunk by chunk, each a pure function of the sweep and the chunk's number."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.sweeps import store as stores
from experiments.sweeps.measures import evaluate
from experiments.sweeps.specification import (
    Chunking,
    Specification,
    chunking,
    chunks,
    region,
    specify,
)
from experiments.sweeps.store import Store, StoreError, open_store, prepare
from sim.instance import Instance

_PILOT = 512  # points


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

    Args:
        builder: a name of :data:`experiments.sweeps.builders.BUILDERS`, ``file:PATH`` of an instance file, or
            a function, see :func:`experiments.sweeps.builders.find_builder`.
        axes: by parameter, values or a text such as ``logspace:-6:-1:200``
            (:data:`experiments.sweeps.axes.FORMS`).
        measures: texts such as ``hitting_time:0.95``, see :func:`experiments.sweeps.measures.measure`.
        store: the folder.
        parameters: fixed ones; the others are at the builder's defaults.
        zipped: groups of axes that vary together, along the dimension of the first.
        dynamics: ``name`` and options, see :class:`experiments.sweeps.measures.Dynamics`.
        chunk, lanes: points of a chunk, and problems under way at a time; chosen if not given.
        repair: compute chunks again whose checksum is wrong.
        overwrite: discard what the store holds.

    Returns:
        The store, opened by xarray: a dimension and a coordinate for every axis.

    Raises:
        ValueError: for bad input, before anything is computed.
        StoreError: (a ValueError) if the store cannot be used, or the disk refuses; nothing is lost.
    """
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
) -> Outcome:
    """Computes the chunks that a store lacks.

    Args:
        specification: of the sweep.
        path, chunk, lanes, repair, overwrite: as for :func:`sweep`.
        progress: is told how many chunks exist, of how many.

    Raises:
        StoreError: as for :func:`sweep`.
    """
    cut = plan(specification, path, chunk=chunk, lanes=lanes, overwrite=overwrite)
    with prepare(path, specification, cut, overwrite=overwrite) as store:
        _mend(store, specification, repair)
        total = chunks(specification, cut)
        done = store.done()
        progress(len(done), total)
        writing: Future[None] | None = None
        # One chunk is written while the next one is computed; no more than two are in memory.
        with ThreadPoolExecutor(1) as writer:
            for number in (number for number in range(total) if number not in done):
                values = compute(specification, cut, number)
                if writing is not None:
                    writing.result()
                    progress(len(done), total)
                writing = writer.submit(_write, store, specification, number, values)
                done.add(number)
            if writing is not None:
                writing.result()
        progress(total, total)
        return Outcome(len(store.done()), total, store.statuses())


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


def _write(store: Store, specification: Specification, number: int, values: Mapping[str, Any]) -> None:
    place = region(specification, store.chunking, number)
    prompts = (specification.prompts,) if specification.prompts > 1 else ()
    sizes = [part.stop - part.start for part in place]
    inside = tuple(slice(0, size) for size in sizes)
    arrays = {
        name: np.asarray(array).reshape(*store.chunking.shape, *prompts)[inside]
        for name, array in values.items()
    }
    store.write(specification, number, arrays)


# Computing --------------------------------------------------------------------------


def compute(specification: Specification, cut: Chunking, number: int) -> dict[str, jax.Array]:
    """All variables at the points of a chunk, in the order of the grid.

    Computed as if every chunk were whole, so that there is one shape: points beyond the end of an axis repeat
    its last value.

    Returns:
        By variable, ``[points of a chunk, prompts]``; they may still be under way.
    """
    first = [part.start for part in region(specification, cut, number)]
    local = np.indices(cut.shape).reshape(len(cut.shape), -1)
    last = np.array(specification.shape)[:, None] - 1
    return _at(specification, np.minimum(local + np.array(first)[:, None], last), cut.lanes)


def _at(specification: Specification, indices: np.ndarray, lanes: int) -> dict[str, jax.Array]:
    """All variables at some points of the grid, ``[dimensions, n]``, that share what decides shapes."""
    static, varying = dict(specification.parameters), {}
    for axes, index in zip(specification.dimensions.values(), indices, strict=True):
        for axis in axes:
            domain = specification.builder.parameters[axis.parameter].domain
            if domain.static:
                static[axis.parameter] = domain.check(axis.parameter, axis.at(index[:1])[0].item())
            else:
                values = axis.at(index)
                varying[axis.parameter] = values.astype(float if domain.kind == "real" else np.int64)
    positions = np.asarray(np.ravel_multi_index(tuple(indices), specification.shape))
    if varying:
        instances = _build(specification.builder.build, tuple(static.items()), varying)
    else:
        one = specification.builder.build(**static)
        instances = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (indices.shape[1], *leaf.shape)), one)
    return evaluate(specification.measures, specification.dynamics, instances, positions, lanes)


@partial(jax.jit, static_argnums=(0, 1))
def _build(
    build: Callable[..., Instance], static: tuple[tuple[str, Any], ...], varying: Mapping[str, jax.Array]
) -> Instance:
    return jax.vmap(lambda values: build(**dict(static), **values))(varying)


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
    sizes = [1 if fixed else size for fixed, size in zip(static, specification.shape, strict=True)]
    count = min(_PILOT, int(np.prod(sizes, dtype=object)), cut.points)
    chosen = np.random.default_rng(0)
    indices = np.stack([chosen.integers(0, size, count) for size in sizes])

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready(_at(specification, indices, min(cut.lanes, count)))
        return time.perf_counter() - start

    first, second = seconds(), seconds()
    return Pilot(max(first - second, 0.0), count / second)


def keep_compiled() -> None:
    """Keeps what is compiled on disk, for later runs; unless the user has said where, or not to."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "goodteacher" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
