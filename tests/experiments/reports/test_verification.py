"""Statements side by side: the same reports in the same order as one after the other."""

import contextlib

import pytest

from goodteacher.experiments.reports import verification
from goodteacher.theory import statements

NAMES = ["divergence_bound", "lojasiewicz", "divergence_term_bound"]


@contextlib.contextmanager
def backwards(tasks):
    """In this process, and done in another order."""
    yield lambda verified, names: map(verified, reversed(names))


@pytest.mark.parametrize("many", [2, 8])
def test_reports_do_not_depend_on_how_they_are_made(many, monkeypatch):
    monkeypatch.setattr(verification, "workers", backwards)
    monkeypatch.setattr(verification, "_MANY", many)
    told = []
    chosen = verification.choose(NAMES)
    reports = verification.check(chosen, 100, 0, lambda done, name: told.append(done))
    assert [report.statement for report in reports] == NAMES
    assert told[0] == 0
    assert told[-1] == 300
    plainly = [statements.verify(name, 100).to_dictionary() for name in NAMES]
    assert verification.contents(reports)["reports"] == plainly
