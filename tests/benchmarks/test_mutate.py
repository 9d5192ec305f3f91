"""Mutants of theory: each alters one place of its function, and is noticed where statements see it."""

import ast
from pathlib import Path

import pytest

from benchmarks import alterations, in_copies, in_place, kept, mutate, outcomes
from goodteacher.theory.statements import find_statements

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "theory/divergences.py"


def test_every_mutant_alters_one_place():
    plain = ast.unparse(ast.parse(MODULE.read_text(encoding="utf-8"))).splitlines()
    mutants = list(alterations.theory_mutants(MODULE))
    assert len({mutant.source for mutant in mutants}) == len(mutants) > 4
    for mutant in mutants:
        lines = mutant.source.splitlines()
        assert sum(one != other for one, other in zip(lines, plain, strict=True)) == 1


def test_a_mutant_takes_the_place_of_its_function_and_leaves_it():
    name = "divergence_bound"
    observed = in_place.Observed(find_statements()[name], 50)
    assert not observed.violations(observed.statement.judge)
    mutant = next(m for m in alterations.theory_mutants(MODULE) if "without its sign" in m.name)
    assert mutant.function == "divergence_upper_bound"
    with in_place.in_place(mutant):
        assert observed.notices() == f"{name}: 50 violated"
    assert not observed.violations(observed.statement.judge)


def test_what_stops_a_judge_is_noticed():
    observed = in_place.Observed(find_statements()["divergence_bound"], 50)
    (mutant, *_) = alterations.theory_mutants(MODULE)
    broken = mutant._replace(source="def divergence_upper_bound(log_q, *, constant, power): return {}[0]")
    with in_place.in_place(broken):
        assert observed.notices() == "divergence_bound: KeyError"
    assert not observed.violations(observed.statement.judge)


@pytest.mark.parametrize("text", ["x.min(-1)", "x[-2]"])
def test_axes_are_left_alone(text):
    function = ast.parse(f"def f(x):\n    return {text}").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert [what for _, _, what in alterations._sites(function) if "sign" in what] == []


def test_what_a_public_function_calls_is_altered_and_what_draws_is_not():
    tree = ast.parse("def law(x): return _half(x) ** 2\ndef _half(x): return x / 2\ndef _draw(x): return -x")
    assert [function.name for function in alterations._computing(tree)] == ["law", "_half"]
    computing = alterations._computing(tree)
    altered = [what for function in computing for _, _, what in alterations._sites(function)]
    assert altered == ["'_half(x) ** 2' to the power 3", "'x / 2' with the other operator"]


def test_a_mutant_is_noticed_by_a_test_that_fails_and_by_none_that_is_gone(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("ANSWER = 42\n")
    (tmp_path / "test_code.py").write_text(
        "from pathlib import Path\n\n\ndef test_answer():\n    assert '42' in Path('code.py').read_text()\n"
    )
    check: tuple[str, ...] = (*alterations.PYTEST, "test_code.py")
    mutant = alterations.Mutant("another answer", "code.py", "ANSWER = 41\n", (check,))
    patience: dict[tuple[str, ...], float] = {check: 60.0}
    for likely in ("", "test_code.py::test_answer", "test_code.py::test_that_is_gone"):
        assert in_copies.run(mutant, tmp_path, patience, likely) == "test_code.py::test_answer"
    harmless = mutant._replace(source="ANSWER = 42  # as before\n")
    assert in_copies.run(harmless, tmp_path, patience, "test_code.py::test_answer") == ""
    assert code.read_text() == "ANSWER = 42\n"


def test_what_does_not_end_is_noticed(tmp_path):
    assert in_copies.ended(("-c", "while True: pass"), tmp_path, 0.5)[:2] == (True, "no end")


def test_what_statements_notice_is_not_run_through_tests():
    mutants = {kept.digest(mutant): mutant for mutant in alterations.theory_mutants(MODULE)}
    noticed, failing, *others = mutants
    found = {kept.digest_in_place(mutants[noticed]): "a statement", failing: "a test"}
    assert sorted(mutate.waiting(mutants, found)) == sorted(others)
    how = [one.how for one in outcomes.of_code(mutants, found)]
    assert how == ["by statements", "by tests"] + [outcomes.WAITING] * len(others)


def test_the_page_counts_what_became_of_each():
    one = outcomes.Outcome("a_law", "constant 1.1 for 1", "refuted", "7")
    numbers = [one, one._replace(how="other reason", what="rate 2 for 1", why="true: |x| is no less")]
    code = [outcomes.Outcome("theory/laws.py", "a mutant", "by tests", "test_it")]
    text = outcomes.page(numbers, code)
    assert "| `a_law` | 1 | 0 | 0 | 1 |\n| all | 1 | 0 | 0 | 1 |" in text
    assert "| `a_law` | `rate 2 for 1` | true: \\|x\\| is no less |" in text
    assert "| `theory/laws.py` | 0 | 1 | 0 |" in text
    waiting = outcomes.page(numbers, [code[0]._replace(how=outcomes.WAITING)])
    assert "| `theory/laws.py` | 0 | 0 | 0 | 1 |" in waiting
    assert "a mutant" not in text  # it was noticed
