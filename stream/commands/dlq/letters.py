"""Reads dead letters that valuestream, Kafka Connect or Spring wrote: the reason, and the event as it was before.

The writer of a dead letter appends its own headers to those of the event. Anyone can write to a topic, so nothing here
raises: a header that cannot be read counts as missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stream.decode.dead_letters import ATTEMPT, ERROR_MESSAGE, ERROR_PREFIX, ERROR_REASON, ERROR_STAGE, SOURCE_PREFIX
from stream.outgoing import Headers

__all__ = ["UNKNOWN", "Letter", "read_letter"]

UNKNOWN: Final = "unknown"
#: A longer text is a stack trace or an event, and its beginning says enough.
_TEXT_MAX: Final = 500
#: Any number of 18 digits fits into the 8 bytes of Kafka's offsets and times.
_DIGITS_MAX: Final = 18
#: The last millisecond of the year 9999. Python has no later dates.
_TIME_MAX_MS: Final = 253_402_300_799_999


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: where it is, why it is there, and the event with key, value and headers as they came."""

    partition: int
    offset: int
    time_ms: int
    #: The kind of writer, by its headers: valuestream, connect, spring, or unknown.
    writer: str
    reason: str
    message: str
    stage: str
    #: The connector and task, or the consumer group, that gave up.
    failed_in: str
    source_topic: str
    source_partition: int | None
    source_offset: int | None
    source_time_ms: int | None
    #: How often this event has been a dead letter, this time included.
    attempt: int
    #: The size of the whole event in bytes, if the dead letter has only the beginning of key and value.
    cut_from: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def place(self) -> str:
        """Partition and offset, as ``dlq show`` takes them."""
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class _Writer:
    """How one kind of writer names its headers. The headers that begin with one of ``prefixes`` are its own."""

    name: str
    prefixes: tuple[str, ...]
    source_prefix: str
    number: Callable[[bytes], int | None]
    reason_headers: tuple[str, ...]
    message_header: str
    stage_header: str = ""
    #: Pairs of what a header names, and the header.
    failed_in: tuple[tuple[str, str], ...] = ()
    #: valuestream counts this failure in the attempt header. The others pass the header on as it came.
    counts_itself: bool = False


def _decimal(content: bytes) -> int | None:
    return int(content) if content.isdigit() and len(content) <= _DIGITS_MAX else None


def _big_endian(content: bytes) -> int | None:
    number = int.from_bytes(content, "big", signed=True)
    return number if len(content) in (4, 8) and number >= 0 else None


#: The names come from stream/decode/dead_letters.py, from Kafka's DeadLetterQueueReporter (KIP-298), and from Spring's
#: KafkaHeaders.DLT_* and DeadLetterPublishingRecoverer. Spring's own exception only wraps the cause.
_WRITERS: Final = (
    _Writer(
        "valuestream",
        (ERROR_PREFIX, SOURCE_PREFIX),
        SOURCE_PREFIX,
        _decimal,
        (ERROR_REASON,),
        ERROR_MESSAGE,
        ERROR_STAGE,
        counts_itself=True,
    ),
    _Writer(
        "connect",
        ("__connect.errors.",),
        "__connect.errors.",
        _decimal,
        ("__connect.errors.exception.class.name",),
        "__connect.errors.exception.message",
        "__connect.errors.stage",
        (("connector", "__connect.errors.connector.name"), ("task", "__connect.errors.task.id")),
    ),
    _Writer(
        "spring",
        ("kafka_dlt-",),
        "kafka_dlt-original-",
        _big_endian,
        ("kafka_dlt-exception-cause-fqcn", "kafka_dlt-exception-fqcn"),
        "kafka_dlt-exception-message",
        failed_in=(("consumer group", "kafka_dlt-original-consumer-group"),),
    ),
)
_UNKNOWN_WRITER: Final = _Writer(UNKNOWN, (), "", _decimal, (), "")


def read_letter(record: Any) -> Letter:
    """Read one record of a dead-letter topic: a ``ConsumerRecord`` of aiokafka or of kafka-python. Never raises.

    If several writers have left their headers, the last one says why the record is in this topic. The headers of the
    others are part of the event. Of several headers with the same name the last one counts, because writers append.
    """
    headers: Headers = record.headers
    writer = _writer(headers)
    contents = {name: content for name, content in headers if content is not None}
    event_headers = (
        (name, content) for name, content in headers if name != ATTEMPT and not name.startswith(writer.prefixes)
    )
    return Letter(
        partition=record.partition,
        offset=record.offset,
        time_ms=min(max(record.timestamp, 0), _TIME_MAX_MS),
        writer=writer.name,
        reason=_reason(writer, contents),
        message=_text(contents, writer.message_header),
        stage=_text(contents, writer.stage_header).lower(),
        failed_in=_failed_in(writer, contents),
        source_topic=_text(contents, f"{writer.source_prefix}topic"),
        source_partition=_number(writer, contents, "partition"),
        source_offset=_number(writer, contents, "offset"),
        source_time_ms=_number(writer, contents, "timestamp"),
        attempt=_attempt(writer, contents),
        cut_from=_number(writer, contents, "bytes"),
        key=record.key,
        value=record.value,
        headers=tuple(event_headers),
    )


def _writer(headers: Headers) -> _Writer:
    for name, _ in reversed(headers):
        for writer in _WRITERS:
            if name.startswith(writer.prefixes):
                return writer
    return _UNKNOWN_WRITER


def _reason(writer: _Writer, contents: dict[str, bytes]) -> str:
    """One word. A Java class is named without its package."""
    named = next((text for name in writer.reason_headers if (text := _text(contents, name))), "")
    return named.rpartition(".")[2] or UNKNOWN


def _failed_in(writer: _Writer, contents: dict[str, bytes]) -> str:
    named = ((what, _text(contents, name)) for what, name in writer.failed_in)
    return ", ".join(f"{what} {text}" for what, text in named if text)


def _attempt(writer: _Writer, contents: dict[str, bytes]) -> int:
    counted = _decimal(contents.get(ATTEMPT, b"")) or 0
    return max(1, counted if writer.counts_itself else counted + 1)


def _text(contents: dict[str, bytes], name: str) -> str:
    return contents.get(name, b"")[: 4 * _TEXT_MAX].decode(errors="replace")[:_TEXT_MAX]


def _number(writer: _Writer, contents: dict[str, bytes], name: str) -> int | None:
    return writer.number(contents.get(f"{writer.source_prefix}{name}", b""))
