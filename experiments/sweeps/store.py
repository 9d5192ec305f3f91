"""The store of a sweep: a Zarr group that xarray reads, of chunks that are whole or absent.

Beside the arrays it has a folder ``.sweep``: ``plan.json`` says what the sweep is, ``manifests`` holds a file
for every chunk, with a checksum of each of its files. A manifest is written last, and makes the chunk exist.
Every file is written elsewhere on the same disk, flushed, and moved to its place.
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xarray as xr

from goodteacher.experiments.sweeps import locks
from goodteacher.experiments.sweeps.encoding import cell, chunk_files, skeleton_files
from goodteacher.experiments.sweeps.grid import Grid
from goodteacher.experiments.sweeps.provenance import FORMAT, binding, provenance
from goodteacher.experiments.sweeps.specification import Specification, differences
from goodteacher.sim.status import Status

_PRIVATE, _PLAN, _LOCK, _SKELETON = ".sweep", "plan.json", "lock", "skeleton"


class StoreError(ValueError):
    """A store that cannot be used, or not any more; what it holds is safe."""


def open_store(path: str | os.PathLike[str]) -> xr.Dataset:
    """A sweep as a dataset, read as needed; the same as ``xarray.open_zarr(path)``.

    Points that are not computed yet are nan, and their status is -1.

    Raises:
        StoreError: if there is no sweep.
    """
    Store.find(path)
    return xr.open_zarr(path)


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


class Store:
    """A sweep on disk.

    Attributes:
        path: the folder.
        plan: what it holds: ``specification``, ``chunk``, ``lanes`` and ``provenance``.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]):
        self.path, self.plan = path, plan

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> "Store":
        """The store in a folder.

        Raises:
            StoreError: if there is none, or one of another format.
        """
        path = Path(path)
        plan = _plan(path)
        if plan is None:
            raise StoreError(f"{path} is not the store of a sweep; give the folder of one")
        if plan.get("provenance", {}).get("format") != FORMAT:
            raise StoreError(
                f"{path} is of format {plan.get('provenance', {}).get('format')}, this program of {FORMAT}; "
                "use the version that made it, or discard it (overwrite)"
            )
        return Store(path, plan)

    def done(self) -> set[int]:
        """Numbers of the chunks that exist."""
        return {int(path.stem) for path in self._manifests if path.stem != _SKELETON}

    @property
    def _manifests(self) -> list[Path]:
        return sorted((self.path / _PRIVATE / "manifests").glob("*.json"))

    def damaged(self) -> dict[str, list[str]]:
        """Files that are not what the manifests say, by the name of their chunk."""
        found = {}
        for manifest in self._manifests:
            try:
                sums = json.loads(manifest.read_text())["files"]
                bad = [key for key, checksum in sums.items() if _checksum(self.path / key) != checksum]
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                bad = [f"{_PRIVATE}/manifests/{manifest.name}"]
            if bad:
                found[manifest.stem] = bad
        return found

    def statuses(self) -> dict[str, dict[str, int]]:
        """How many problems of each measure have which status, over the chunks that exist."""
        total: dict[str, dict[str, int]] = {}
        for manifest in self._manifests:
            for name, counts in json.loads(manifest.read_text()).get("status", {}).items():
                of_measure = total.setdefault(name, {})
                for status, count in counts.items():
                    of_measure[status] = of_measure.get(status, 0) + count
        return total


