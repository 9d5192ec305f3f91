"""Where the numbers of a sweep come from: code, versions, the commit, devices and precision."""

import ast
import contextlib
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import goodteacher
from goodteacher.experiments.sweeps import computation

FORMAT = 2  # of the store
_PACKAGES = ("goodteacher", "jax", "jaxlib", "diffrax", "equinox", "optax", "numpy", "xarray", "zarr")
_BINDING = ("format", "precision", "platform", "code_digest", "jax", "jaxlib")  # of which the numbers depend


def provenance() -> dict[str, Any]:
    """Where numbers come from; no names and no times."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "format": FORMAT,
        "precision": jnp.zeros(()).dtype.name,
        "platform": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "code_digest": code_digest(),
        "versions": versions,
        "git_commit": _commit(),
    }


def binding(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must share for their chunks to be the same to the bit."""
    flat = {**origin, **origin["versions"]}
    return {name: flat.get(name) for name in _BINDING}


def code_digest(root: str = computation.__name__) -> str:
    """A digest of all of this package's code that can decide numbers: of a module and all that it imports."""
    found = {root: _file(root)}
    waiting = [root]
    while waiting:
        file = found[waiting.pop()]
        for name in _imports(file) if file else ():
            if name not in found:
                found[name] = _file(name)
                waiting.append(name)
    files = sorted({file for file in found.values() if file})
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _imports(file: Path) -> Iterator[str]:
    """Names in this package that a file imports: of modules, and of what stands in them."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith(f"{goodteacher.__name__}."))


def _file(module: str) -> Path | None:
    """The file of a module of this package; ``None`` for a name that stands in one."""
    place = Path(goodteacher.__path__[0]).joinpath(*module.split(".")[1:])
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
