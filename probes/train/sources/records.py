"""Rows of local files: CSV, TSV, JSON (a list or one object a line), JSONL, parquet, and text with one prompt a line.

Column names are compared without case, and spaces count as underscores. A file that cannot be read as its name says is
refused with the line; nothing is guessed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from probes.errors import DataError

Row = Mapping[str, object]
LINE = "line"  # the only column of a text file
MAX_CHARACTERS = 131_072  # of a cell: more is an unclosed quote or a book; the csv module's own limit
_BATCH = 1024


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """``(place, row)`` for every row, columns in lower case; the place names file and line for messages.

    Raises:
        DataError: an unknown ending, invalid UTF-8, broken syntax, rows that do not fit the header, or a cell of more
            than 131,072 characters.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: the ending is {path.suffix or 'missing'}; wanted one of {', '.join(_READERS)}.")
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        for number, row in reader(path):
            place = f"{path}:{number}"
            yield place, {_column(name): _checked(value, name, place) for name, value in row.items()}
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x}: {error.reason}). Convert it first, for "
            f"example with: iconv -f WINDOWS-1252 -t UTF-8 {path.name}"
        ) from error


def _column(name: object) -> str:
    return str(name).strip().lower().replace(" ", "_")


def _checked(value: object, name: object, place: str) -> object:
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise DataError(f"{place}: {name} has {len(value):,} characters; at most {MAX_CHARACTERS:,} are taken.")
    return value


def _separated(delimiter: str) -> Callable[[Path], Iterator[tuple[int, Row]]]:
    def read(path: Path) -> Iterator[tuple[int, Row]]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                header = next(reader, [])
                _check_header(path, header, delimiter)
                for cells in reader:
                    if not cells:
                        continue
                    if len(cells) != len(header):
                        raise DataError(
                            f"{path}:{reader.line_num}: {len(cells)} cells under a header of {len(header)}; a cell "
                            f"with {delimiter!r} or a line break in it needs quotes."
                        )
                    yield reader.line_num, dict(zip(header, cells, strict=True))
            except csv.Error as error:
                raise DataError(
                    f"{path}:{reader.line_num}: {error}. Most often a quote that was opened and never closed."
                ) from error

    return read


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    if not any(name.strip() for name in header):
        raise DataError(f"{path} is empty; wanted a header of column names.")
    others = [d for d in ",;\t|" if d != delimiter and len(header) == 1 and d in header[0]]
    if others:
        raise DataError(
            f"{path} is separated by {others[0]!r}; wanted commas in a .csv and tabs in a .tsv. Rename or convert it."
        )


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    """A JSON list of objects, or, as many sets have it under this ending, one object a line."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _objects(path, text.splitlines())
        return
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield number, _object(row, f"{path}: item {number}")


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig") as file:
        yield from _objects(path, file)


def _objects(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path}:{number}: not a JSON object: {error}. Wanted a list of objects, or one object a line."
                ) from error
            yield number, _object(row, f"{path}:{number}")


def _object(row: object, place: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{place}: {type(row).__name__}; wanted a JSON object with one field for each column.")
    return row


def _lines(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig") as file:
        yield from ((n, {LINE: line.strip()}) for n, line in enumerate(file, start=1) if line.strip())


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{path}: parquet needs the package pyarrow, which is not installed: pip install pyarrow (or save the set "
            "as JSONL elsewhere)."
        ) from None
    rows = (row for batch in parquet.ParquetFile(path).iter_batches(batch_size=_BATCH) for row in batch.to_pylist())
    yield from enumerate(rows, start=1)


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".json": _json,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".txt": _lines,
}
SUFFIXES = tuple(_READERS)
