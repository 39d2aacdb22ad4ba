"""Broker: stands for a Kafka broker's logs, with all that the protocol can notice: append, read, compaction."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stream.outgoing import Outgoing

__all__ = ["CHANGELOG", "DLQ", "EVENTS", "SCORES", "Broker", "Stored"]

EVENTS, CHANGELOG, SCORES, ALERTS, DLQ = "events", "changelog", "scores", "alerts", "dlq"


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as a consumer reads it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp_type: int = 0


class Broker:
    """Topics as lists of records per partition. Offsets have gaps, as compaction and transactions leave them."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[Stored]] = defaultdict(list)

    def append(self, topic: str, partition: int, records: Sequence[Outgoing], now: float, *, skip: int = 0) -> int:
        """Append a batch after a gap of ``skip`` offsets. Returns its first offset."""
        log, first = self.logs[topic, partition], self.end(topic, partition) + skip
        for offset, r in enumerate(records, start=first):
            log.append(Stored(topic, partition, offset, int(now * 1000), r.key, r.value, r.headers))
        return first

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[Stored]:
        """Up to ``records_max`` records from ``offset`` on."""
        log = self.logs[topic, partition]
        first = next((i for i, r in enumerate(log) if r.offset >= offset), len(log))
        return log[first : first + records_max]

    def end(self, topic: str, partition: int) -> int:
        """The offset that the next record gets."""
        log = self.logs[topic, partition]
        return log[-1].offset + 1 if log else 0

    def compact(self, topic: str, partition: int, rng: random.Random) -> None:
        """Remove records from the head of the log if a later record there has the same key."""
        log = self.logs[topic, partition]
        head = rng.randrange(len(log) + 1)
        last = {r.key: r.offset for r in log[:head]}
        log[:] = [r for r in log[:head] if last[r.key] == r.offset] + log[head:]
