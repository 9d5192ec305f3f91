"""What ``goodteacher verify`` does: checks statements one after the other, and says how tight they are."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from goodteacher.experiments.text import numbers_table
from goodteacher.experiments.workers import workers
from goodteacher.sim import files
from goodteacher.theory import adversary, statements
from goodteacher.theory.adversary import Finding
from goodteacher.theory.statements import Report, Statement

INSTANCES = 10_000  # for each statement
EVALUATIONS = 100_000  # of a search
_MANY = 8  # statements that are worth a process for each core

Tell = Callable[[int, str], None]
"""Is told how many instances were examined, of all statements together, and the statement under way."""


def choose(names: Sequence[str], *, bounds: bool = False) -> list[Statement]:
    """Statements by name, each once; all, or all ``bounds``, if none is named.

    Raises:
        ValueError: for a name that is not known.
    """
    every = [name for name, one in statements.find_statements().items() if one.bound or not bounds]
    return [statements.find_statement(name) for name in dict.fromkeys(names or every)]


def check(chosen: Sequence[Statement], instances: int, seed: int, tell: Tell) -> list[Report]:
    """:func:`goodteacher.theory.statements.verify` for each of several statements, many of them side by side.

    Raises:
        ValueError: if the number of instances is not positive, or the seed is out of range.
    """
    _check_seed(seed)
    if len(chosen) < _MANY:
        return [
            statements.verify(one, instances, seed, progress=_among(tell, one, position * instances))
            for position, one in enumerate(chosen)
        ]
    names = [statement.name for statement in chosen]
    found = {}
    with workers(len(names)) as each:
        tell(0, names[0])
        for report in each(partial(_verified, instances, seed), names):
            found[report.statement] = report
            tell(len(found) * instances, report.statement)
    return [found[name] for name in names]


def _verified(instances: int, seed: int, name: str) -> Report:
    report = statements.verify(name, instances, seed)
    return replace(report, tightest=statements.plain(report.tightest))  # not all policies can be sent


def search(
    chosen: Sequence[Statement], evaluations: int, seed: int, tell: Tell, folder: Path, *, overwrite: bool
) -> list[Finding]:
    """:func:`goodteacher.theory.adversary.search` for each of several statements.

    What is found is written into a folder, as an instance file that has the statement's name.

    Raises:
        ValueError: if a file exists or the folder cannot be made, before anything is computed; as
            :func:`check`.
    """
    _check_seed(seed)
    files.make_folder(folder)
    paths = [folder / f"{statement.name}.json" for statement in chosen]
    for path in paths:
        files.check_writable(path, overwrite=overwrite)
    findings = []
    for position, (statement, path) in enumerate(zip(chosen, paths, strict=True)):
        progress = _among(tell, statement, position * evaluations)
        found = adversary.search(statement, evaluations, seed, progress=progress)
        files.write_instance(statements.problem(found.instance), path, overwrite=overwrite)
        findings.append(found)
    return findings


def _among(tell: Tell, statement: Statement, before: int) -> Callable[[int, int], None]:
    """What the check of one statement is to tell, after so many instances of others."""

    def of_all(done: int, total: int) -> None:
        tell(before + done, statement.name)

    of_all(0, 0)
    return of_all


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; give a whole number from 0 to 2^63 - 1")


def contents(reports: Sequence[Report | Finding]) -> dict[str, Any]:
    """What the output file holds."""
    every = [report.to_dictionary() for report in reports]
    return {"ok": all(report.ok for report in reports), "reports": every}


def table(reports: Sequence[Report]) -> Table:
    """A row for each statement that was checked."""
    rows = numbers_table(
        "statement", "instances", "informative", "violations", "tightest margin", "sabotages caught"
    )
    for report in reports:
        caught = sum(trial.caught for trial in report.sabotages.values())
        cells = (f"{report.instances}", f"{100.0 * report.informative:.0f} %", f"{report.violations}")
        margin = f"{report.tightest_margin:.3g}"
        rows.add_row(
            report.statement, *cells, margin, f"{caught} of {len(report.sabotages)}", style=_style(report)
        )
    return rows


def search_table(findings: Sequence[Finding], folder: Path) -> Table:
    """A row for each statement that was attacked."""
    rows = numbers_table("statement", "instances", "smallest margin", "factor", "gamma")
    rows.add_column("instance found")
    for found in findings:
        cells = (f"{found.evaluations}", f"{found.tightest_margin:.4g}", f"{found.factor:.4g}")
        gamma = getattr(found.instance, "gamma", "-")
        rows.add_row(
            found.statement, *cells, f"{gamma}", f"{folder / found.statement}.json", style=_style(found)
        )
    return rows


def _style(report: Report | Finding) -> str | None:
    return None if report.ok else "bold red"


def violations(reports: Sequence[Report | Finding]) -> list[str]:
    """For each statement that is violated the instance where it is most, and the two sides there."""
    said = []
    for report in reports:
        if not report.tightest_margin >= 0:
            smaller, larger = report.tightest_sides
            said.append(
                f"{report.statement} is violated: {smaller!r} should be at most {larger!r}, and exceeds it "
                f"by {smaller - larger:.3g}, on the instance\n"
                f"{json.dumps(report.to_dictionary()['tightest_instance'])}"
            )
    return said
