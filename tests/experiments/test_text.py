"""What is printed fits the terminal, and says the same however wide that is."""

import io
import re
import sys

import pytest

from goodteacher.experiments.text import numbers_table, print_table


@pytest.fixture
def printed(monkeypatch):
    """What a terminal of some width shows of a table, line by line."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def printed(table, width, keys=1):
        terminal = Terminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr(sys, "stdout", terminal)
        print_table(table, keys)
        return [line.rstrip() for line in terminal.getvalue().splitlines()]

    return printed


def rows(lines):
    """The cells of all rows by their first, whichever part they stand in."""
    found = {}
    for line in lines:
        name, *cells = re.split(r" {2,}", line.strip())
        found.setdefault(name, []).extend(cells)
    return found


@pytest.fixture
def table():
    table = numbers_table("reward", *(f"measure of kind {i}" for i in range(13)))
    table.title = "Rewards"
    for name in ("judge", "a verifier"):
        table.add_row(name, *(f"0.{i} [0.{i}1, 0.{i}2]" for i in range(13)))
    table.add_section()
    table.add_row("all", *map(str, range(13)))
    return table


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_a_table_that_does_not_fit_is_printed_in_parts(printed, table, width):
    lines = printed(table, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    found = rows(lines)
    for name in ("judge", "a verifier"):
        assert found[name] == [f"0.{i} [0.{i}1, 0.{i}2]" for i in range(13)]
    assert found["all"] == list(map(str, range(13)))
    assert "\n".join(lines).count("Rewards") == 1
    parts = [i for i, line in enumerate(lines) if "─" in line]
    assert len(parts) == {40: 13, 80: 5, 100: 4, 200: 2}[width]


def test_a_table_that_fits_is_printed_as_it_is(printed, table):
    assert len([line for line in printed(table, 400) if "─" in line]) == 1
    assert printed(table, 400) == printed(table, 10_000)


def test_long_names_leave_room_for_what_is_told_of_them(printed, table):
    name = "a name of a prompt that is as long as a line, " * 3
    table.add_row(name, *("?" * 20 for _ in range(13)))
    lines = printed(table, 80)
    assert max(map(len, lines)) <= 80
    assert "\n".join(lines).count("?" * 20) == 13
    for word in set(name.split()):
        assert any(word in line for line in lines)


def test_what_names_rows_may_be_two_columns(printed, table):
    lines = printed(table, 80, keys=2)
    assert [line.count("0.0 [0.01, 0.02]") for line in lines if line.startswith(" judge")] == [1] * 6
