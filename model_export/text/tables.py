"""Tables: reads named columns of a CSV or JSON Lines file, plain or gzipped, row by row."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from stream.errors import ConfigError

__all__ = ["read_rows"]

_KINDS: Final = (".csv", ".jsonl")
#: Longest line of JSON and longest field of CSV. A file with a longer one is of another kind.
LINE_CHARS_MAX: Final = 1_000_000


def read_rows(path: Path, columns: Sequence[str], rows_max: int) -> Iterator[tuple[int, list[str]]]:
    """The line number of each row and its values of ``columns``; a missing value is empty.

    Raises ConfigError if the file does not exist, lacks a column, cannot be read, or has more than ``rows_max`` rows.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if not path.is_file() or kind not in _KINDS:
        found = "is of another kind" if path.is_file() else "does not exist"
        raise ConfigError(f"{path} {found}, expected a file named .csv, .csv.gz, .jsonl or .jsonl.gz")
    rows = _csv if kind == ".csv" else _jsonl
    with closing(_opened(path)) as file:
        try:
            for n, (line, values) in enumerate(rows(path, file, columns), start=1):
                if n > rows_max:
                    raise ConfigError(
                        f"{path} has more than {rows_max:,} rows; give a smaller file or a larger --rows-max"
                    )
                yield line, ["" if value is None else str(value) for value in values]
        except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise ConfigError(f"{path} cannot be read: {error}; expected UTF-8 text") from None


def _opened(path: Path) -> IO[str]:
    # utf-8-sig, because spreadsheets put a byte order mark before the name of the first column.
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _csv(path: Path, file: IO[str], columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
    csv.field_size_limit(LINE_CHARS_MAX)
    reader = csv.DictReader(file)
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(
            f"{path} has no column {', '.join(map(repr, missing))}, found {', '.join(reader.fieldnames or ())}; "
            "name the columns with the options"
        )
    for row in reader:
        yield reader.line_num, [row[name] for name in columns]


def _jsonl(path: Path, file: IO[str], columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    line = 0
    while text := file.readline(LINE_CHARS_MAX):
        line += 1
        if not text.strip():
            continue
        try:
            row = decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {line}: found {error}, expected one JSON object a line") from None
        if not any(name in row for name in columns):
            raise ConfigError(
                f"{path}, line {line}: none of {', '.join(columns)} is there, found {', '.join(row)}; "
                "name the columns with the options"
            )
        yield line, [row.get(name) for name in columns]
