"""Sampler: what the topics and commits say while, and after, workers come and go."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from stream.checkpoint.journal_blocks import blocks
from stream.checkpoint.packed_values import applied_offset
from stream.kafka.clients import kafka_python_config
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from stream.state.erasure import Erasures
from tests.broker import harness

__all__ = ["CommitSampler", "changelog_ends", "lacking", "scores_sent_twice", "stale_records"]


class CommitSampler:
    """Watches that no commit is ahead of what the changelog has; sound where every event changes its user.

    Commits are read first, and then the changelog to its end: what a commit stands for was there before it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = KafkaAdminClient(**kafka_python_config(settings))
        self._consumer = KafkaConsumer(**kafka_python_config(settings), enable_auto_commit=False)
        self._tps = [TopicPartition(changelog_topic(settings), number) for number in range(harness.PARTITIONS)]
        self._consumer.assign(self._tps)
        self._consumer.seek_to_beginning(*self._tps)
        self._applied: dict[int, int] = defaultdict(lambda: -1)
        self.samples = 0
        self.violations: list[str] = []

    def sample(self) -> None:
        """Compare once, all partitions."""
        groups = self._admin.list_group_offsets(self._settings.app_id)
        self._read_changelog()
        for tp, at in groups[self._settings.app_id].items():
            if tp.topic != self._settings.events_topic:
                continue
            self.samples += 1
            if at.offset > self._applied[tp.partition] + 1:
                self.violations.append(
                    f"partition {tp.partition} was committed to {at.offset}, applied to {self._applied[tp.partition]}"
                )

    def _read_changelog(self) -> None:
        ends = self._consumer.end_offsets(self._tps)

        def read() -> bool:
            for records in self._consumer.poll(timeout_ms=200).values():
                for record in records:
                    seen = applied_offset(record.value)
                    self._applied[record.partition] = max(self._applied[record.partition], seen)
            return all(self._consumer.position(tp) >= end for tp, end in ends.items())

        harness.wait_for("the changelog to be read", read)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()
        self._admin.close()


def changelog_ends(settings: Settings) -> dict[int, int]:
    """End offset of each partition of the changelog."""
    consumer = KafkaConsumer(**kafka_python_config(settings))
    ends = consumer.end_offsets([TopicPartition(changelog_topic(settings), n) for n in range(harness.PARTITIONS)])
    consumer.close()
    return {tp.partition: end for tp, end in ends.items()}


def lacking(settings: Settings, ends: Mapping[int, int]) -> int:
    """How many changelog records the local stores of a running worker lack of these partitions."""
    return sum(end - 1 - _stored_offset(settings, number) for number, end in ends.items())


def _stored_offset(settings: Settings, number: int) -> int:
    """The changelog offset that a store has, -1 where there is none; read beside its owner, who holds the lock."""
    have = -1
    for path in sorted(settings.data_dir.glob(f"**/users-{number}/*.segment")):
        with path.open("rb") as file:
            have = max(have, *(block.offset for block in blocks(file, path.stat().st_size)), -1)
    return have


def scores_sent_twice(settings: Settings) -> int:
    """How many records of the scores topic repeat an earlier one's score id."""
    records = harness.read_topic(settings, settings.scores_topic)
    ids = Counter(json.loads(record.value)["score_id"] for record in records if record.value is not None)
    return sum(count - 1 for count in ids.values())


def stale_records(settings: Settings) -> dict[str, float]:
    """Records that have seen less of their user than an earlier record of theirs, as a replaced worker would send."""
    changelog = harness.read_topic(settings, changelog_topic(settings))
    users = [r for r in changelog if r.value is not None and not Erasures.is_marker(r.key.decode())]
    scores = [r for r in harness.read_topic(settings, settings.scores_topic) if r.value is not None]
    return {
        "stale_changelog_records": _backward((r.key, applied_offset(r.value)) for r in users),
        "stale_scores": _backward((r.key, json.loads(r.value)["applied_offset"]) for r in scores),
    }


def _backward(seen: Any) -> int:
    """How many go behind the largest before them of the same key.

    >>> _backward([("a", 1), ("b", 9), ("a", 3), ("a", 2), ("a", 3)])
    1
    """
    largest: dict[Any, int] = {}
    n = 0
    for key, offset in seen:
        n += offset < largest.get(key, -1)
        largest[key] = max(offset, largest.get(key, -1))
    return n
