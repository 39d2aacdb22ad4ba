"""Reads a dead-letter topic up to its present end. The reader joins no consumer group and commits nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from stream.clock import Clock, Stop
from stream.commands.dlq.letters import Letter, read_letter
from stream.errors import ConfigError
from stream.kafka.client_types import KafkaConsumer, KafkaError, TopicPartition
from stream.kafka.reading import read_partition

__all__ = ["Place", "Selection", "clear_errors", "fetch_one", "letters", "moment_ms", "require_one"]

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Place(NamedTuple):
    """A partition and an offset in it, which people write as ``2:17``."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``PARTITION:OFFSET``. Raises ConfigError for any other text.

        >>> Place.parse("2:17"), str(Place(2, 17))
        (Place(partition=2, offset=17), '2:17')
        """
        found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,18})", text)
        if found is None:
            raise ConfigError(f"place is {text!r}, expected PARTITION:OFFSET as `valuestream dlq list` shows it (2:17)")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


def moment_ms(text: str, clock: Clock) -> int:
    """Read an ISO time (UTC if it names no zone), or how long ago (``2h``), as milliseconds since 1970.

    Raises ConfigError for any other text.

    >>> from stream.clock import ManualClock
    >>> moment_ms("2h", ManualClock(start=10_000)), moment_ms("1970-01-01T01:00", ManualClock())
    (2800000, 3600000)
    """
    ago = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    try:
        if ago is not None:
            seconds = clock.time() - int(ago[1]) * _UNITS_S[ago[2]]
        else:
            at = datetime.fromisoformat(text)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = -1
    if seconds < 0:
        raise ConfigError(
            f"time is {text!r}, expected an ISO time since 1970 (2026-11-22T10:30) or how long ago"
            " (90s, 30m, 2h, 7d); set --since and --until"
        )
    return int(seconds * 1000)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant. No ``reasons`` means all of them. Times are those of the dead letters.

    ``since_ms`` is included and ``until_ms`` is not. ``start`` is the first place to read.
    """

    reasons: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    start: Place | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether this dead letter is meant."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.since_ms is None or letter.time_ms >= self.since_ms)
            and (self.until_ms is None or letter.time_ms < self.until_ms)
        )


def letters(consumer: KafkaConsumer, selection: Selection, stop: Stop) -> Iterator[Letter]:
    """Give the selected dead letters of those that are there now, partition by partition in offset order.

    ``consumer`` has all partitions of the topic, and nobody else uses it meanwhile. If ``stop`` is set, they end early.
    """
    tps = sorted(consumer.assignment())
    ends = consumer.end_offsets(tps)
    starts = _starts(consumer, tps, ends, selection)
    for tp in tps:
        for record in read_partition(consumer, tp, starts[tp], ends[tp]):
            if stop.is_set():
                return
            letter = read_letter(record)
            if selection.takes(letter):
                yield letter


def _starts(consumer: KafkaConsumer, tps: list[Any], ends: dict[Any, int], selection: Selection) -> dict[Any, int]:
    """The first offset to read in each partition. No selected dead letter is before it."""
    starts = dict(consumer.beginning_offsets(tps))
    if selection.since_ms is not None:
        found = consumer.offsets_for_times(dict.fromkeys(tps, selection.since_ms))
        starts = {tp: found[tp].offset if found.get(tp) else ends[tp] for tp in tps}
    if selection.start is not None:
        partition, offset = selection.start
        _require_partition(tps, partition)
        for tp in tps:
            if tp.partition < partition:
                starts[tp] = ends[tp]
            elif tp.partition == partition:
                starts[tp] = max(starts[tp], offset)
    return starts


def _require_partition(tps: list[Any], partition: int) -> None:
    """Raise ConfigError if the topic has no such partition."""
    if partition not in {tp.partition for tp in tps}:
        raise ConfigError(
            f"partition is {partition}, expected one of 0 to {len(tps) - 1} of topic {tps[0].topic};"
            " `valuestream dlq list` shows places"
        )


def fetch_one(consumer: KafkaConsumer, tp: TopicPartition, offset: int) -> Any | None:
    """The record at this offset, or None if the topic does not hold it, or no longer."""
    first, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
    if not first <= offset < end:
        return None
    return next(read_partition(consumer, tp, offset, offset + 1), None)


def require_one(consumer: KafkaConsumer, place: Place) -> Letter:
    """The dead letter at this place. Raises ConfigError if there is none."""
    tps = sorted(consumer.assignment())
    _require_partition(tps, place.partition)
    tp = TopicPartition(tps[0].topic, place.partition)
    record = fetch_one(consumer, tp, place.offset)
    if record is None:
        first, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        raise ConfigError(
            f"{tp.topic} has no dead letter at {place}, expected one between {tp.partition}:{first} and"
            f" {tp.partition}:{end} (not included; retention takes the oldest); `valuestream dlq list` shows places"
        )
    return read_letter(record)


@contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """Turn a KafkaError into a ConfigError of one line, which says that the broker did not let us do ``what``."""
    try:
        yield
    except KafkaError as error:
        raise ConfigError(
            f"the broker did not let us {what} ({' '.join(str(error).split())}); expected leave and an answer;"
            " check its health and the access rights of our user"
        ) from error
