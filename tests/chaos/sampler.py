"""Sampler: reads topics and commits while workers come and go, and after that."""

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
    """Checks that no commit is ahead of the changelog. It needs traffic in which every event changes its user.

    It reads the commits first, and then the changelog to its end: whatever a commit covers must have been there before.
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
        """Compare all partitions once."""
        groups = self._admin.list_group_offsets(self._settings.app_id)
        self._read_changelog()
        for tp, commit in groups[self._settings.app_id].items():
            if tp.topic != self._settings.events_topic:
                continue
            self.samples += 1
            if commit.offset > self._applied[tp.partition] + 1:
                applied = self._applied[tp.partition]
                self.violations.append(
                    f"partition {tp.partition} was committed to {commit.offset}, applied to {applied}"
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
    """How many changelog records of these partitions the local stores of a running worker still lack."""
    return sum(end - 1 - _stored_offset(settings, number) for number, end in ends.items())


def _stored_offset(settings: Settings, number: int) -> int:
    """The last changelog offset in a store; -1 if there is none. It reads the files, as the worker holds the lock."""
    newest = -1
    for path in sorted(settings.data_dir.glob(f"**/users-{number}/*.segment")):
        with path.open("rb") as file:
            newest = max(newest, *(block.offset for block in blocks(file, path.stat().st_size)), -1)
    return newest


def scores_sent_twice(settings: Settings) -> int:
    """How many records of the scores topic repeat the score id of an earlier record."""
    records = harness.read_topic(settings, settings.scores_topic)
    ids = Counter(json.loads(record.value)["score_id"] for record in records if record.value is not None)
    return sum(count - 1 for count in ids.values())


def stale_records(settings: Settings) -> dict[str, float]:
    """Counts of records with a smaller applied offset than an earlier record of the same user.

    A worker that was replaced but still sends would leave such records.
    """
    changelog = harness.read_topic(settings, changelog_topic(settings))
    users = [r for r in changelog if r.value is not None and not Erasures.is_marker(r.key.decode())]
    scores = [r for r in harness.read_topic(settings, settings.scores_topic) if r.value is not None]
    return {
        "stale_changelog_records": _backward((r.key, applied_offset(r.value)) for r in users),
        "stale_scores": _backward((r.key, json.loads(r.value)["applied_offset"]) for r in scores),
    }


def _backward(seen: Any) -> int:
    """How many numbers are smaller than an earlier number of the same key.

    >>> _backward([("a", 1), ("b", 9), ("a", 3), ("a", 2), ("a", 3)])
    1
    """
    largest: dict[Any, int] = {}
    n = 0
    for key, offset in seen:
        n += offset < largest.get(key, -1)
        largest[key] = max(offset, largest.get(key, -1))
    return n
