"""The store of a sweep: a Zarr group that xarray reads, of chunks that are whole or absent.

Beside the arrays it has a folder ``.sweep``: ``plan.json`` says what the sweep is, ``manifests`` holds a file
for every chunk, with a checksum of each of its arrays. A manifest is written last, and makes the chunk exist.
Every file is written elsewhere on the same disk, flushed, and moved to its place.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from goodteacher.experiments.sweeps import locks
from goodteacher.experiments.sweeps.measures import Status
from goodteacher.experiments.sweeps.specification import Chunking, Specification, differences, grid, region

FORMAT = 1  # of the store
_PRIVATE, _PLAN, _LOCK, _SKELETON = ".sweep", "plan.json", "lock", "skeleton"
_COORDINATES = 1 << 17  # values of a coordinate that are written at a time
_PACKAGES = ("goodteacher", "jax", "jaxlib", "diffrax", "equinox", "optax", "numpy", "xarray", "zarr")
_BINDING = ("format", "precision", "platform", "code_digest", "jax", "jaxlib")  # of which the numbers depend


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


def provenance() -> dict[str, Any]:
    """Where numbers come from: versions, the commit, devices and precision; no names and no times."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "format": FORMAT,
        "precision": jnp.zeros(()).dtype.name,
        "platform": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "code_digest": _code(),
        "versions": versions,
        "git_commit": _commit(),
    }


