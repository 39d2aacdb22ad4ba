"""Dead letters: builds the record that keeps an event that cannot be used, and says in its headers why.

``valuestream dlq`` reads these headers back; ``docs/dead-letters.md`` describes them.
"""

from __future__ import annotations

from typing import Any, Final

from stream.decode.decoder import DeadLetter
from stream.outgoing import Headers, Outgoing

__all__ = [
    "ATTEMPT",
    "ERROR_MESSAGE",
    "ERROR_PREFIX",
    "ERROR_REASON",
    "ERROR_STAGE",
    "SOURCE_BYTES",
    "SOURCE_OFFSET",
    "SOURCE_PARTITION",
    "SOURCE_PREFIX",
    "SOURCE_TIMESTAMP",
    "SOURCE_TOPIC",
    "dead_letter",
]

#: Names of the headers that say why the event was not used.
ERROR_PREFIX: Final = "valuestream.error."
ERROR_REASON: Final = ERROR_PREFIX + "reason"
ERROR_MESSAGE: Final = ERROR_PREFIX + "message"
ERROR_STAGE: Final = ERROR_PREFIX + "stage"
#: Names of the headers that say where the event was. ``SOURCE_BYTES`` is there only if the event was cut.
SOURCE_PREFIX: Final = "valuestream.source."
SOURCE_TOPIC: Final = SOURCE_PREFIX + "topic"
SOURCE_PARTITION: Final = SOURCE_PREFIX + "partition"
SOURCE_OFFSET: Final = SOURCE_PREFIX + "offset"
SOURCE_TIMESTAMP: Final = SOURCE_PREFIX + "timestamp"
SOURCE_BYTES: Final = SOURCE_PREFIX + "bytes"
#: Name of the header that counts how often an event has been a dead letter. Replays keep it, so the count goes on.
ATTEMPT: Final = "valuestream.attempt"

_MESSAGE_CHARS_MAX: Final = 500
#: Events up to this size are kept whole: it is the largest record that Kafka takes by default. A compressed event can
#: be larger than the dead-letter topic takes once it is decompressed, and a refused dead letter would stop the stream.
_WHOLE_BYTES_MAX: Final = 1024 * 1024
_CUT_VALUE_BYTES: Final = 64 * 1024
_CUT_KEY_BYTES: Final = 1024
#: A header has two lengths, and each is a varint of at most 5 bytes.
_HEADER_LENGTHS_BYTES: Final = 10
#: A count with more digits was not written by us.
_ATTEMPT_DIGITS_MAX: Final = 9


def dead_letter(dead: DeadLetter, topic: str, partition: int) -> Outgoing:
    """Build the dead-letter record of an event from this topic and partition.

    Key, value and headers stay as they came. Further headers, all of them text, say why the event was not used. If
    the event is larger than the dead-letter topic takes, the record keeps the beginning of key and value and the size
    of the event, and none of its headers.
    """
    record = dead.record
    size = _size(record)
    why = {
        ERROR_REASON: dead.reason,
        ERROR_MESSAGE: dead.message[:_MESSAGE_CHARS_MAX],
        ERROR_STAGE: dead.stage,
        SOURCE_TOPIC: topic,
        SOURCE_PARTITION: partition,
        SOURCE_OFFSET: record.offset,
        SOURCE_TIMESTAMP: record.timestamp,
        ATTEMPT: _attempt(record.headers),
    }
    if size > _WHOLE_BYTES_MAX:
        why[SOURCE_BYTES] = size
        key, value = record.key and record.key[:_CUT_KEY_BYTES], record.value and record.value[:_CUT_VALUE_BYTES]
        return Outgoing(key, value, _encoded(why))
    kept = [(name, content) for name, content in record.headers if name not in why]
    return Outgoing(record.key, record.value, kept + _encoded(why))


def _size(record: Any) -> int:
    headers = sum(_HEADER_LENGTHS_BYTES + len(name.encode()) + len(content or b"") for name, content in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _encoded(headers: dict[str, Any]) -> list[tuple[str, bytes | None]]:
    return [(name, str(content).encode()) for name, content in headers.items()]


def _attempt(headers: Headers) -> int:
    """Count how often this event has been a dead letter, this time included."""
    before = next((value for name, value in reversed(headers) if name == ATTEMPT), None) or b""
    return 1 + (int(before) if before.isdigit() and len(before) <= _ATTEMPT_DIGITS_MAX else 0)
