"""Says of a dead letter which event is to be sent where, or why it is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

from stream.commands.dlq.letters import Letter
from stream.commands.dlq.read import fetch_one
from stream.decode.dead_letters import ATTEMPT
from stream.decode.decoder import ORIGIN_HEADER
from stream.errors import ConfigError
from stream.kafka.partitioner import partition_of
from stream.kafka.rights import Right
from stream.kafka.topics import similar_names

__all__ = ["Event", "Router"]


class Event(NamedTuple):
    """A dead letter as the event to be sent."""

    letter: Letter
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Router:
    """Says of a dead letter what is to be sent where, or why it is left.

    ``require`` raises ConfigError where we lack a right; it is asked once for each, before it is made use of.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        events_topic: str,
        to: str | None,
        attempts_max: int,
        require: Callable[[Right], None],
    ) -> None:
        self._consumer, self._to, self._attempts_max, self._require = consumer, to, attempts_max, cache(require)
        self._expected = to or events_topic
        self._topics = consumer.topics()
        self._partitions: dict[str, int] = {}
        if to is None:
            return
        self._require(Right("topic", to, "Write"))
        if to not in self._topics:
            there = similar_names(to, self._topics)
            raise ConfigError(f"topic {to!r} not found, expected one to replay to{there}; create it, or set --to")

    def route(self, letter: Letter) -> Event | str:
        """The event to send, else the reason to leave it."""
        topic = self._to or letter.source_topic
        if letter.attempt > self._attempts_max:
            return f"failed more than {self._attempts_max} times (--attempts-max)"
        if not topic:
            return "name no source topic (--to TOPIC sends them somewhere)"
        # A topic that we may not see is as if it were not there, and anyone may name one in a dead letter.
        if topic == self._expected or topic in self._topics:
            self._require(Right("topic", topic, "Write"))
        if topic not in self._topics:
            return "come from a topic that is not there (--to TOPIC sends them elsewhere)"
        key, value, headers = letter.key, letter.value, letter.headers
        if letter.cut_from is not None:
            whole = self._whole(letter)
            if whole is None:
                return "are cut, and the source topic no longer has the whole event"
            key, value, headers = whole.key, whole.value, tuple(whole.headers)
        if key is None and value is None:
            return "have neither key nor value"
        partition = _partition(letter, key, topic, self._count(topic))
        return Event(letter, topic, partition, key, value, _replay_headers(letter, headers))

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = len(self._consumer.partitions_for_topic(topic) or ())
        return self._partitions[topic]

    def _whole(self, letter: Letter) -> Any | None:
        """The record that a cut dead letter is the beginning of, if its source topic still has it."""
        topic, partition, offset = letter.source_topic, letter.source_partition, letter.source_offset
        if topic not in self._topics or partition is None or offset is None or partition >= self._count(topic):
            return None
        self._require(Right("topic", topic, "Read"))
        record = fetch_one(self._consumer, TopicPartition(topic, partition), offset)
        # A topic that was made anew has other records at the old offsets.
        same = (
            record is not None
            and (record.key or b"").startswith(letter.key or b"")
            and (record.value or b"").startswith(letter.value or b"")
        )
        return record if same else None


def _partition(letter: Letter, key: bytes | None, topic: str, count: int) -> int:
    """Where the user's other events are: back home the partition it came from, whatever partitioner chose it.

    Elsewhere, or where that partition is gone, the one that Kafka's default partitioner gives the key.
    """
    source = letter.source_partition
    if topic == letter.source_topic and source is not None and source < count:
        return source
    if key is None:
        return (letter.partition if source is None else source) % count
    return partition_of(key, count)


def _replay_headers(letter: Letter, headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The event's own, with the count of attempts, and the place where it was at first."""
    kept = [(name, content) for name, content in headers if name != ATTEMPT]
    if letter.source_topic and ORIGIN_HEADER not in dict(kept):
        origin = f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset}"
        kept.append((ORIGIN_HEADER, origin.encode()))
    return [*kept, (ATTEMPT, str(letter.attempt).encode())]