def _code() -> str:
    """A digest of the code that computes numbers."""
    root = Path(__file__).parents[2]
    names = ["instances.py", *(f"sweeps/{name}.py" for name in ("axes", "builders", "measures", "runner"))]
    files = [*(root / "experiments" / name for name in names)]
    files += sorted([*(root / "sim").glob("*.py"), *(root / "theory").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _commit() -> str | None:
    """Of the working copy that this code stands in, if it is one; with a plus if it was changed."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _binding(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must share for their chunks to be the same to the bit."""
    flat = {**origin, **origin["versions"]}
    return {name: flat.get(name) for name in _BINDING}


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
            raise StoreError(f"{path} is not the store of a sweep; give the folder of --store")
        if plan.get("provenance", {}).get("format") != FORMAT:
            raise StoreError(
                f"{path} is of format {plan.get('provenance', {}).get('format')}, this program of {FORMAT}; "
                "use the version that made it, or --overwrite to discard it"
            )
        return cls(path, plan)

    @property
    def chunking(self) -> Chunking:
        """How the sweep is computed."""
        return Chunking(tuple(self.plan["chunk"]), self.plan["lanes"])

    # Chunks

    def done(self) -> set[int]:
        """Numbers of the chunks that exist."""
        return {int(path.stem) for path in self._manifests if path.stem != _SKELETON}

    @property
    def _manifests(self) -> list[Path]:
        return sorted((self.path / _PRIVATE / "manifests").glob("*.json"))

    def _manifest(self, name: int | str) -> Path:
        return self.path / _PRIVATE / "manifests" / f"{name}.json"

    def write(self, specification: Specification, number: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes a chunk, whole or not at all.

        Args:
            specification: of the sweep.
            number: of the chunk.
            values: every variable over the chunk's region of the grid, and the prompts if there are several.

        Raises:
            StoreError: if the disk refuses; what exists is safe.
        """
        content = _encode(specification, self.chunking, number, values)
        counts = {name: _counts(values[f"{name}_status"]) for name in specification.measures}
        self._commit(number, content, {"status": counts})

    def _commit(self, name: int | str, content: Mapping[str, bytes], more: Mapping[str, Any]) -> None:
        sums = {key: hashlib.sha256(data).hexdigest() for key, data in content.items()}
        try:
            for key, data in content.items():
                self._place(self.path / key, data)
            for folder in {(self.path / key).parent for key in content}:
                _flush(folder)
            self._place(self._manifest(name), _json({"files": sums, **more}))
            _flush(self._manifest(name).parent)
        except OSError as error:
            raise _refused(self.path, error) from error

    def _place(self, path: Path, data: bytes) -> None:
        """Writes a file elsewhere on the disk, and moves it to its place when it is safe there."""
        temporary = self.path / _PRIVATE / f"unfinished-{socket.gethostname()}-{os.getpid()}"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def damaged(self) -> dict[str, list[str]]:
        """Files that are not what the manifests say, by the name of their chunk."""
        found = {}
        for manifest in self._manifests:
            try:
                sums = json.loads(manifest.read_text())["files"]
                bad = [key for key, digest in sums.items() if _digest(self.path / key) != digest]
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                bad = [f"{_PRIVATE}/manifests/{manifest.name}"]
            if bad:
                found[manifest.stem] = bad
        return found

    def forget(self, specification: Specification, name: str) -> None:
        """Makes a chunk absent, for it to be written again."""
        try:
            self._manifest(name).unlink()
            if name == _SKELETON:
                self.write_skeleton(specification)
        except OSError as error:
            raise _refused(self.path, error) from error

    def statuses(self) -> dict[str, dict[str, int]]:
        """How many problems of each measure have which status, over the chunks that exist."""
        total: dict[str, dict[str, int]] = {}
        for manifest in self._manifests:
            for name, counts in json.loads(manifest.read_text()).get("status", {}).items():
                of_measure = total.setdefault(name, {})
                for status, count in counts.items():
                    of_measure[status] = of_measure.get(status, 0) + count
        return total

    # Making and opening it

    def write_skeleton(self, specification: Specification) -> None:
        """Writes everything but the chunks: attributes, and the coordinates."""
        content = _skeleton(specification, self.chunking, self.plan)
        try:
            for key in content:
                (self.path / key).parent.mkdir(exist_ok=True)
        except OSError as error:
            raise _refused(self.path, error) from error
        self._commit(_SKELETON, content, {})

    def tidy(self, specification: Specification) -> None:
        """Completes a store whose making was interrupted; removes what an interrupted chunk has left."""
        if not self._manifest(_SKELETON).exists():
            self.write_skeleton(specification)
        try:
            for left in (self.path / _PRIVATE).glob("unfinished-*"):
                left.unlink()
            done, cells = self.done(), grid(specification, self.chunking)
            for variable in specification.variables:
                for chunk in (self.path / variable).glob("c.*"):
                    index = tuple(map(int, chunk.name.split(".")[1 : 1 + len(cells)]))
                    if int(np.ravel_multi_index(index, cells)) not in done:
                        chunk.unlink()
        except OSError as error:
            raise _refused(self.path, error) from error


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
            f"{path}/{_PRIVATE}/{_PLAN} is damaged ({error}); restore it, or --overwrite to discard the store"
        ) from error
    return plan


def check(path: Path, specification: Specification, *, overwrite: bool = False) -> Chunking | None:
    """Refuses a folder that cannot take the sweep, before anything is written.

    Returns:
        How the sweep that is there is cut into chunks; ``None`` if it is to be made.

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
        lines += differences(_binding(store.plan["provenance"]), _binding(provenance()))
        if lines:
            raise StoreError(
                f"{path} holds another sweep: {'; '.join(lines)}; give another folder, or --overwrite to "
                "discard what it holds"
            )
        return store.chunking
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
def prepare(
    path: Path, specification: Specification, chunking: Chunking, *, overwrite: bool = False
) -> Iterator[Store]:
    """The store, made if it is not there, and locked against other runs.

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
                "specification": specification.describe(),
                "chunk": list(chunking.shape),
                "lanes": chunking.lanes,
                "provenance": provenance(),
            }
            store = Store(path, plan)
            try:
                store._place(path / _PRIVATE / _PLAN, _json(plan))
                _flush(path / _PRIVATE)
            except OSError as error:
                raise _refused(path, error) from error
        store = Store.find(path)
        store.tidy(specification)
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
def join(path: Path, process: int) -> Iterator[Store]:
    """The store that the first of several processes has prepared, for another one.

    Raises:
        StoreError: if there is none, or a process with the same number is at it.
    """
    store = Store.find(path)
    with _hold(path, process):
        yield store


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


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _counts(status: np.ndarray) -> dict[str, int]:
    values, counts = np.unique(status, return_counts=True)
    return {Status(value).name.lower(): int(n) for value, n in zip(values.tolist(), counts, strict=True)}


def _dimensions(specification: Specification) -> tuple[str, ...]:
    prompt = ("prompt",) if specification.prompts > 1 else ()
    return (*specification.dimensions, *prompt)


def _array(group: zarr.Group, name: str, **settings: Any) -> Any:
    # Compressed, and with a checksum that every reader of Zarr verifies.
    return group.create_array(
        name,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        config={"write_empty_chunks": True},
        chunk_key_encoding={"name": "default", "separator": "."},
        **settings,
    )


def _variable(group: zarr.Group, specification: Specification, chunking: Chunking, name: str) -> Any:
    variable = specification.variables[name]
    prompts = (specification.prompts,) if specification.prompts > 1 else ()
    return _array(
        group,
        name,
        shape=(*specification.shape, *prompts),
        chunks=(*chunking.shape, *prompts),
        dtype=variable.dtype,
        fill_value=variable.missing,
        dimension_names=_dimensions(specification),
        attributes=dict(variable.attributes),
    )


def _encode(
    specification: Specification, chunking: Chunking, number: int, values: Mapping[str, np.ndarray]
) -> dict[str, bytes]:
    """The files of a chunk; the statuses last, which say that the others are there."""
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(store_dict=files))
    place = region(specification, chunking, number)
    for name in sorted(values, key=lambda name: name.endswith("_status")):
        _variable(group, specification, chunking, name)[place] = values[name]
    return {key: data.to_bytes() for key, data in files.items() if not key.endswith("zarr.json")}


def _skeleton(specification: Specification, chunking: Chunking, plan: Mapping[str, Any]) -> dict[str, bytes]:
    files: dict[str, Any] = {}
    store = MemoryStore(store_dict=files)
    origin = plan["provenance"]
    about = {
        "title": f"goodteacher sweep of {specification.builder.name}",
        "specification": json.dumps(plan["specification"]),
        "lanes": chunking.lanes,
        "precision": origin["precision"],
        "platform": origin["platform"],
        "devices": ", ".join(f"{n} x {kind}" for kind, n in Counter(origin["devices"]).items()),
        "versions": ", ".join(f"{name} {version}" for name, version in origin["versions"].items()),
        "git_commit": origin["git_commit"] or "none",
    }
    group = zarr.create_group(store, attributes=about)
    for dimension, axes in specification.dimensions.items():
        for axis in axes:
            dtype = axis.at(np.zeros(1, int)).dtype
            coordinate = _array(
                group,
                axis.parameter,
                shape=(axis.count,),
                chunks=(min(axis.count, _COORDINATES),),
                dtype=str if dtype.kind == "U" else dtype,
                dimension_names=(dimension,),
                attributes={"long_name": axis.parameter.replace("_", " "), "units": "1"},
            )
            for first in range(0, axis.count, _COORDINATES):
                part = np.arange(first, min(first + _COORDINATES, axis.count))
                values = axis.at(part)
                coordinate[part[0] : part[-1] + 1] = values.astype(object) if dtype.kind == "U" else values
    if specification.prompts > 1:
        prompt = _array(
            group,
            "prompt",
            shape=(specification.prompts,),
            chunks=(specification.prompts,),
            dtype="int64",
            dimension_names=("prompt",),
        )
        prompt[:] = np.arange(specification.prompts)
    for name in specification.variables:
        _variable(group, specification, chunking, name)
    with warnings.catch_warnings():
        # One file with all metadata: Zarr says that not every reader knows it yet; those ignore it.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    return {key: data.to_bytes() for key, data in files.items()}
