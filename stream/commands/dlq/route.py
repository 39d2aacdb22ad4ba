"""Decides for each dead letter which event to send where, or why to leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from stream.commands.dlq.letters import Letter
from stream.commands.dlq.read import fetch_one
from stream.decode.dead_letters import ATTEMPT
from stream.decode.decoder import ORIGIN_HEADER
from stream.errors import ConfigError
from stream.kafka.client_types import KafkaConsumer, TopicPartition
from stream.kafka.partitioner import partition_of
from stream.kafka.rights import Right
from stream.kafka.topics import similar_names

__all__ = ["Event", "Router"]


class Event(NamedTuple):
    """A dead letter as the event to send: where to, and what."""

    letter: Letter
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Router:
    """Decides for a dead letter which event to send where, or why to leave it.

    ``require`` raises ConfigError if we lack a right. It is called once for each right, before the right is used.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        events_topic: str,
        *,
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
            similar = similar_names(to, self._topics)
            raise ConfigError(f"topic {to!r} not found, expected one to replay to{similar}; create it, or set --to")

    def route(self, letter: Letter) -> Event | str:
        """The event to send, or the reason to leave the dead letter."""
        topic = self._to or letter.source_topic
        if letter.attempt > self._attempts_max:
            return f"failed more than {self._attempts_max} times (--attempts-max)"
        if not topic:
            return "name no source topic (--to TOPIC sends them somewhere)"
        # Anyone can name any topic in a dead letter. A topic that we may not see counts as missing.
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
        """The whole record of a cut dead letter, if the source topic still has it."""
        topic, partition, offset = letter.source_topic, letter.source_partition, letter.source_offset
        if topic not in self._topics or partition is None or offset is None or partition >= self._count(topic):
            return None
        self._require(Right("topic", topic, "Read"))
        record = fetch_one(self._consumer, TopicPartition(topic, partition), offset)
        # If the topic was deleted and created again, it has other records at the old offsets.
        is_same_event = (
            record is not None
            and (record.key or b"").startswith(letter.key or b"")
            and (record.value or b"").startswith(letter.value or b"")
        )
        return record if is_same_event else None


def _partition(letter: Letter, key: bytes | None, topic: str, count: int) -> int:
    """The partition where the user's other events are.

    In the source topic this is the partition that the event came from, whatever partitioner chose it. In another topic,
    or if that partition is gone, it is the one that Kafka's default partitioner chooses for the key.
    """
    source = letter.source_partition
    if topic == letter.source_topic and source is not None and source < count:
        return source
    if key is None:
        return (letter.partition if source is None else source) % count
    return partition_of(key, count)


def _replay_headers(letter: Letter, headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The headers of the event, with the number of attempts, and with the place where the event was at first."""
    kept = [(name, content) for name, content in headers if name != ATTEMPT]
    if letter.source_topic and ORIGIN_HEADER not in dict(kept):
        origin = f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset}"
        kept.append((ORIGIN_HEADER, origin.encode()))
    return [*kept, (ATTEMPT, str(letter.attempt).encode())]
