"""Reading rollouts from files: CSV, JSON lines, JSON and Parquet, compressed or not, folders of them.

Files are read part by part, and of every part only numbers are kept. A bad row is counted and left out.
Nothing that is read is executed: pickles are refused.
"""

import codecs
import csv
import io
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from goodteacher.experiments.rollouts.collection import Frame, Losses, Rollouts
from goodteacher.experiments.rollouts.formats import TABLE, parsed, recognise, rows_of
from goodteacher.experiments.rollouts.gathering import Gathered, Part, Source
from goodteacher.experiments.rollouts.layouts import Columns
from goodteacher.experiments.rollouts.wide_tables import lengthening

_ROWS = 20_000  # of a part
_SEEN = 200  # records, among which one tells the format
_START = 1 << 16  # characters of a table, of which the first two rows tell what separates fields
_BYTE_ORDERS = MappingProxyType(  # the longer marks first: one begins with another
    {
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
)
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


def read_rollouts(paths: Sequence[str | os.PathLike[str]], columns: Columns | None = None) -> Rollouts:
    """Reads files, and all files of folders, as one set of rollouts.

    A file of a folder that cannot be read, or holds nothing usable, is counted and left out.

    Args:
        paths: files or folders.
        columns: which column is what; all are guessed if not given.

    Raises:
        ValueError: if a file that is named cannot be read, is of no kind that is known, or nothing is usable.
    """
    gathered = Gathered(columns or Columns())
    for source in _sources(paths):
        losses = Losses()
        gathered.add(source, _parts(source.path, losses), losses)
    return gathered.rollouts()


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)


def _source(path: Path, folder: Path | None) -> Source:
    name = path.name
    for ending in (*_COMPRESSED, *_KINDS):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return Source(path, name, folder)


def _sources(paths: Sequence[str | os.PathLike[str]]) -> list[Source]:
    found: list[Source] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and _kind(each))
            if not inside:
                raise ValueError(f"the folder {path} holds no CSV, JSON, JSON lines or Parquet file")
            found += (_source(each, path) for each in inside)
            continue
        if not path.exists():
            raise ValueError(f"cannot read {path}: No such file or directory")
        if _kind(path) is None:
            raise ValueError(
                f"{path} is of no kind that is read; give .csv, .tsv, .jsonl, .json or .parquet, "
                "text also with .gz, .bz2, .zst or .lz4"
            )
        found.append(_source(path, None))
    if not found:
        raise ValueError("no file of rollouts is given; name at least one")
    return found


def _open(path: Path) -> io.TextIOWrapper:
    """A file of text in UTF-8, or in what its byte order mark says."""
    with pa.input_stream(path, compression="detect") as stream:
        start = stream.read(4)
    marked = (encoding for mark, encoding in _BYTE_ORDERS.items() if start.startswith(mark))
    return io.TextIOWrapper(
        pa.input_stream(path, compression="detect"), encoding=next(marked, "utf-8-sig"), errors="replace"
    )


def _parts(path: Path, losses: Losses) -> Iterator[Part]:
    readers = {"csv": _csv, "jsonl": _lines, "json": _json, "parquet": _parquet}
    longer: Callable[[Frame], Frame] | None = None
    try:
        for frame, format in readers[_kind(path) or ""](path, losses):
            frame = frame.rename(columns=str)
            if format is None:
                longer = longer or lengthening(frame, str(path))
                frame = longer(frame)
            yield Part(frame, format)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _separator(path: Path) -> str:
    """What separates the fields of a table: what makes most of them of its header, and of its first row.

    Raises:
        ValueError: if that row has more than the header.
    """
    with _open(path) as stream:
        start = stream.read(_START)
    if "\0" in start:
        raise ValueError(f"{path} is not in UTF-8, nor in UTF-16 with a byte order mark; save it as UTF-8")
    separators = "\t,;|" if ".tsv" in path.name.lower() else ",;\t|"
    rows = {by: filter(None, csv.reader(io.StringIO(start), delimiter=by)) for by in separators}
    heads = {by: list(itertools.islice(of, 2)) for by, of in rows.items()}
    separator = max(heads, key=lambda by: min(map(len, heads[by]), default=0))
    if len(heads[separator]) == 2:
        header, first = heads[separator]
        if any(first[len(header) :]):
            raise ValueError(
                f"{path} has {len(first)} values in its first row and {len(header)} names in its header; "
                f"quote what holds {separator!r}, and write numbers with a decimal point"
            )
    return separator


def _csv(path: Path, losses: Losses) -> Iterator[Part]:
    separator = _separator(path)
    with _open(path) as stream:
        try:
            reader = pd.read_csv(
                stream, sep=separator, dtype=str, chunksize=_ROWS, on_bad_lines="warn", index_col=False
            )
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
                    yield _table(path, frame)
                    first += len(frame)
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ValueError(f"{path} is not a table of comma-separated values: {error}") from error


def _tell_bad_lines(path: Path, said: str, losses: Losses) -> None:
    lines = [line for line in said.splitlines() if line.startswith("Skipping line")]
    where = (f"{path}, {line.partition(':')[0].removeprefix('Skipping ')}" for line in lines)
    losses.add("has too many fields", where, len(lines))


def _table(path: Path, frame: Frame) -> Part:
    """Rows of a table: those of a format that writes one, or of any other."""
    format = recognise(dict.fromkeys(map(str, frame.columns)))
    if format is not None and format.rows is not None:
        raise ValueError(f"keys of {format.name} stand in the table {path}; give its own file")
    return Part(frame, format)


def _records(path: Path, records: Iterable[tuple[int, Any]], losses: Losses) -> Iterator[Part]:
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
            yield Part(pd.DataFrame(rows, places, dtype=object), format)
            rows, places = [], []
    if rows:
        yield Part(pd.DataFrame(rows, places, dtype=object), format)


def _lines(path: Path, losses: Losses) -> Iterator[Part]:
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


def _json(path: Path, losses: Losses) -> Iterator[Part]:
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
            yield Part(data.set_axis(range(1, len(data) + 1)), None)
            return
        data = [data]
    if not isinstance(data, list) or not any(isinstance(record, dict) for record in data):
        raise ValueError(f"{path} holds no list of objects; give one for each draw or prompt")
    yield from _records(path, enumerate(data, 1), losses)


def _parquet(path: Path, losses: Losses) -> Iterator[Part]:
    first = 1
    with pq.ParquetFile(path) as file:
        format = recognise(dict.fromkeys(file.schema_arrow.names))
        for batch in file.iter_batches(_ROWS):
            frame = batch.to_pandas(integer_object_nulls=True)
            frame.index = pd.RangeIndex(first, first + len(frame))
            if format is None or format.rows is None:
                yield _table(path, frame)
            else:
                yield from _records(path, zip(frame.index, frame.to_dict("records"), strict=True), losses)
            first += len(frame)
