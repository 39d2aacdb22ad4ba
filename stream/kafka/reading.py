"""Reading: how commands and jobs read topics: one partition up to a given offset, or whole topics as records arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch

from stream.clock import Clock, Stop
from stream.errors import ConfigError
from stream.kafka.clients import kafka_python_config
from stream.kafka.records import AnyText
from stream.kafka.rights import Right, check_rights
from stream.kafka.topics import require_topic
from stream.settings import Settings

__all__ = ["follow", "open_consumer", "open_topics", "read_partition"]

_POLL_MS: Final = 500
_POLL_RECORDS: Final = 5_000
#: If records are left to read and the broker brings none for this long, it will not bring them.
_SILENCE_MAX_S: Final = 30
_SILENT_POLLS_MAX: Final = _SILENCE_MAX_S * 1000 // _POLL_MS
#: How long one poll of :func:`follow` may take. Ctrl-C takes effect within this time.
_FOLLOW_POLL_S: Final = 0.25


class _AnyNames(DefaultRecordBatch):  # type: ignore[misc]
    """A record batch with header names of any bytes. kafka-python cannot read past a name that is not UTF-8."""

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer: bytearray = AnyText(self._buffer)
            return super()._read_msg()


def open_consumer(**config: Any) -> KafkaConsumer:
    """Open a consumer that is in no group and creates no topic. Raises KafkaError or OSError if no broker answers.

    If retention has removed the record that it is to read, it goes on with the oldest one.
    """
    memory_records.DefaultRecordBatch = _AnyNames
    return KafkaConsumer(
        **config, enable_auto_commit=False, allow_auto_create_topics=False, auto_offset_reset="earliest"
    )


def read_partition(
    consumer: KafkaConsumer, tp: TopicPartition, start: int | None = None, end: int | None = None
) -> Iterator[Any]:
    """Give all records of a partition from offset ``start`` to before ``end``.

    Without them it gives all that the partition holds now. The consumer must have no other use meanwhile: its
    assignment becomes this partition. Raises ConfigError if the broker falls silent.
    """
    position = consumer.beginning_offsets([tp])[tp] if start is None else start
    end = consumer.end_offsets([tp])[tp] if end is None else end
    consumer.assign([tp])
    consumer.seek(tp, position)
    silent_polls = 0
    while position < end:
        records = consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS).get(tp, ())
        yield from (record for record in records if record.offset < end)
        # The consumer passes offsets without a record by itself: compacted records and transaction markers.
        before, position = position, consumer.position(tp)
        silent_polls = silent_polls + 1 if position == before else 0
        if silent_polls >= _SILENT_POLLS_MAX:
            raise ConfigError(
                f"{tp.topic}, partition {tp.partition}: nothing came for {_SILENCE_MAX_S} s at offset {position} of"
                f" {end}; expected a broker that answers; check its health"
            )


def open_topics(settings: Settings, topics: list[str], *, from_beginning: bool) -> KafkaConsumer:
    """Open a consumer of all partitions of these topics, in no group. Raises ConfigError if broker or topic is missing.

    It starts with the oldest records, or with those that arrive from now on.
    """
    check_rights(settings, [Right("topic", topic, "Read") for topic in topics])
    consumer = open_consumer(**kafka_python_config(settings))
    try:
        existing = consumer.topics()
        for topic in topics:
            require_topic(settings, topic, existing)
        partitions = [TopicPartition(t, p) for t in topics for p in sorted(consumer.partitions_for_topic(t))]
        consumer.assign(partitions)
        (consumer.seek_to_beginning if from_beginning else consumer.seek_to_end)()
        for partition in partitions:
            # Seeking is lazy: without this call, "the end" would be the end at the time of the first poll.
            consumer.position(partition)
    except BaseException:
        consumer.close()
        raise
    return consumer


def follow(consumer: KafkaConsumer, stop: Stop, clock: Clock, seconds: float | None = None) -> Iterator[Any]:
    """Give records as they arrive, the oldest of each poll first, until ``stop`` is set or ``seconds`` have passed."""
    began = clock.monotonic()
    while not stop.is_set():
        left = _FOLLOW_POLL_S if seconds is None else min(_FOLLOW_POLL_S, began + seconds - clock.monotonic())
        if left <= 0:
            return
        polled = consumer.poll(timeout_ms=int(left * 1000))
        batch = [record for records in polled.values() for record in records]
        for record in sorted(batch, key=lambda record: record.timestamp):
            if stop.is_set():
                return
            yield record
