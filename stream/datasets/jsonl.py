"""JSON lines: read events that are JSON already, and keep each line byte for byte, in file order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from stream.datasets.events import RawEvent
from stream.datasets.reading import ReadSummary, refuse_shape, text_lines, utc

__all__ = ["read_jsonl"]


class _Line(msgspec.Struct):
    """The fields of a JSON event that we read: the user for the record key, the time for the pace of a replay."""

    user: str | int | None = msgspec.field(name="userId", default=None)
    flat_user: str | int | None = msgspec.field(name="user_id", default=None)
    anonymous: str | int | None = msgspec.field(name="anonymousId", default=None)
    timestamp: str | float | None = None
    ts: str | float | None = None


def read_jsonl(path: Path, summary: ReadSummary) -> Iterator[RawEvent]:
    """Yield each line unchanged. A line without a time gets the time of the line before it."""
    decode = msgspec.json.Decoder(_Line).decode
    time_ms = 0
    for number, text in enumerate(text_lines(path), start=1):
        value = text.strip().encode()
        summary.lines += 1
        try:
            line = decode(value)
        except msgspec.MsgspecError as error:
            if number == 1:
                refuse_shape(path, "jsonl", f"line 1 {text.strip()[:80]!r} ({error})", "one JSON object a line")
            summary.dropped["unreadable"] += 1
            continue
        user = next((u for u in (line.user, line.flat_user, line.anonymous) if u not in (None, "")), None)
        if user is None:
            summary.dropped["without user"] += 1
            continue
        time_ms = _time_ms(line.timestamp if line.timestamp is not None else line.ts, time_ms)
        summary.events += 1
        yield RawEvent(str(user).encode(), value, time_ms)


def _time_ms(stated: str | float | None, before: int) -> int:
    """Read a time in ISO form, seconds or milliseconds. If there is none, or it is unreadable, return ``before``."""
    try:
        if isinstance(stated, str):
            return round(utc(stated).timestamp() * 1000)
        if stated is None:
            return before
        # Seconds stay below this until the year 5138; milliseconds have been above it since 1973.
        return round(stated if abs(stated) >= 1e11 else stated * 1000)
    except (ValueError, OverflowError):
        return before
