"""Reading rollouts from files: CSV, JSON lines, JSON and Parquet, compressed or not, folders of them.

Files are read part by part, and of every part only numbers are kept. A bad row is counted and left out.
Nothing that is read is executed: pickles are refused.
"""

import hashlib
import io
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from goodteacher.experiments.rollouts.collection import Column, Frame, Rollouts, codes, label, numbers, texts
from goodteacher.experiments.rollouts.formats import (
    TABLE,
    Columns,
    Format,
    Layout,
    layout,
    lengthening,
    parsed,
    recognise,
    rows_of,
)

_ROWS = 20_000  # of a part
_SEEN = 200  # records, among which one tells the format
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

    frame: Frame  # its index is the row or line of each
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
    return io.TextIOWrapper(
        pa.input_stream(path, compression="detect"), encoding="utf-8-sig", errors="replace"
    )


def _parts(path: Path, losses: _Losses) -> Iterator[_Part]:
    readers = {"csv": _csv, "jsonl": _lines, "json": _json, "parquet": _parquet}
    longer: Callable[[Frame], Frame] | None = None
    try:
        for frame, format in readers[_kind(path) or ""](path, losses):
            frame = frame.rename(columns=str)
            if format is None:
                longer = longer or lengthening(frame, str(path))
                frame = longer(frame)
            yield _Part(frame, format)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _csv(path: Path, losses: _Losses) -> Iterator[_Part]:
    separator = "\t" if ".tsv" in path.name.lower() else ","
    with _open(path) as stream:
        try:
            reader = pd.read_csv(stream, sep=separator, dtype=str, chunksize=_ROWS, on_bad_lines="warn")
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
                    frame.index = pd.RangeIndex(first, first + len(frame))
                    yield _table(frame)
                    first += len(frame)
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ValueError(f"{path} is not a table of comma-separated values: {error}") from error


def _tell_bad_lines(path: Path, said: str, losses: _Losses) -> None:
    lines = [line for line in said.splitlines() if line.startswith("Skipping line")]
    where = (f"{path}, {line.partition(':')[0].removeprefix('Skipping ')}" for line in lines)
    losses.add("has too many fields", where, len(lines))


def _table(frame: Frame) -> _Part:
    """Rows of a table: those of a format that writes one, or of any other."""
    format = recognise(dict.fromkeys(map(str, frame.columns)))
    if format is not None and format.rows is not None:
        raise ValueError(f"keys of {format.name} stand in a table; give its own file")
    return _Part(frame, format)


def _records(path: Path, records: Iterable[tuple[int, Any]], losses: _Losses) -> Iterator[_Part]:
    """Parts of what stands record by record. The first record of a known format says which it is."""
    unread = iter(records)
    first = list(itertools.islice(unread, _SEEN))
    known = (recognise(record) for _, record in first if isinstance(record, dict))
    format = next(filter(None, known), None)
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    for number, record in itertools.chain(first, unread):
        for place, row in rows_of(format or TABLE, record, number):
            if isinstance(row, str):
                losses.add(row, [f"{path}, record {place}"], 1)
            else:
                rows.append(row)
                places.append(place)
        if len(rows) >= _ROWS:
            yield _Part(pd.DataFrame(rows, places, dtype=object), format)
            rows, places = [], []
    if rows:
        yield _Part(pd.DataFrame(rows, places, dtype=object), format)


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
        if recognise(data) is None:
            try:
                data = pd.DataFrame(data, dtype=object)
            except ValueError as error:
                raise ValueError(
                    f"{path} holds no rollouts that are recognised: its keys are {', '.join(map(str, data))}"
                ) from error
            yield _Part(data.set_axis(range(1, len(data) + 1)), None)
            return
        data = [data]
    if not isinstance(data, list) or not any(isinstance(record, dict) for record in data):
        raise ValueError(f"{path} holds no list of objects; give one for each draw or prompt")
    yield from _records(path, enumerate(data, 1), losses)


def _parquet(path: Path, losses: _Losses) -> Iterator[_Part]:
    first = 1
    with pq.ParquetFile(path) as file:
        format = recognise(dict.fromkeys(file.schema_arrow.names))
        for batch in file.iter_batches(_ROWS):
            frame = batch.to_pandas(integer_object_nulls=True)
            frame.index = pd.RangeIndex(first, first + len(frame))
            if format is None or format.rows is None:
                yield _table(frame)
            else:
                yield from _records(path, zip(frame.index, frame.to_dict("records"), strict=True), losses)
            first += len(frame)


class _Gathered:
    """The numbers of all parts."""

    def __init__(self, columns: Columns):
        self._columns = columns
        self._layout: Layout | None = None
        self._numbers: dict[Any, int] = {}
        self._labels: list[str] = []
        self._draws: list[Frame] = []
        self._rewards: list[str] = []
        self._truth = False

    def add(self, path: Path, part: _Part, losses: _Losses, *, alone: bool) -> None:
        """Adds a part; bad rows are counted.

        Raises:
            ValueError: if it is of another format than those before, or its columns are not recognised.
        """
        if not len(part.frame):
            return
        frame = part.frame
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
        places = frame.index
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
            kept["answer"] = _digests(frame[its.answer])
        if its.format.by_file:
            kept["draw"] = frame["draw"].to_numpy(int)
        self._draws.append(pd.DataFrame(kept)[~bad])

    def _prompt_numbers(self, keys: Frame) -> np.ndarray:
        local, levels = codes(keys, list(keys.columns))
        return np.array([*map(self._number, levels), -1], int)[local]

    def _number(self, level: tuple[str, ...]) -> int:
        text = "\x1f".join(level)
        key = hashlib.blake2b(text.encode(), digest_size=16).digest() if len(text) > _LONG else text
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._labels.append(label(", ".join(level)))
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
            skipped=losses.counts,
            recognised=described,
            places=tuple(losses.places),
        )


def _digests(column: Column) -> np.ndarray:
    """A whole number for each value, the same for equal ones."""
    code, levels = texts(column)
    each = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in (*levels, ""))
    return np.frombuffer(b"".join(each), np.int64)[code]


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
