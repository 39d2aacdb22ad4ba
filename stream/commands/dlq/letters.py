"""Dead letters of valuestream, Kafka Connect and Spring: what their headers say, and the event as it was before.

Whoever writes a dead letter appends headers of its own to those of the event. Anyone can write to a topic, so nothing
here raises: a header that is missing or cannot be read is as if nothing had been said.
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
#: A longer text is a stack trace or an event; of reasons and names the beginning says enough.
_TEXT_MAX: Final = 500
#: 18 digits fit the 8 bytes of Kafka's offsets and times.
_DIGITS_MAX: Final = 18
#: The last millisecond of the year 9999, where Python's dates end.
_TIME_MAX_MS: Final = 253_402_300_799_999


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: where it is, why it is there, and the event with key, value and headers as they came."""

    partition: int
    offset: int
    time_ms: int
    #: Whose headers these are: valuestream, connect, spring, or unknown.
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
    #: Where only the beginning of key and value is kept: bytes of the whole event.
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
    """How one kind of writer names its headers; those that begin with a prefix are its own."""

    name: str
    prefixes: tuple[str, ...]
    source: str
    number: Callable[[bytes], int | None]
    reason: tuple[str, ...]
    message: str
    stage: str = ""
    failed_in: tuple[tuple[str, str], ...] = ()
    #: Ours counts this time in the attempt header; others hand it on as it came.
    counts_itself: bool = False


def _decimal(content: bytes) -> int | None:
    return int(content) if content.isdigit() and len(content) <= _DIGITS_MAX else None


def _big_endian(content: bytes) -> int | None:
    number = int.from_bytes(content, "big", signed=True)
    return number if len(content) in (4, 8) and number >= 0 else None


#: stream/decode/dead_letters.py; Kafka's DeadLetterQueueReporter (KIP-298); Spring's KafkaHeaders.DLT_* and
#: DeadLetterPublishingRecoverer, whose own exception only wraps the cause.
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
_NOBODY: Final = _Writer(UNKNOWN, (), "", _decimal, (), "")


def read_letter(record: Any) -> Letter:
    """Read one record of a dead-letter topic (aiokafka's and kafka-python's ``ConsumerRecord`` fit); never raises.

    Where several have written their headers, the last one says why the record is in this topic: the others' are
    part of the event. Of headers with one name the last counts, as writers append.
    """
    headers: Headers = record.headers
    writer = _writer(headers)
    said = {name: content for name, content in headers if content is not None}
    before = ((name, content) for name, content in headers if name != ATTEMPT and not name.startswith(writer.prefixes))
    return Letter(
        partition=record.partition,
        offset=record.offset,
        time_ms=min(max(record.timestamp, 0), _TIME_MAX_MS),
        writer=writer.name,
        reason=_reason(writer, said),
        message=_text(said, writer.message),
        stage=_text(said, writer.stage).lower(),
        failed_in=", ".join(f"{what} {_text(said, name)}" for what, name in writer.failed_in if _text(said, name)),
        source_topic=_text(said, f"{writer.source}topic"),
        source_partition=_number(writer, said, "partition"),
        source_offset=_number(writer, said, "offset"),
        source_time_ms=_number(writer, said, "timestamp"),
        attempt=_attempt(writer, said),
        cut_from=_number(writer, said, "bytes"),
        key=record.key,
        value=record.value,
        headers=tuple(before),
    )


def _writer(headers: Headers) -> _Writer:
    for name, _ in reversed(headers):
        for writer in _WRITERS:
            if name.startswith(writer.prefixes):
                return writer
    return _NOBODY


def _reason(writer: _Writer, said: dict[str, bytes]) -> str:
    """A word: of a Java class its name without the package."""
    named = next((text for name in writer.reason if (text := _text(said, name))), "")
    return named.rpartition(".")[2] or UNKNOWN


def _attempt(writer: _Writer, said: dict[str, bytes]) -> int:
    before = _decimal(said.get(ATTEMPT, b"")) or 0
    return max(1, before if writer.counts_itself else before + 1)


def _text(said: dict[str, bytes], name: str) -> str:
    return said.get(name, b"")[: 4 * _TEXT_MAX].decode(errors="replace")[:_TEXT_MAX]


def _number(writer: _Writer, said: dict[str, bytes], name: str) -> int | None:
    return writer.number(said.get(f"{writer.source}{name}", b""))
