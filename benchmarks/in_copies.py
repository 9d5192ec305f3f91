"""Checks of mutants in copies of the checkout."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.alterations import PYTEST, ROOT, Mutant

_COPIES = ROOT / "build/mutated"
_COPIED = ("goodteacher", "sim", "theory", "experiments", "figures/style.py", "figures/__init__.py", "tests")


class Ended(NamedTuple):
    """How a check ended.

    Attributes:
        failed: whether what it runs failed, or did not end.
        by: what failed: a test where one can be named.
        seconds: that it took.
    """

    failed: bool
    by: str
    seconds: float


def ended(check: tuple[str, ...], copied: Path, patience: float) -> Ended:
    """Runs a check in a copy of the checkout."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *check],
            cwd=copied,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ended(True, "no end", patience)
    named = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    by = named[0].split(" ", 1)[1].split(" - ")[0] if named else " ".join(check[1:3])
    return Ended(done.returncode != 0, by, time.monotonic() - start)


def run(mutant: Mutant, copied: Path, patience: Mapping[tuple[str, ...], float], likely: str = "") -> str:
    """What noticed the mutant; nothing if it survived.

    Args:
        mutant: the mutant.
        copied: a copy of the checkout, in which nothing else runs.
        patience: seconds after which a check counts as failed, for each.
        likely: the test that noticed it before, which is tried first.
    """
    target = copied / mutant.path
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    try:
        if "::" in likely:
            check = (*PYTEST, likely)
            first = ended(check, copied, max(patience.values()))
            if first.failed and first.by.startswith(likely):  # it is still there, and failed
                return first.by
        for check in mutant.checks:
            found = ended(check, copied, patience[check])
            if found.failed:
                return found.by
    finally:
        target.write_text(original, encoding="utf-8")
    return ""


def make_copies() -> list[Path]:
    """One for each core. What was compiled there stays, and is shared."""
    copies = [_COPIES / str(number) for number in range(os.cpu_count() or 1)]
    for copied in copies:
        copied.mkdir(parents=True, exist_ok=True)
        for name in (*_COPIED, "pyproject.toml"):
            source, target = ROOT / name, copied / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        compiled = copied / ".pytest_cache"
        if copied != copies[0] and not compiled.exists():
            (copies[0] / ".pytest_cache").mkdir(exist_ok=True)
            compiled.symlink_to(copies[0] / ".pytest_cache")
    return copies
