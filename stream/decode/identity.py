"""Identity: says by what a repeated event is known, and where an event without an id stood originally."""

from __future__ import annotations

from typing import Any, Final

import xxhash

__all__ = ["ORIGIN_HEADER", "hashed", "origin", "whole_origin"]

#: Header of a replayed event: where the event stood originally, as topic/partition/offset.
ORIGIN_HEADER: Final = "valuestream.origin"


def hashed(identity: str) -> int:
    """A 64-bit hash that is never 0, because 0 stands for none."""
    return xxhash.xxh3_64_intdigest(identity.encode()) or 1


def origin(record: Any) -> str | int:
    """Where an event without an id stood originally: its own offset, or the place that a replay wrote in a header."""
    for name, content in getattr(record, "headers", ()):
        if name == ORIGIN_HEADER and content:
            return str(content.decode(errors="replace"))
    return int(record.offset)


def whole_origin(record: Any) -> str:
    """Where a record of several events stood originally, in the words of a replay.

    Some of its events may count although the record is a dead letter, so a replay must find them under the same names.
    """
    place = origin(record)
    if isinstance(place, str):
        return place
    return f"{getattr(record, 'topic', '')}/{getattr(record, 'partition', 0)}/{place}"
