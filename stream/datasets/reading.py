"""Reading: what all file readers share. They open text, make message ids, and spread the events of a day over it."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from xxhash import xxh3_128_hexdigest

from stream.errors import ConfigError

__all__ = ["ReadSummary", "message_id", "refuse_shape", "spread_days", "text_lines", "utc"]

_GZIP_MAGIC: Final = b"\x1f\x8b"
_DAY_US: Final = 86_400_000_000

Row = TypeVar("Row")


@dataclass
class ReadSummary:
    """What became of the lines of a file. It is filled while the events are read."""

    lines: int = 0
    events: int = 0
    out_of_order: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{self.lines:,} lines read, dropped: {reasons or 'none'}"


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, gzipped or plain.

    Raises ConfigError for a damaged archive and for bytes that are not UTF-8.
    """
    try:
        with path.open("rb") as probe:
            zipped = probe.read(2) == _GZIP_MAGIC
        opener: Any = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{path} is a damaged gzip file ({error}); fetch it again") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} holds bytes that are not UTF-8 text (at {error.start}); check the file and --format"
        ) from error


def refuse_shape(path: Path, name: str, found: str, expected: str) -> NoReturn:
    """Raise the ConfigError of a file that does not have the format it is read as."""
    raise ConfigError(f"{path} is not a {name} file: found {found[:200]}, expected {expected}; check --format")


def message_id(source: str, ordinal: int, *content: object) -> str:
    """A hash of the content of an event and its place in the file. It is the same on every reading of the file.

    >>> message_id("tmall", 1, "u", "view") == message_id("tmall", 1, "u", "view")
    True
    >>> message_id("tmall", 1, "u", "view") == message_id("tmall", 2, "u", "view")
    False
    """
    return xxh3_128_hexdigest("\x1f".join(map(str, (source, ordinal, *content))).encode())


def spread_days(rows: Sequence[tuple[datetime, Row]]) -> Iterator[tuple[datetime, Row]]:
    """Give rows that have only a day a time of day. Days ascend; rows of one day keep their order, evenly spread.

    >>> day = datetime(2013, 6, 4, tzinfo=UTC)
    >>> [(when.hour, row) for when, row in spread_days([(day, "a"), (day, "b")])]
    [(6, 'a'), (18, 'b')]
    """
    days: dict[datetime, list[Row]] = defaultdict(list)
    for day, row in rows:
        days[day].append(row)
    for day in sorted(days):
        n = len(days[day])
        for i, row in enumerate(days[day]):
            yield day + timedelta(microseconds=(2 * i + 1) * _DAY_US // (2 * n) // 1000 * 1000), row


def utc(text: str) -> datetime:
    """Read an ISO time. A time without a zone is taken as UTC."""
    when = datetime.fromisoformat(text)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
