"""Reading rollouts from files: CSV, JSON lines, JSON and Parquet, compressed or not, folders of them.

Files are read part by part, and of every part only numbers are kept. A bad row is counted and left out.
Nothing that is read is executed: pickles are refused.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from goodteacher.experiments.rollouts.collection import (
    Frame,
    Rollouts,
    comparable,
    in_words,
    label,
    numbers,
    within_prompts,
)
from goodteacher.experiments.rollouts.formats import (
    Columns,
    Format,
    Layout,
    layout,
    lengthened,
    parsed,
    recognise,
)

_ROWS = 20_000  # of a part
_PLACES = 10  # of bad rows that are named
_LONG = 200  # characters, from which on a prompt is told by its digest
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_KINDS = MappingProxyType(
    {
        ".csv": "csv",
        ".tsv": "csv",
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "json",
        ".parquet": "parquet",
    }
)


class _Part(NamedTuple):
    """Rows of a file, one for each draw."""

    frame: Frame
    places: Sequence[int]  # the row or line of each
    format: Format | None


class _Losses:
    """What is left out, counted by reason; and where the first of it stands."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.places: list[str] = []

    def add(self, reason: str, where: Iterable[str], count: int) -> None:
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            room = _PLACES - len(self.places)
            self.places += [f"{place}: {reason}" for _, place in zip(range(room), where, strict=False)]


def read_rollouts(paths: Sequence[str | os.PathLike[str]], columns: Columns | None = None) -> Rollouts:
    """Reads files, and all files of folders, as one set of rollouts.

    Args:
        paths: files or folders.
        columns: which column is what; all are guessed if not given.

    Raises:
        ValueError: if a file cannot be read, is of no kind that is known, or nothing in them is usable.
    """
    found = _files(paths)
    losses, gathered = _Losses(), _Gathered(columns or Columns())
    for path in found:
        for part in _parts(path, losses):
            gathered.add(path, part, losses, alone=len(found) == 1)
    return gathered.rollouts(losses)


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)


def _files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and _kind(each))
            if not inside:
                raise ValueError(f"the folder {path} holds no CSV, JSON, JSON lines or Parquet file")
            found += inside
            continue
        if not path.exists():
            raise ValueError(f"cannot read {path}: No such file or directory")
        if _kind(path) is None:
            raise ValueError(
                f"{path} is of no kind that is read; give .csv, .tsv, .jsonl, .json or .parquet, "
                "text also with .gz, .bz2, .zst or .lz4"
            )
        found.append(path)
    if not found:
        raise ValueError("no file of rollouts is given; name at least one")
    return found


