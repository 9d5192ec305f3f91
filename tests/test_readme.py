"""README and site are true: code runs and prints what it says, commands exist and take these options.

Cells of the tutorials run when the site is built: ``make docs``.
"""

import contextlib
import functools
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import tyro

from goodteacher.experiments.commands import main as program

ROOT = Path(__file__).parents[1]
SITE = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in path.parts]
PAGES = [ROOT / "README.md", *SITE]
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


def fenced(page):
    """The blocks between fences: how each is introduced, and its text."""
    fence, words, lines = "", "", []
    for line in page.splitlines():
        opening = re.match(r"`{3,}", line)
        if fence and line == fence:
            yield words, "\n".join([*lines, ""])
            fence = ""
        elif fence:
            lines.append(line)
        elif opening:
            fence = opening[0]
            words, lines = line.removeprefix(fence).strip(), []
    assert not fence, "a block is not closed"


# The same block on two pages is one.
BLOCKS = dict.fromkeys(block for page in PAGES for block in fenced(page.read_text()))


def blocks(*languages):
    return [text for language, text in BLOCKS if language in languages]


def test_every_block_is_of_a_kind_that_is_tested_or_shown_alone():
    tested = {"sh", "console", "python", "json", "toml"}
    shown = {"", "none"}
    by_the_build = re.compile(r"\{(code-cell|toctree|include|figure|image|eval-rst)\}.*")
    kinds = {words for words, _ in BLOCKS} - tested - shown
    assert [words for words in kinds if not by_the_build.match(words)] == []


def commands(text):
    """The commands of a shell script, continued lines joined, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words[: words.index("&")] if "&" in words else words


def printed(run):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        run()
    return output.getvalue()


SHELL = [words for text in blocks("sh") for words in commands(text)]
SHELL += [
    shlex.split(line[2:]) for text in blocks("console") for line in text.splitlines() if line[:2] == "$ "
]


@pytest.mark.parametrize("words", SHELL, ids=" ".join)
def test_commands_exist_and_take_these_options(words):
    taken = []

    def stub(command):
        @functools.wraps(command)
        def take(*arguments, **options):
            taken.append(command)
            return 0

        return take

    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["wait"] | ["source", ".venv/bin/activate"]:
            pass
        case ["goodteacher", *arguments]:
            stubs = {name: stub(command) for name, command in program.COMMANDS.items()}
            tyro.extras.subcommand_cli_from_dict(stubs, args=arguments, config=program.STYLE)
            assert taken == [program.COMMANDS[arguments[0]]]
        case _:
            pytest.fail(f"the test does not know {words[0]}")


def example_lines():
    """Lines of shell scripts that run a command on an example, which takes seconds."""
    for text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[1:2] and words[1] in ("run", "errors", "diagnose", "metrics") and "examples/" in line:
                yield line


@pytest.mark.parametrize("line", list(example_lines()))
def test_scripts_run_and_print_the_numbers_of_their_comments(line, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    command, _, comment = line.partition("#")
    found = printed(lambda: program.main(shlex.split(command)[1:]))
    numbers = [float(word) for word in NUMBER.findall(found.replace(",", ""))]
    assert numbers
    for said in NUMBER.findall(comment):
        # To the digits that are given.
        half = 0.51 * 10.0 ** -len(said.partition(".")[2])
        assert min(abs(each - float(said)) for each in numbers) <= half, f"{said} is not in {found}"


def number(word):
    try:
        return float(word.strip("()"))
    except ValueError:
        return None


def same(word, expected):
    """Whether two words are the same, numbers to three digits."""
    numbers = number(word), number(expected)
    return word == expected or (
        None not in numbers and numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-9)
    )


@pytest.mark.parametrize("text", blocks("console"), ids=lambda text: text.splitlines()[0])
def test_consoles_show_what_is_printed(text, monkeypatch):
    monkeypatch.chdir(ROOT)
    asked = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    found = printed(lambda: [program.main(shlex.split(line)[1:]) for line in asked])
    expected = re.sub(r"^\$ .*\n", "", text, flags=re.MULTILINE)
    words, wanted = (re.sub("─+", "─", shown).split() for shown in (found, expected))
    different = [(a, b) for a, b in zip(words, wanted, strict=False) if not same(a, b)]
    assert not different
    assert len(words) == len(wanted)


@pytest.fixture(scope="module")
def where_sweeps_are(tmp_path_factory):
    """A folder in which the sweeps of the pages have been run, but those that share the work."""
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "examples").symlink_to(ROOT / "examples")
    (toml,) = blocks("toml")
    (folder / "rewards.toml").write_text(toml)
    with contextlib.chdir(folder):
        for name, *words in SHELL:
            alone = not {"--dry-run", "--distributed"} & set(words)
            if name == "goodteacher" and alone and words[0] in ("sweep", "show", "plot"):
                assert program.main(words) == 0
    return folder


def test_sweeps_leave_what_is_said(where_sweeps_are):
    for name in ("diagram", "diagram.png", "rewards", "rewards.csv"):
        assert (where_sweeps_are / name).exists()


@pytest.mark.parametrize("text", blocks("python"), ids=lambda text: re.sub(r"\s+", " ", text)[:60])
def test_python_runs_and_prints_what_is_said(text, where_sweeps_are, monkeypatch):
    monkeypatch.chdir(where_sweeps_are)
    found = [float(n.replace(",", "")) for n in NUMBER.findall(printed(lambda: exec(text, {})))]
    said = " ".join(re.findall(r"(?:^|\))\s*# (.*)$", text, re.MULTILINE))
    for text_of_number in re.findall(r"\d+\.\d+", said):
        tolerance = 1.01 * 10.0 ** -len(text_of_number.partition(".")[2])
        nearest = min(abs(each - float(text_of_number)) for each in found)
        assert nearest <= tolerance, f"{text_of_number} is not in {found}"


def test_the_instance_file_that_is_shown_is_the_example():
    (shown,) = blocks("json")
    assert json.loads(shown) == json.loads((ROOT / "examples/ground_truth.json").read_text())
