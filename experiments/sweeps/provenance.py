"""Where the numbers of a sweep come from: code, versions, the commit, devices and precision."""

import ast
import contextlib
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import goodteacher
from goodteacher.experiments.sweeps import computation

FORMAT = 2  # of the store
_COMPUTE = ("jax", "jaxlib", "diffrax", "equinox", "optax", "numpy")  # packages that numbers depend on
_PACKAGES = ("goodteacher", *_COMPUTE, "xarray", "zarr")
_BINDING = ("format", "precision", "platform", "code_digest", *_COMPUTE)


def provenance() -> dict[str, Any]:
    """Where numbers come from; no names and no times."""
    return {
        "format": FORMAT,
        "precision": jnp.zeros(()).dtype.name,
        "platform": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "code_digest": code_digest(),
        "versions": {"python": platform.python_version(), **versions(*_PACKAGES)},
        "git_commit": _commit(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed, by name."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def binding(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must share for their chunks to be the same to the bit."""
    flat = {**origin, **origin["versions"]}
    return {name: flat.get(name) for name in _BINDING}


@cache
def code_digest(root: str = computation.__name__) -> str:
    """A digest of all of this package's code that can decide numbers: of a module and all that it imports."""
    found: set[Path] = set()
    waiting = _known(_file(root))
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= _imports(file) - found
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(found))).hexdigest()[:16]


def _imports(file: Path) -> set[Path]:
    """The files of this package that a file imports."""
    found: set[Path | None] = set()
    for node in _statements(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {_file(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A module, or something that stands in one.
            found |= {_file(f"{node.module}.{alias.name}") or _file(node.module) for alias in node.names}
    return _known(*found)


def _known(*files: Path | None) -> set[Path]:
    return {file for file in files if file is not None}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.stmt | ast.excepthandler | ast.match_case):
            yield inner
            yield from _statements(inner)


def _file(module: str) -> Path | None:
    """The file of a module, if this package has one of that name."""
    package, *parts = module.split(".")
    if package != goodteacher.__name__ or not parts:
        return None
    place = Path(goodteacher.__path__[0]).joinpath(*parts)
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


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
