"""The lines that ``make mutate`` alters are those of the code as it is."""

from pathlib import Path

import pytest

from benchmarks.alterations import every_mutant
from benchmarks.mutants import EXPLAINED, LINES, Line

ROOT = Path(__file__).parents[2]


def applies(line: Line) -> bool:
    """Whether the old text stands in the file once, and its tests exist."""
    text = (ROOT / line.path).read_text(encoding="utf-8")
    tests = [ROOT / "tests/sim" / f"{name}.py" for name in line.tests]
    return text.count(line.old) == 1 and line.new != line.old and all(t.exists() for t in tests)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.path} {line.old[:30]}")
def test_every_line_that_is_altered_stands_once(line):
    assert applies(line)


def test_a_line_that_is_not_there_is_noticed():
    assert not applies(LINES[0]._replace(old="what never stood there"))
    assert not applies(LINES[0]._replace(tests=("test_of_nothing",)))


def test_what_is_explained_is_altered():
    assert EXPLAINED.keys() <= {mutant.name for mutant in every_mutant()}
