"""What an audit altered has a counterpart in the code as it is, and one of each kind is altered."""

from pathlib import Path

import pytest

from benchmarks import audited
from benchmarks.mutants import LINES
from goodteacher.theory.formulas import Formula
from goodteacher.theory.statements import find_statements

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("one", audited.STATEMENTS, ids=lambda one: one.what)
def test_its_counterpart_stands(one):
    judge = find_statements()[one.statement].judge
    if isinstance(one, audited.Text):
        text = (ROOT / f"theory/{audited._module(one)}.py").read_text(encoding="utf-8")
        assert text.count(one.old) == 1
    else:
        assert isinstance(judge, Formula)
        assert set(one.numbers) <= set(judge.numbers)
        assert one.numbers or one.true


def test_there_are_as_many_as_the_audit_altered():
    assert len(audited.STATEMENTS) == 26
    for old in audited.LINES:
        assert sum(old in line.old for line in LINES) == 1


def test_what_is_false_is_refuted_and_what_is_true_is_not():
    found = {
        one.what: audited.altered(one, 400) for one in audited.STATEMENTS if one.statement == "lojasiewicz"
    }
    assert list(found) == ["Łojasiewicz: 1.05 for 1"]
    assert all(found.values())
    same = audited.Number("nothing", "lojasiewicz", {"constant": 1.0}, "the claim itself")
    assert audited.altered(same, 400) == 0
