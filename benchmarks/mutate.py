"""``make mutate``: alters formulas and code one place at a time, and prints what nothing notices.

Three kinds of mutants. Numbers: each constant and exponent of every formula, larger and smaller, on the same
observations as ``verify``. Theory and lines of ``sim``: see :mod:`benchmarks.alterations`.

Those of theory are judged in place first (:mod:`benchmarks.in_place`). What is still not noticed, and every
line of ``sim``, runs in a copy of the checkout (:mod:`benchmarks.in_copies`) through the tests of its module,
which have to pass unaltered; the test that noticed it before (``noticed.json``) is tried first. What came out
is kept in ``build/mutation.json`` (:mod:`benchmarks.kept`), so that a later call goes on where this one
stops; when nothing is left to run, ``mutated.md`` is written.
"""

import json
import multiprocessing
import os
import queue
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.alterations import Mutant, every_mutant, modules
from benchmarks.in_copies import ended, make_copies, run
from benchmarks.in_place import judge_module
from benchmarks.kept import Results, digest, digest_in_place, key_of_check
from benchmarks.outcomes import (
    CODE,
    EXPLAINED_BY,
    NUMBERS,
    SURVIVES,
    WAITING,
    Outcome,
    counts,
    of_code,
    of_numbers,
    page,
)
from benchmarks.timing import table

MINUTES = 5.0
NOTICED = Path(__file__).with_name("noticed.json")
_PAGE = Path(__file__).with_name("mutated.md")
_PATIENCE = 120.0  # seconds beyond twice what a check takes of the code as it is: what never ends is noticed


def _judge_modules(results: Results, end: float) -> None:
    """Module by module, each in a process of its own: a process has room for only so many programs."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawned, max_tasks_per_child=1) as pool:
        open_ = [pool.submit(judge_module, path, frozenset(results.found), end) for path in modules()]
        for one in as_completed(open_):
            results.add(**one.result())


def _run_checks(mutants: Mapping[str, Mutant], results: Results, end: float) -> None:
    """In copies of the checkout, one for each core: of the code as it is, then of each mutant, by its key."""
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for copied in make_copies():
        copies.put(copied)

    def with_copy(job: Callable[[Path], None]) -> None:
        if time.time() < end:
            copied = copies.get()
            try:
                job(copied)
            finally:
                copies.put(copied)

    def as_it_is(check: tuple[str, ...], copied: Path) -> None:
        plain = ended(check, copied, 60.0 * _PATIENCE)
        if plain.failed:
            raise ValueError(f"{' '.join(check)} fails with nothing altered: {plain.by}; mend it first")
        results.add(**{key_of_check(check): plain.seconds})

    noticed = _noticed()

    def altered(key: str, copied: Path) -> None:
        mutant = mutants[key]
        keys = {check: key_of_check(check) for check in mutant.checks}
        if results.found.keys() >= set(keys.values()):
            patience = {check: _PATIENCE + 2.0 * results.found[of] for check, of in keys.items()}
            results.add(**{key: run(mutant, copied, patience, noticed.get(mutant.name, ""))})

    left = waiting(mutants, results.found)
    checks = {check: None for key in left for check in mutants[key].checks}
    plain = [check for check in checks if key_of_check(check) not in results.found]
    with ThreadPoolExecutor(copies.qsize()) as pool:
        list(pool.map(with_copy, [partial(as_it_is, check) for check in plain]))
        list(pool.map(with_copy, [partial(altered, key) for key in left]))


def _noticed() -> dict[str, str]:
    """By the name of a mutant the test that noticed it last."""
    return json.loads(NOTICED.read_text(encoding="utf-8")) if NOTICED.exists() else {}


def waiting(mutants: Mapping[str, Mutant], found: Mapping[str, Any]) -> list[str]:
    """Keys of those that have not run and that no statement notices, in random order: a slice is spread over
    all of it."""
    keys = [
        key for key, mutant in mutants.items() if key not in found and not found.get(digest_in_place(mutant))
    ]
    random.Random(0).shuffle(keys)
    return keys


def main(minutes: float = MINUTES) -> int:
    """Runs for about so many minutes, prints what is known by then; 1 if a mutant survives unexplained."""
    end = time.time() + 60.0 * minutes
    results = Results()
    mutants = {digest(mutant): mutant for mutant in every_mutant()}
    _judge_modules(results, end)
    _run_checks(mutants, results, end)
    numbers, code = list(of_numbers(results.found)), list(of_code(mutants, results.found))
    table("Numbers of formulas", ("statement", *NUMBERS), counts(numbers, NUMBERS))
    table("Code", ("file", *CODE), counts(code, CODE))
    _remember(code)
    if not any(one.how == WAITING for one in numbers + code):
        _PAGE.write_text(page(numbers, code), encoding="utf-8")
    return _survivors(numbers + code)


def _remember(code: Sequence[Outcome]) -> None:
    """Writes down which test noticed what."""
    before = _noticed()
    last = {one.what: before.get(one.what, "") if one.how == WAITING else one.why for one in code}
    lines = {name: test for name, test in sorted(last.items()) if "::" in test}
    NOTICED.write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _survivors(outcomes: Sequence[Outcome]) -> int:
    """Prints what nothing noticed; 1 if there is no reason for one."""
    explained = [one for one in outcomes if one.how in EXPLAINED_BY]
    unexplained = [one for one in outcomes if one.how == SURVIVES]
    print(f"\nSurvivors with a reason: {len(explained)}")
    for one in explained:
        print(f"  {one.of}: {one.what}\n    {one.why}")
    print(f"Survivors without: {len(unexplained)}")
    for one in unexplained:
        print(f"  {one.of}: {one.what}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