def _open(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(pa.input_stream(path, compression="detect"), encoding="utf-8", errors="replace")


def _parts(path: Path, losses: _Losses) -> Iterator[_Part]:
    readers = {"csv": _csv, "jsonl": _lines, "json": _json, "parquet": _parquet}
    try:
        yield from readers[_kind(path) or ""](path, losses)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _csv(path: Path, losses: _Losses) -> Iterator[_Part]:
    separator = "\t" if ".tsv" in path.name.lower() else ","
    with _open(path) as stream:
        try:
            reader = pd.read_csv(stream, sep=separator, chunksize=_ROWS, on_bad_lines="warn")
            first = 2
            with reader:
                while True:
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        frame = next(reader, None)
                    for warning in caught:
                        _tell_bad_lines(path, str(warning.message), losses)
                    if frame is None:
                        return
                    yield _table(frame, range(first, first + len(frame)))
                    first += len(frame)
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ValueError(f"{path} is not a table of comma-separated values: {error}") from error


def _tell_bad_lines(path: Path, said: str, losses: _Losses) -> None:
    lines = [line for line in said.splitlines() if line.startswith("Skipping line")]
    where = (f"{path}, {line.partition(':')[0].removeprefix('Skipping ')}" for line in lines)
    losses.add("has too many fields", where, len(lines))


def _table(frame: Frame, places: Sequence[int]) -> _Part:
    """Rows of a table: those of a format that writes one, or of any other."""
    format = recognise(map(str, frame.columns))
    if format is not None and format.rows is not None:
        raise ValueError(f"keys of {format.name} stand in a table; give its own file")
    return _lengthened(frame, places, format)


def _lengthened(frame: Frame, places: Sequence[int], format: Format | None) -> _Part:
    if format is not None:
        return _Part(frame, places, format)
    marked = frame.assign(**{_MARK: list(places)})
    longer = lengthened(marked)
    return _Part(longer.drop(columns=_MARK), longer[_MARK].tolist(), None)


_MARK = " place"


def _records(path: Path, records: Iterable[tuple[int, dict[str, Any]]], losses: _Losses) -> Iterator[_Part]:
    """Parts of what stands record by record."""
    format: Format | None = None
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    start = True
    for number, record in records:
        if start:
            format, start = recognise(record), False
        try:
            made = [record] if format is None or format.rows is None else format.rows(record, number)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            said = f"has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            losses.add(said, [f"{path}, record {number}"], 1)
            continue
        rows += made
        places += [number] * len(made)
        if len(rows) >= _ROWS:
            yield _lengthened(pd.DataFrame(rows), places, format)
            rows, places = [], []
    if rows:
        yield _lengthened(pd.DataFrame(rows), places, format)


def _lines(path: Path, losses: _Losses) -> Iterator[_Part]:
    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    yield number, dict(parsed(line))
                except (ValueError, RecursionError):
                    losses.add("is not a JSON object", [f"{path}, line {number}"], 1)

    yield from _records(path, records(), losses)


def _json(path: Path, losses: _Losses) -> Iterator[_Part]:
    with _open(path) as stream:
        try:
            data = json.load(stream)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from error
    if isinstance(data, dict):
        format = recognise(data)
        if format is None:
            try:
                data = pd.DataFrame(data)
            except ValueError as error:
                raise ValueError(
                    f"{path} holds no rollouts that are recognised: its keys are {', '.join(map(str, data))}"
                ) from error
            yield _lengthened(data, range(len(data)), None)
            return
        data = [data]
    if not isinstance(data, list) or not all(isinstance(record, dict) for record in data):
        raise ValueError(f"{path} holds no list of objects; give one for each draw or prompt")
    yield from _records(path, enumerate(data, 1), losses)


def _parquet(path: Path, losses: _Losses) -> Iterator[_Part]:
    first = 1
    with pq.ParquetFile(path) as file:
        format = recognise(file.schema_arrow.names)
        for batch in file.iter_batches(_ROWS):
            frame = batch.to_pandas()
            places = range(first, first + len(frame))
            if format is None or format.rows is None:
                yield _table(frame, places)
            else:
                yield from _records(path, zip(places, frame.to_dict("records"), strict=True), losses)
            first += len(frame)


class _Gathered:
    """The numbers of all parts."""

    def __init__(self, columns: Columns):
        self._columns = columns
        self._layout: Layout | None = None
        self._numbers: dict[Any, int] = {}
        self._labels: list[str] = []
        self._draws: list[Frame] = []
        self._counts = np.zeros(0, int)
        self._rewards: list[str] = []
        self._truth = False

    def add(self, path: Path, part: _Part, losses: _Losses, *, alone: bool) -> None:
        """Adds a part; bad rows are counted.

        Raises:
            ValueError: if it is of another format than those before, or its columns are not recognised.
        """
        if not len(part.frame):
            return
        frame = part.frame.rename(columns=str)
        if self._layout is None:
            try:
                self._layout = layout(part.format, frame, self._columns)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        its = self._layout
        if (part.format or its.format) is not its.format:
            other = "a table" if part.format is None else part.format.name
            raise ValueError(f"{path} is {other}, the files before it are {its.format.name}; give one kind")
        missing = [name for name in (*its.prompt, *its.rewards) if name not in frame.columns]
        frame = frame.assign(**dict.fromkeys(missing, np.nan))
        names = {name: name for name in its.rewards}
        if its.format.by_file and not alone:
            names = {name: path.name.partition(".")[0] for name in its.rewards}
        self._rewards += [name for name in names.values() if name not in self._rewards]

        number = self._prompt_numbers(frame[list(its.prompt)])
        values = {names[name]: numbers(frame[name]) for name in its.rewards}
        bad = number < 0
        places = np.asarray(part.places)
        losses.add("has no prompt", (f"{path}, row {places[i]}" for i in np.flatnonzero(bad)), int(bad.sum()))
        for name, of in values.items():
            wrong = ~bad & ~np.isfinite(of)
            where = (f"{path}, row {places[i]}" for i in np.flatnonzero(wrong))
            losses.add(f"{name} is not a number", where, int(wrong.sum()))
            bad |= wrong
        kept = {"prompt": number, **{f"r {name}": of for name, of in values.items()}}
        if its.truth is not None and its.truth in frame.columns:
            kept["truth"] = numbers(frame[its.truth])
        if its.answer is not None and its.answer in frame.columns:
            kept["answer"] = _digests(comparable(frame[its.answer]))
            kept["answer text"] = in_words(frame[its.answer])
        kept["draw"] = frame["draw"].to_numpy(int) if its.format.by_file else self._draw_numbers(number)
        self._draws.append(pd.DataFrame(kept)[~bad])

    def _draw_numbers(self, number: np.ndarray) -> np.ndarray:
        """The number of each row among all rows of its prompt, bad ones included."""
        before = np.zeros(len(self._labels) + 1, int)  # the last is for rows without a prompt
        before[: len(self._counts)] = self._counts
        self._counts = (before + np.bincount(number[number >= 0], minlength=len(before)))[:-1]
        return before[number] + within_prompts(number)

    def _prompt_numbers(self, keys: Frame) -> np.ndarray:
        columns = [comparable(keys[name]) for name in keys.columns]
        joined = (
            columns[0] if len(columns) == 1 else pd.Series(list(zip(*columns, strict=True)), dtype=object)
        )
        empty = np.logical_or.reduce([of.isna() | (of.astype(object) == "") for of in columns])
        local, levels = pd.factorize(joined)
        known = np.array([self._number(level) for level in levels] + [-1], int)
        return np.where(empty, -1, known[local])

    def _number(self, level: Any) -> int:
        text = level if isinstance(level, str) else repr(level)
        key = hashlib.blake2b(text.encode(), digest_size=16).digest() if len(text) > _LONG else text
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            parts = level if isinstance(level, tuple) else (level,)
            self._labels.append(label(", ".join(map(str, parts))))
        return self._numbers[key]

    def rollouts(self, losses: _Losses) -> Rollouts:
        """All of them.

        Raises:
            ValueError: if nothing is usable.
        """
        if self._layout is None:
            raise ValueError(_nothing(losses) + "; give a file with rows")
        draws = self._draws
        if self._layout.format.by_file and len(self._rewards) > 1:
            draws = [_side_by_side(draws, losses)]
        table = pd.concat(draws, ignore_index=True)
        names = [name for name in self._rewards if f"r {name}" in table.columns]
        described = self._layout.described
        described["columns"]["rewards"] = names
        if not len(table):
            raise ValueError(f"{_nothing(losses)}; give at least two draws of a prompt")
        return Rollouts.from_draws(
            table["prompt"].to_numpy(),
            {name: table[f"r {name}"].to_numpy() for name in names},
            table["truth"].to_numpy(float) if "truth" in table.columns else None,
            table["answer"].to_numpy() if "answer" in table.columns else None,
            prompts=self._labels,
            draw_numbers=table["draw"].to_numpy(int),
            answer_texts=table["answer text"].to_numpy(object) if "answer text" in table.columns else None,
            skipped=losses.counts,
            recognised=described,
            places=tuple(losses.places),
        )


def _digests(values: Iterable[Any]) -> np.ndarray:
    """A whole number for each value, the same for equal ones."""
    each = (hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in values)
    return np.frombuffer(b"".join(each), np.int64)


def _nothing(losses: _Losses) -> str:
    said = ", ".join(f"{count} x {reason}" for reason, count in losses.counts.items())
    return f"nothing usable: {said or 'no rows'}"


def _side_by_side(draws: Sequence[Frame], losses: _Losses) -> Frame:
    """The scores of several reward models on the same draws."""
    keys = ["prompt", "draw"]
    by_name: dict[str, list[Frame]] = {}
    for part in draws:
        (name,) = (name for name in part.columns if name.startswith("r "))
        by_name.setdefault(name, []).append(part)
    wholes = [pd.concat(parts, ignore_index=True).set_index(keys) for parts in by_name.values()]
    joined = wholes[0]
    for whole in wholes[1:]:
        joined = joined.join(whole[[name for name in whole.columns if name.startswith("r ")]], how="outer")
        if "truth" in whole.columns:
            joined["truth"] = joined["truth"].fillna(whole["truth"])
    return joined.reset_index()
