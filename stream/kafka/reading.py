"""Reading: the records of one partition up to a bound, for every command and job that reads a topic once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch

from stream.errors import ConfigError
from stream.kafka.records import AnyText

__all__ = ["alike", "open_consumer", "read_partition"]

_POLL_MS: Final = 500
_POLL_RECORDS: Final = 5_000
#: A broker that brings nothing for this long, with records left to read, is not going to.
_SILENCE_MAX_S: Final = 30
_SILENT_POLLS_MAX: Final = _SILENCE_MAX_S * 1000 // _POLL_MS


class _AnyNames(DefaultRecordBatch):  # type: ignore[misc]
    """A record batch whose header names may be any bytes: kafka-python would never get past one that is not UTF-8."""

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer: bytearray = AnyText(self._buffer)
            return super()._read_msg()


def open_consumer(**config: Any) -> KafkaConsumer:
    """A consumer in no group, which makes no topic; KafkaError or OSError where there is no broker.

    Where retention has taken the record it is to read, it goes on with the oldest there is.
    """
    memory_records.DefaultRecordBatch = _AnyNames
    return KafkaConsumer(
        **config, enable_auto_commit=False, allow_auto_create_topics=False, auto_offset_reset="earliest"
    )


def read_partition(
    consumer: KafkaConsumer, tp: TopicPartition, start: int | None = None, end: int | None = None
) -> Iterator[Any]:
    """All records of a partition from ``start`` to before ``end``: where not given, all that it holds now.

    The consumer has no other partition meanwhile. Raises ConfigError where the broker falls silent.
    """
    position = consumer.beginning_offsets([tp])[tp] if start is None else start
    end = consumer.end_offsets([tp])[tp] if end is None else end
    consumer.assign([tp])
    consumer.seek(tp, position)
    silent = 0
    while position < end:
        records = consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS).get(tp, ())
        yield from (record for record in records if record.offset < end)
        # Offsets of compacted records and transaction markers are passed over without a record.
        before, position = position, consumer.position(tp)
        silent = silent + 1 if position == before else 0
        if silent >= _SILENT_POLLS_MAX:
            raise ConfigError(
                f"{tp.topic}, partition {tp.partition}: nothing came for {_SILENCE_MAX_S} s at offset {position} of"
                f" {end}; expected a broker that answers; check its health"
            )


def alike(name: str, existing: Iterable[str]) -> str:
    """What to add to a line about a topic that is not there.

    >>> alike("evnets", ["events", "events-dlq", "scores"])
    ' (there is: events, events-dlq)'
    """
    names = get_close_matches(name, sorted(existing))
    return f" (there is: {', '.join(names)})" if names else ""
