"""Mutants of theory: each alters one place of its function, and is noticed where statements see it."""

import ast
from pathlib import Path

import pytest

from benchmarks import mutate

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "theory/divergences.py"


def test_every_mutant_alters_one_place():
    plain = ast.unparse(ast.parse(MODULE.read_text(encoding="utf-8"))).splitlines()
    mutants = list(mutate.theory_mutants(MODULE))
    assert len({mutant.source for mutant in mutants}) == len(mutants) > 4
    for mutant in mutants:
        lines = mutant.source.splitlines()
        assert sum(one != other for one, other in zip(lines, plain, strict=True)) == 1


def test_a_mutant_takes_the_place_of_its_function_and_leaves_it():
    name = "divergence_bound"
    observed = mutate.Observed(mutate.find_statements()[name], 50)
    assert not observed.violations(observed.statement.judge)
    mutant = next(m for m in mutate.theory_mutants(MODULE) if "without its sign" in m.name)
    assert mutant.function == "divergence_upper_bound"
    with mutate.in_place(mutant):
        assert observed.notices() == f"{name}: 50 violated"
    assert not observed.violations(observed.statement.judge)


def test_what_stops_a_judge_is_noticed():
    observed = mutate.Observed(mutate.find_statements()["divergence_bound"], 50)
    (mutant, *_) = mutate.theory_mutants(MODULE)
    broken = mutant._replace(source="def divergence_upper_bound(log_q, *, constant, power): return {}[0]")
    with mutate.in_place(broken):
        assert observed.notices() == "divergence_bound: KeyError"
    assert not observed.violations(observed.statement.judge)


@pytest.mark.parametrize("text", ["x.min(-1)", "x[-2]"])
def test_axes_are_left_alone(text):
    function = ast.parse(f"def f(x):\n    return {text}").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert [what for _, _, what in mutate._sites(function) if "sign" in what] == []
