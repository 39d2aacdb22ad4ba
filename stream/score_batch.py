"""ScoreBatch: the users whom one inference scores, from their queues until the broker has their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stream.contract.columns import IDLE_AGES_S
from stream.state.snapshot import Snapshot

if TYPE_CHECKING:
    from stream.arrays import Instants, Rows, Seconds, Slots
    from stream.checkpoint.partition import Partition
    from stream.clock import Clock
    from stream.metrics import Metrics
    from stream.score.decide import Decided

__all__ = ["ScoreBatch", "ScoreShare", "Taken"]


class Taken(NamedTuple):
    """Users of one partition: their state rows, and when the oldest unscored event of each arrived."""

    partition: Partition
    rows: Rows
    arrivals: Instants


class ScoreShare(NamedTuple):
    """What was decided about the users of one partition, and the state and idle stages that it was decided from."""

    taken: Taken
    snapshot: Snapshot
    idle_stages: Slots
    decided: Decided

    def note(self) -> None:
        """Write the scores into the state. Call it when the broker has them, not before."""
        self.taken.partition.note_scores(self.taken.rows, self.snapshot, self.idle_stages, self.decided)


@dataclass(slots=True)
class ScoreBatch:
    """Users who are being scored together."""

    taken: list[Taken]
    #: Wall-clock time at which they were taken, in seconds.
    now: float
    _snapshots: list[Snapshot] = field(default_factory=list)
    _idle_stages: list[Slots] = field(default_factory=list)

    @classmethod
    @contextmanager
    def take(
        cls, partitions: Sequence[Partition], users_max: int, clock: Clock, metrics: Metrics
    ) -> Iterator[ScoreBatch]:
        """Take the most urgent users out of the queues, an equal share of ``users_max`` from each partition.

        If the block fails, the users are queued again as they were, and the failure is counted. In any case they do not
        count as being scored any more when the block ends.
        """
        taken_at = clock.monotonic()
        share = max(1, users_max // max(1, len(partitions)))
        candidates = [Taken(p, *p.take(share, taken_at)) for p in partitions]
        batch = cls([t for t in candidates if len(t.rows)], clock.time())
        try:
            yield batch
        except Exception:
            metrics.scoring_errors.inc()
            for t in batch.taken:
                t.partition.queue.put_back(t.rows, clock.monotonic(), t.arrivals)
            raise
        finally:
            for t in batch.taken:
                t.partition.release(t.rows, taken_at)

    @property
    def arrivals(self) -> Instants:
        """When the oldest unscored event of each user arrived, in seconds."""
        return np.concatenate([t.arrivals for t in self.taken])

    @property
    def n_waiting(self) -> int:
        """How many users still wait in the queues of these partitions."""
        return sum(len(t.partition.queue) for t in self.taken)

    def snapshot(self, idle_stage_max: int) -> tuple[Snapshot, Seconds]:
        """Copy the users as they are now. Returns the copy, and the instant ``(n,)`` that each score speaks of."""
        self._idle_stages = [
            t.partition.idle_stage_at(t.rows, t.partition.event_now(self.now), idle_stage_max) for t in self.taken
        ]
        self._snapshots = [t.partition.state.snapshot(t.rows) for t in self.taken]
        as_of = [
            snapshot.users["last_time"].astype(np.int64) + IDLE_AGES_S[idle_stages]
            for snapshot, idle_stages in zip(self._snapshots, self._idle_stages, strict=True)
        ]
        return Snapshot.joined(self._snapshots), np.concatenate(as_of)

    def shares(self, decided: Decided) -> list[ScoreShare]:
        """Split what was decided into the shares of the partitions."""
        parts = decided.split([len(t.rows) for t in self.taken])
        return list(map(ScoreShare, self.taken, self._snapshots, self._idle_stages, parts))
