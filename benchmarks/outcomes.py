"""What became of mutants, counted by statement and by file, and as a page."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.alterations import Mutant
from benchmarks.in_place import SLACK, WEAKER, key_of_numbers
from benchmarks.kept import digest_in_place
from benchmarks.mutants import EXPLAINED
from goodteacher.theory.formulas import Formula
from goodteacher.theory.statements import find_statements

WAITING, SURVIVES = "not run yet", "survives"
_REFUTED, _WEAKER, _IN_SLACK, _REASON = "refuted", "weaker than the claim", "in the slack", "other reason"
_BY_STATEMENTS, _BY_TESTS, _NOTHING = "by statements", "by tests", "changes nothing"
NUMBERS = (_REFUTED, _WEAKER, _IN_SLACK, _REASON, SURVIVES, WAITING)
CODE = (_BY_STATEMENTS, _BY_TESTS, _NOTHING, SURVIVES, WAITING)
EXPLAINED_BY = (_IN_SLACK, _REASON, _NOTHING)
"""What a mutant may be that is neither noticed nor weaker than the claim, and has a reason."""


class Outcome(NamedTuple):
    """What became of one mutant.

    Attributes:
        of: the statement, or the file.
        what: the alteration.
        how: one of :data:`NUMBERS` or :data:`CODE`.
        why: it was not noticed, or what noticed it.
    """

    of: str
    what: str
    how: str
    why: str


def of_numbers(found: Mapping[str, Any]) -> Iterator[Outcome]:
    """Of numbers of formulas; where a statement has not been run, of its formula."""
    for name, statement in find_statements().items():
        if not isinstance(statement.judge, Formula):
            continue
        numbered = found.get(key_of_numbers(statement))
        if numbered is None:
            yield Outcome(name, "its formula", WAITING, "")
            continue
        for what, count, why in numbered:
            yield Outcome(name, what, _REFUTED if count else _class_of(why), f"{count}" if count else why)


def _class_of(why: str) -> str:
    if not why:
        return SURVIVES
    return _WEAKER if why == WEAKER else _IN_SLACK if why.startswith(SLACK) else _REASON


def of_code(mutants: Mapping[str, Mutant], found: Mapping[str, Any]) -> Iterator[Outcome]:
    """Of code, by the digests of mutants."""
    for key, mutant in mutants.items():
        in_place, by = found.get(digest_in_place(mutant)), found.get(key)
        reason = EXPLAINED.get(mutant.name, "")
        if in_place:
            how, why = _BY_STATEMENTS, in_place
        elif by:
            how, why = _BY_TESTS, by
        elif by is None:
            how, why = WAITING, ""
        else:
            how, why = (_NOTHING if reason else SURVIVES), reason
        yield Outcome(mutant.path, mutant.name, how, why)


def counts(outcomes: Iterable[Outcome], classes: Sequence[str]) -> list[tuple[Any, ...]]:
    """How many of each class, a row for each statement or file."""
    found: dict[str, Counter[str]] = {}
    for one in outcomes:
        found.setdefault(one.of, Counter())[one.how] += 1
    return [(of, *(each[how] for how in classes)) for of, each in sorted(found.items())]


def page(numbers: Sequence[Outcome], code: Sequence[Outcome]) -> str:
    """In Markdown; survivors and what has not been run are columns where there are any."""
    parts = []
    for title, first, classes, every in (
        ("Numbers of formulas", "statement", NUMBERS, numbers),
        ("Code", "file", CODE, code),
    ):
        there = {one.how for one in every}
        classes = [how for how in classes if how in there or how not in (SURVIVES, WAITING)]
        rows = counts(every, classes)
        total = tuple(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))
        table = _table((first, *classes), [*((f"`{of}`", *each) for of, *each in rows), ("all", *total)])
        explained = [
            (f"`{one.of}`", f"`{_plain(one.what)}`", _plain(one.why))
            for one in every
            if one.how in EXPLAINED_BY
        ]
        parts += [f"## {title}", table, _table((first, "alteration that passes", "why it may"), explained)]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
