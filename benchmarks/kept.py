"""What came out for mutants, by a digest of the mutant and of all files that what runs depends on."""

import ast
import hashlib
import json
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.alterations import ROOT, Mutant, modules

_KEPT = ROOT / "build/mutation.json"


class Results:
    """What came out so far, by digest; written down with each result. Of many threads.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path = _KEPT):
        self._path = path
        self._lock = threading.Lock()
        self.found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def add(self, **found: Any) -> None:
        """Adds what was found, by key."""
        with self._lock:
            self.found |= found
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial_path = self._path.with_suffix(".part")
            partial_path.write_text(json.dumps(self.found, indent=0), encoding="utf-8")
            partial_path.replace(self._path)


def digest(mutant: Mutant) -> str:
    """Of a mutant, what runs it, and all files of the house that these import."""
    return digest_of([mutant.name, mutant.source, mutant.checks], {mutant.path, *_files(mutant.checks)})


def digest_in_place(mutant: Mutant) -> str:
    """Of a mutant and what its module imports."""
    return digest_of(["in place", mutant.name, mutant.source], [mutant.path])


def _files(checks: Iterable[tuple[str, ...]]) -> set[str]:
    return {part for check in checks for part in check if part.endswith(".py")}


def digest_of(what: list[Any], files: Iterable[str]) -> str:
    """Of anything that JSON holds, and all files that some files depend on."""
    files = list(files)
    found = hashlib.sha256(json.dumps(what).encode())
    for path in sorted(set().union(*map(_needed, files))):
        found.update((ROOT / path).read_bytes())
    if any(path.startswith("theory/") for path in files):
        found.update((ROOT / "theory/tightest.json").read_bytes())
    return found.hexdigest()[:24]


@cache
def _needed(path: str) -> frozenset[str]:
    """A file and what it imports of the house, and these in turn."""
    found, open_ = set(), [path]
    while open_:
        one = open_.pop()
        if one in found:
            continue
        found.add(one)
        for node in ast.walk(ast.parse((ROOT / one).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("goodteacher"):
                base = "/".join((node.module or "").split(".")[1:])
                names = [f"{base}.py", *(f"{base}/{alias.name}.py" for alias in node.names)]
                open_ += [name for name in names if (ROOT / name).is_file()]
    return frozenset(found)


def key_of_check(check: tuple[str, ...]) -> str:
    """Of a check of code as it is."""
    files = _files([check]) or {f"theory/{path.name}" for path in modules()}
    return digest_of(["as it is", check], files)
