"""What is kept of files of rollouts: numbers, codes of prompts and answers, and where each row stands.

Which columns are rewards and truth is told when all is read: some appear late.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from goodteacher.experiments.rollouts.collection import (
    NO_PROMPT,
    Column,
    Frame,
    Losses,
    Rollouts,
    codes,
    numbers,
    texts,
)
from goodteacher.experiments.rollouts.formats import TABLE, Format
from goodteacher.experiments.rollouts.layouts import (
    Columns,
    Layout,
    candidates,
    layout,
    prompt_columns,
    truths,
)
from goodteacher.experiments.rollouts.naming import Names, label

_LONG = 200  # characters, from which on a prompt is told by its digest
_FILES = 10  # that are named of those that are left out
LEFT_OUT = "file without rollouts"


class Source(NamedTuple):
    """A file.

    Attributes:
        path: of it.
        name: without its endings.
        folder: in which it was found, where it may be of something else; if it is not named itself.
    """

    path: Path
    name: str
    folder: Path | None


class Part(NamedTuple):
    """Rows of a file, one for each draw.

    Attributes:
        frame: its index is the row or line of each.
        format: that was recognised.
    """

    frame: Frame
    format: Format | None


@dataclass
class _Seen:
    """What stands in a column."""

    given: int = 0
    finite: int = 0
    commas: int = 0  # numbers with a decimal comma
    other: str = ""  # the first value that is no number, and its place
    comma: str = ""  # the first with a decimal comma

    def count(self, column: Column, values: np.ndarray, path: Path) -> None:
        others = column[column.notna().to_numpy() & ~np.isfinite(values)]
        with_comma = others[[isinstance(of, str) and bool(_COMMA.fullmatch(of)) for of in others]]

        def first(of: Column) -> str:
            return f"{label(of.iloc[0])!r} in {path}, row {of.index[0]}" if len(of) else ""

        self.add(
            _Seen(
                int(column.notna().sum()),
                int(np.isfinite(values).sum()),
                len(with_comma),
                first(others),
                first(with_comma),
            )
        )

    def add(self, other: "_Seen") -> None:
        self.given += other.given
        self.finite += other.finite
        self.commas += other.commas
        self.other = self.other or other.other
        self.comma = self.comma or other.comma

    @property
    def is_numeric(self) -> bool:
        """Whether most of it is numbers."""
        return 2 * (self.finite + self.commas) > self.given


_COMMA = re.compile(r"\s*[-+]?\d*,\d+\s*")


@dataclass
class _File:
    """What is kept of a file."""

    source: Source
    format: Format = TABLE
    prompt: tuple[str, ...] = ()
    variant: str | None = None
    seen: dict[str, _Seen] = field(default_factory=dict)
    parts: list[Frame] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)

    @property
    def rows(self) -> int:
        return sum(map(len, self.parts))

    def holds(self, rewards: Sequence[str]) -> Bool[np.ndarray, "rows rewards"]:
        """Which rewards its rows have, of those with a prompt."""
        names = ["prompt", *(f"r {name}" for name in rewards)]
        table = pd.concat([part.reindex(columns=names) for part in self.parts])
        return table[names[1:]].notna().to_numpy()[table["prompt"].to_numpy() >= 0]


class Gathered:
    """The numbers of all files."""

    def __init__(self, columns: Columns):
        self._columns = columns
        self._numbers: dict[Any, int] = {}
        self._names = Names()
        self._folders: dict[Path, None] = {}
        self._files: list[_File] = []
        self._losses = Losses()

    def add(self, source: Source, parts: Iterable[Part], losses: Losses) -> None:
        """Adds a file; one of a folder that cannot be read, or holds nothing, is counted and left out.

        Args:
            source: the file.
            parts: of it.
            losses: to which parts add what they leave out.

        Raises:
            ValueError: if it is named and cannot be read.
        """
        if source.folder is not None:
            self._folders[source.folder] = None
        file = _File(source, losses=losses)
        try:
            for part in parts:
                if len(part.frame):
                    self._add(file, part)
            if source.folder is not None and not file.parts:
                raise ValueError(f"{source.path}: {losses.said()}")
        except ValueError as error:
            if source.folder is None:
                raise
            self._leave_out(str(error))
        else:
            self._files.append(file)

    def _leave_out(self, why: str) -> None:
        self._losses.add(LEFT_OUT, [" ".join(why.split())], 1, most=_FILES)

    def _add(self, file: _File, part: Part) -> None:
        frame = _with_path(part.format or TABLE, part.frame, file.source.path)
        if not file.parts:
            file.format = part.format or TABLE
            try:
                file.prompt = prompt_columns(file.format, list(frame.columns), self._columns)
            except ValueError as error:
                raise ValueError(f"{file.source.path}: {error}") from error
        its = file.format
        if its.variant in frame.columns:
            frame = _of_one_variant(frame, file)
        for name in frame.columns:
            file.seen.setdefault(name, _Seen())
        kept = {
            "prompt": self._prompt_numbers(frame.reindex(columns=file.prompt)),
            "place": frame.index.to_numpy(np.int32),
        }
        for name in candidates(its, list(frame.columns), self._columns):
            values = numbers(frame[name])
            file.seen[name].count(frame[name], values, file.source.path)
            if file.seen[name].finite:
                kept[f"r {name}"] = values
        if answer := self._columns.answer or its.answer:
            code, levels = texts(frame.reindex(columns=[answer])[answer])
            kept["answer"] = _digests(levels)[code]
            kept["answer text"] = np.array([*(label(level, 40) for level in levels), ""], object)[code]
        if its.by_file:
            kept["draw"] = frame["draw"].to_numpy(int)
        file.parts.append(pd.DataFrame(kept))

    def _prompt_numbers(self, keys: Frame) -> np.ndarray:
        local, levels = codes(keys, list(keys.columns))
        return np.array([*map(self._number, levels), -1], int)[local]

    def _number(self, level: tuple[str, ...]) -> int:
        text = "\x1f".join(level)
        key = hashlib.blake2b(text.encode(), digest_size=16).digest() if len(text) > _LONG else text
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._names.add(", ".join(level))
        return self._numbers[key]

    def rollouts(self) -> Rollouts:
        """All of them.

        Raises:
            ValueError: if nothing is usable, files are of several formats, or a column is not as it is said.
        """
        files = self._of_one_format([file for file in self._files if file.parts])
        if not files:
            for file in self._files:
                self._losses.join(file.losses)
            raise ValueError(f"nothing usable: {self._losses.said()}; give a file with rows")
        its, notes = self._layout(files)
        files = [file for file in files if self._has_rows(file, its)]
        for file in files:
            self._losses.join(file.losses)
        used = {file.source.folder for file in files}
        if unused := [folder for folder in self._folders if folder not in used]:
            raise ValueError(f"nothing usable in the folder {unused[0]}: {self._losses.said()}; leave it out")
        if not its.format.by_file:
            _check_together(files, its.rewards)
        tables = [_chosen(file, its, i) for i, file in enumerate(files)]
        names, paths = its.rewards, [file.source.path for file in files]
        if its.format.by_file and len(files) > 1:
            names = _names([file.source for file in files])
            table = _side_by_side(tables, its.rewards[0], names, paths, self._losses)
        else:
            table = pd.concat(tables, ignore_index=True)
        at, place = (table[name].to_numpy(int) for name in ("file", "place"))
        return Rollouts.from_draws(
            table["prompt"].to_numpy(),
            {name: table[f"r {name}"].to_numpy() for name in names},
            None if its.truth is None else table["truth"].to_numpy(),
            None if its.answer is None else table["answer"].to_numpy(),
            prompts=list(self._names),
            draw_numbers=table["draw"].to_numpy(int) if its.format.by_file else None,
            answer_texts=None if its.answer is None else table["answer text"].to_numpy(object),
            recognised=its.described(names),
            losses=self._losses,
            place=lambda i: f"{paths[at[i]]}, row {place[i]}",
            notes=notes,
        )

    def _of_one_format(self, files: Sequence[_File]) -> list[_File]:
        """Those of the format of the files that are named; or of that of most rows, tables last."""
        if not files:
            return []
        rows: Counter[str] = Counter()
        for file in files:
            rows[file.format.name] += file.rows
        named = [file for file in files if file.source.folder is None]
        its = max(
            named[:1] or files, key=lambda file: (file.format is not TABLE, rows[file.format.name])
        ).format
        for file in files:
            if file.format is its:
                continue
            kind, other = ("a table" if each is TABLE else each.name for each in (file.format, its))
            if file.source.folder is None:
                raise ValueError(
                    f"{file.source.path} is {kind}, the files before it are {its.name}; give one kind"
                )
            self._leave_out(f"{file.source.path} is {kind}, not {other} as other files")
        return [file for file in files if file.format is its]

    def _layout(self, files: Sequence[_File]) -> tuple[Layout, tuple[str, ...]]:
        """What the columns are, and what is to be said of those that might have been something."""
        seen: dict[str, _Seen] = {}
        for file in files:
            for name, of in file.seen.items():
                seen.setdefault(name, _Seen()).add(of)
        prompt = tuple(dict.fromkeys(name for file in files for name in file.prompt))
        numeric = {name for name, of in seen.items() if of.is_numeric}
        try:
            its = layout(files[0].format, prompt, list(seen), numeric, self._columns)
            # Of words that may be meant as rewards it is said that they are none.
            words = [] if its.rewards and its.rewards != (its.truth,) else _words(seen, its)
            if not its.rewards:
                raise ValueError(_no_reward(list(seen), words))
            for what, names in (("truth", [its.truth]), ("reward", its.rewards)):
                for name in filter(None, names):
                    if comma := seen[name].comma:
                        raise ValueError(
                            f"the {what} {name} has a decimal comma, {comma}; write numbers with a point"
                        )
            for what, names in (("truth", [self._columns.truth]), ("reward", self._columns.rewards)):
                for name in filter(None, names):
                    if not seen[name].finite:
                        raise ValueError(_no_number(what, name, seen[name]))
        except ValueError as error:
            if len(files) > 1:
                raise
            raise ValueError(f"{files[0].source.path}: {error}") from error
        notes = [
            f"{name} is not taken for the ground truth: {seen[name].other} is no number."
            for name in truths(list(seen))
            if its.truth is None and seen[name].other
        ]
        if its.truth in its.rewards and not self._columns.rewards:
            instead = f" ({'; '.join(words)}: numbers, such as 1 and 0, would be)" if words else ""
            notes.append(
                f"{its.truth} is taken for the reward too: no other column is mostly of numbers{instead}."
            )
        rows = sum(file.rows for file in files)
        often = tuple(name for name in its.rewards if 2 * seen[name].finite > rows)
        if often and not self._columns.rewards:
            # One that few rows have would leave out all others.
            notes += (
                f"{name} is not taken for a reward: only {seen[name].finite} of {rows} rows have it."
                for name in its.rewards
                if name not in often
            )
            its = replace(its, rewards=often)
        return its, tuple(notes)

    def _has_rows(self, file: _File, its: Layout) -> bool:
        """Whether a file has rows with a reward that is used; one of a folder is left out if not."""
        if file.source.folder is None or file.holds(its.rewards).any(axis=1).any():
            return True
        self._leave_out(f"{file.source.path} has no row with a prompt and {' or '.join(its.rewards)}")
        return False


def _check_together(files: Sequence[_File], rewards: Sequence[str]) -> None:
    """Refuses several rewards of which no draw has all.

    Raises:
        ValueError: saying where each of them is.
    """
    if len(rewards) == 1 or any(file.holds(rewards).all(axis=1).any() for file in files):
        return
    where = {
        name: next((file.source.path for file in files if file.holds([name]).any()), "no row with a prompt")
        for name in rewards
    }
    listed = ", ".join(f"{name} is in {path}" for name, path in where.items())
    raise ValueError(
        f"no draw has all rewards, and on different draws they cannot be compared: {listed}; name those that "
        "are to be read"
    )


def _words(seen: Mapping[str, _Seen], its: Layout) -> list[str]:
    """What stands in the first columns that might be rewards, if it were numbers."""
    taken = {*its.prompt, its.truth, its.answer}
    return [f"{name} has {of.other}" for name, of in seen.items() if of.other and name not in taken][:3]


def _no_reward(columns: Sequence[str], words: Sequence[str]) -> str:
    said = "no column of numbers is left to be a reward"
    if words:
        return f"{said}: {'; '.join(words)}: write numbers instead, such as 1 and 0"
    return f"{said}; name it as the reward: the columns are {', '.join(columns)}"


def _no_number(what: str, name: str, seen: _Seen) -> str:
    if not seen.other:
        return f"no value of the {what} {name} is a number: it is empty; name a column of numbers"
    return (
        f"no value of the {what} {name} is a number, such as {seen.other}; name a column of numbers, or "
        "write 1 and 0 for such words"
    )


def _with_path(format: Format, frame: Frame, path: Path) -> Frame:
    """With what the path says of the prompts."""
    if format.from_path is None or format.from_path[0] in frame.columns:
        return frame
    name, pattern = format.from_path
    found = re.findall(pattern, path.as_posix())
    return frame.assign(**{name: found[-1]}) if found else frame


def _of_one_variant(frame: Frame, file: _File) -> Frame:
    """Rows of the variant that is met first: the others are the same draws."""
    variants = frame[file.format.variant].fillna("").map(str)
    if file.variant is None:
        file.variant = variants.iloc[0]
    other = variants != file.variant
    reason = f"of another {file.format.variant} than {file.variant}"
    where = (f"{file.source.path}, record {place}" for place in frame.index[other])
    file.losses.add(reason, where, int(other.sum()))
    return frame[~other]


def _digests(values: Sequence[str]) -> np.ndarray:
    """A whole number for each text, the same for equal ones; and the last for no text."""
    each = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in (*values, ""))
    return np.frombuffer(b"".join(each), np.int64)


def _chosen(file: _File, its: Layout, number: int) -> Frame:
    """The columns of a file that are used, and its number."""
    table = pd.concat(file.parts, ignore_index=True).reindex(
        columns=[
            *("prompt", "place"),
            *(["draw"] if its.format.by_file else []),
            *(["answer", "answer text"] if its.answer is not None else []),
            *(f"r {name}" for name in dict.fromkeys((*its.rewards, *filter(None, [its.truth])))),
        ]
    )
    truth = {} if its.truth is None else {"truth": table[f"r {its.truth}"]}
    return table.assign(file=np.int32(number), **truth)


def _names(sources: Sequence[Source]) -> tuple[str, ...]:
    """Of files, as short as tells them apart."""
    for names in (
        tuple(source.name for source in sources),
        tuple(f"{source.path.parent.name}/{source.name}" for source in sources),
    ):
        if len(set(names)) == len(names):
            return names
    return tuple(str(source.path) for source in sources)


def _side_by_side(
    tables: Sequence[Frame], reward: str, names: Sequence[str], paths: Sequence[Path], losses: Losses
) -> Frame:
    """The scores of several reward models, a file each, on the same draws."""
    keys = ["prompt", "draw"]
    joined: Frame = None
    for name, path, table in zip(names, paths, tables, strict=True):
        its = table.rename(columns={f"r {reward}": f"r {name}"})
        for reason, of in ((NO_PROMPT, its["prompt"] < 0), ("stands twice", its.duplicated(keys))):
            where = (f"{path}, row {place}" for place in its["place"][of])
            losses.add(reason, where, int(of.sum()))
            its = its[~of]
        its = its.set_index(keys)
        joined = its if joined is None else joined.combine_first(its)
    return joined.reset_index()