class Writer(Store):
    """The store of a sweep that is being written, see :func:`prepare` and :func:`join`.

    Attributes:
        grid: the sweep, cut as it was when the store was made.
    """

    def __init__(self, store: Store, specification: Specification):
        super().__init__(store.path, store.plan)
        self.grid = _grid(store, specification)

    def write(self, number: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes a chunk, whole or not at all.

        Args:
            number: of the chunk.
            values: every variable over the chunk's region of the grid, and the prompts if there are several.

        Raises:
            StoreError: if the disk refuses; what exists is safe.
        """
        content = chunk_files(self.grid, number, values)
        counts = {name: _counts(values[f"{name}_status"]) for name in self.grid.specification.measures}
        self._commit(number, content, {"status": counts})

    def forget(self, name: str) -> None:
        """Makes a chunk absent, for it to be written again."""
        try:
            self._manifest(name).unlink()
        except OSError as error:
            raise _refused(self.path, error) from error

    def tidy(self) -> None:
        """Completes a store whose making was interrupted; removes what an interrupted chunk has left."""
        if not self._manifest(_SKELETON).exists():
            self._write_skeleton()
        try:
            for left in (self.path / _PRIVATE).glob("unfinished-*"):
                left.unlink()
            done = self.done()
            for variable in self.grid.specification.variables:
                for chunk in (self.path / variable).glob("c.*"):
                    if self.grid.number(cell(chunk.name, self.grid)) not in done:
                        chunk.unlink()
        except OSError as error:
            raise _refused(self.path, error) from error

    def _write_skeleton(self) -> None:
        """Writes everything but the chunks."""
        content = skeleton_files(self.grid, self.plan)
        try:
            for key in content:
                (self.path / key).parent.mkdir(exist_ok=True)
        except OSError as error:
            raise _refused(self.path, error) from error
        self._commit(_SKELETON, content, {})

    def _manifest(self, name: int | str) -> Path:
        return self.path / _PRIVATE / "manifests" / f"{name}.json"

    def _commit(self, name: int | str, content: Mapping[str, bytes], more: Mapping[str, Any]) -> None:
        sums = {key: google_crc32c.value(data) for key, data in content.items()}
        try:
            for key, data in content.items():
                _place(self.path, key, data)
            for folder in {(self.path / key).parent for key in content}:
                _flush(folder)
            manifest = self._manifest(name)
            _place(self.path, str(manifest.relative_to(self.path)), _json({"files": sums, **more}))
            _flush(manifest.parent)
        except OSError as error:
            raise _refused(self.path, error) from error


def _grid(store: Store, specification: Specification) -> Grid:
    return Grid(specification, tuple(store.plan["chunk"]), store.plan["lanes"])


def _place(store: Path, key: str, data: bytes) -> None:
    """Writes a file elsewhere on the disk, and moves it to its place when it is safe there."""
    temporary = store / _PRIVATE / f"unfinished-{socket.gethostname()}-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(store / key)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write to {path}: {error.strerror or error}; chunks written before are safe: "
        "see to the disk or the folder, then run the same command again to go on"
    )


def _plan(path: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads((path / _PRIVATE / _PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(
            f"{path}/{_PRIVATE}/{_PLAN} is damaged ({error}); restore it, or discard the store (overwrite)"
        ) from error
    return plan


def check(path: Path, specification: Specification, *, overwrite: bool = False) -> Grid | None:
    """Refuses a folder that cannot take the sweep, before anything is written.

    Returns:
        The sweep, cut as it is there; ``None`` if the store is to be made.

    Raises:
        StoreError: for a folder of other things, another or an incompatible sweep, or too small a disk.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; give a folder for the store")
    ours = (path / _PRIVATE).is_dir()
    if path.exists() and not ours and any(path.iterdir()):
        raise StoreError(f"{path} is not empty and not the store of a sweep; give another folder")
    free = shutil.disk_usage(
        next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    ).free
    if ours and not overwrite and _plan(path) is not None:
        store = Store.find(path)
        lines = differences(store.plan["specification"], specification.describe())
        lines += differences(binding(store.plan["provenance"]), binding(provenance()))
        if lines:
            raise StoreError(
                f"{path} holds another sweep: {'; '.join(lines)}; give another folder, or discard "
                "what it holds (overwrite)"
            )
        return _grid(store, specification)
    if specification.bytes > free:
        raise StoreError(
            f"{specification.points:,} points take up to {size(specification.bytes)}, but {path} has "
            f"{size(free)} left; use shorter axes or fewer measures"
        )
    return None


def size(count: float) -> str:
    """Bytes, as one says them."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


@contextlib.contextmanager
def prepare(path: Path, grid: Grid, *, overwrite: bool = False) -> Iterator[Writer]:
    """The store of a sweep, made if it is not there, and locked against other runs.

    Raises:
        StoreError: if another run is at it, or the disk refuses.
    """
    try:
        (path / _PRIVATE / "manifests").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from error
    with _hold(path, 0):
        for lock in (path / _PRIVATE).glob(f"{_LOCK}-*"):  # of processes that have outlived the first one
            if lock != _lock(path, 0):
                with _explained(lock):
                    locks.check(lock)
        if overwrite or _plan(path) is None:
            _discard(path)
            plan = {
                "specification": grid.specification.describe(),
                "chunk": list(grid.chunk),
                "lanes": grid.lanes,
                "provenance": provenance(),
            }
            try:
                _place(path, f"{_PRIVATE}/{_PLAN}", _json(plan))
                _flush(path / _PRIVATE)
            except OSError as error:
                raise _refused(path, error) from error
        store = Writer(Store.find(path), grid.specification)
        store.tidy()
        yield store


def _discard(path: Path) -> None:
    """Removes all but the locks, the plan first: without it, the folder counts as empty."""
    try:
        (path / _PRIVATE / _PLAN).unlink(missing_ok=True)
        for entry in path.iterdir():
            if entry.name != _PRIVATE:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for manifest in (path / _PRIVATE / "manifests").iterdir():
            manifest.unlink()
    except OSError as error:
        raise _refused(path, error) from error


@contextlib.contextmanager
def join(path: Path, specification: Specification, process: int) -> Iterator[Writer]:
    """The store that the first of several processes has prepared, for another one.

    Raises:
        StoreError: if there is none, or a process with the same number is at it.
    """
    store = Store.find(path)
    with _hold(path, process):
        yield Writer(store, specification)


def stopped(path: Path, process: int) -> bool:
    """Whether a process is no longer at a store."""
    try:
        locks.check(_lock(path, process))
    except locks.Held:
        return False
    return True


def _lock(path: Path, process: int) -> Path:
    return path / _PRIVATE / f"{_LOCK}-{process}"


@contextlib.contextmanager
def _hold(path: Path, process: int) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        with _explained(_lock(path, process)):
            held.enter_context(locks.locked(_lock(path, process)))
        yield


@contextlib.contextmanager
def _explained(lock: Path) -> Iterator[None]:
    path = lock.parent.parent
    try:
        yield
    except locks.Held as error:
        raise StoreError(
            f"{path} is being written by {error.holder}; wait for it (if it is dead, delete {lock})"
        ) from None
    except OSError as error:
        raise _refused(path, error) from error


# Contents ---------------------------------------------------------------------------


def _flush(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(path: Path) -> int | None:
    """CRC32C, as in Zarr's arrays: every reader of these verifies it, but nobody that of their metadata."""
    try:
        return google_crc32c.value(path.read_bytes())
    except FileNotFoundError:
        return None


def _counts(status: np.ndarray) -> dict[str, int]:
    values, counts = np.unique(status, return_counts=True)
    return {Status(value).name.lower(): int(n) for value, n in zip(values.tolist(), counts, strict=True)}
