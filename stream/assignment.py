"""Assignment: the source partitions that are ours, from the time we resume them until we give them up.

This file and :mod:`stream.pipeline` hold the rules by which nothing is lost and nothing counts twice. Both are free of
Kafka and Faust, so that ``tests/simulation`` can run them through thousands of schedules.

* A partition resumes from its local store at the committed position, and takes in only the records after it.
* Its position is acknowledged only when the broker and the store have everything that came of the records before it.
* A worker without the lease sends nothing: another worker may have the partition already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from stream.checkpoint.lease import Lease
from stream.checkpoint.partition import Partition
from stream.checkpoint.position import Position
from stream.errors import ContractError, LeaseError
from stream.score.queue import OWED, ScoreQueue

if TYPE_CHECKING:
    from stream.checkpoint.journal_blocks import Users
    from stream.clock import Clock
    from stream.metrics import Metrics
    from stream.pipeline import Pipeline
    from stream.state.partition_state import PartitionState

__all__ = ["Assignment", "FetchedRecords", "Store"]

#: How often a drain checks whether the scores that are being made are finished.
_NAP_S: Final = 0.002


class Store(Protocol):
    """The local store of users. See :class:`stream.kafka.table.UserStore`."""

    async def load(self, partition: int) -> PartitionState:
        """Read all users of a partition into memory. The state belongs to the caller then."""

    def write(self, partition: int, users: Users, offset: int) -> None:
        """Write users, and the changelog offset of the last of them, all or nothing."""


class FetchedRecords(list[Any]):
    """The records of one partition from one fetch, in offset order.

    ``follows`` is the last offset of the fetch before, None if there was none. ``seeks`` is how often the consumer had
    sought when it read them.
    """

    follows: int | None
    seeks: int


class Assignment:
    """The partitions of one worker. ``acknowledge`` learns which position of a partition may be committed."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        store: Store,
        acknowledge: Callable[[int, Position], None],
        lease: Lease,
        metrics: Metrics,
        clock: Clock,
        refresh_interval_s: float,
    ) -> None:
        self._pipeline, self._store, self._acknowledge = pipeline, store, acknowledge
        self._lease, self._metrics, self._clock = lease, metrics, clock
        self._refresh_interval_s = refresh_interval_s
        self.partitions: dict[int, Partition] = {}
        #: How often the consumer had sought when partitions were resumed. It reads again what it had read until then.
        self._seeks = 0
        self._scoring = 0
        #: True from the last checkpoint before a revocation or the end until partitions are resumed. Nothing is taken
        #: in, scored or acknowledged meanwhile, so that the committed positions stay true.
        self._draining = False
        self._checkpointing = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """Whether nothing may be scored or checkpointed now, because we are draining or hold no lease."""
        return self._draining or not self._lease.held

    # -- life -----------------------------------------------------------------------------------------------

    async def resume(self, seeks: Callable[[], int], positions: Awaitable[Mapping[int, Position]]) -> bool:
        """Take partitions over: rebuild their states from the store, and go on from these positions.

        The consumer must seek to these positions next. ``seeks`` says how often it has sought; it may seek while the
        states are read. Whatever it reads before that next seek is dropped, because it will be read again.

        Returns False if partitions were revoked meanwhile. Then these partitions are not ours.
        """
        term = self._lease.term
        loaded = {number: await self._load(number, at) for number, at in sorted((await positions).items())}
        if term != self._lease.term:
            return False
        self.partitions, self._seeks, self._draining = loaded, seeks(), False
        return True

    async def _load(self, number: int, position: Position) -> Partition:
        """Read one partition with all its users from the local store, and queue the unscored ones."""
        state = await self._store.load(number)
        self._pipeline.check_state(state)
        partition = Partition(number, state, ScoreQueue(self._refresh_interval_s))
        partition.resume(position)
        partition.queue.push(state.unscored(), OWED, self._clock.monotonic(), self._clock.time())
        return partition

    async def drain(self) -> None:
        """Make everything taken in durable, while the partitions are still ours. Without the lease they are not."""
        self._draining = True
        while self._scoring and self._lease.held:
            await asyncio.sleep(_NAP_S)
        if self._lease.held:
            await self._checkpoint_all()

    def revoke(self) -> None:
        """Forget all partitions. Their next owner will read again what is not durable."""
        self._draining = True
        self._lease.end_term()
        for partition in self.partitions.values():
            partition.given_up = True
        self.partitions.clear()

    # -- work -----------------------------------------------------------------------------------------------

    def take_in(self, number: int, records: FetchedRecords, highwater: int | None) -> None:
        """Take in one fetch. Drop a fetch from before the partition was resumed: it may begin past the position."""
        partition = self.partitions.get(number)
        if partition is None or records.seeks <= self._seeks or self._draining:
            return
        partition.highwater = highwater
        _check_follows(partition, records)
        self._pipeline.ingest(partition, records)

    async def score(self, users_max: int) -> int:
        """Score the most urgent users of all partitions. Returns how many. Raises ScoringError."""
        if self.idle:
            return 0
        self._scoring += 1
        try:
            return await self._pipeline.score(list(self.partitions.values()), users_max)
        except LeaseError:
            return 0
        finally:
            self._scoring -= 1

    async def checkpoint(self) -> bool:
        """Make every partition that has news durable, and acknowledge its position for the next commit.

        Returns False if that may not be done now.
        """
        return not self.idle and await self._checkpoint_all()

    async def _checkpoint_all(self) -> bool:
        all_done = True
        async with self._checkpointing:
            for partition in [p for p in self.partitions.values() if p.has_news]:
                with self._metrics.checkpoint_seconds.time():
                    done = await self._checkpoint(partition)
                self._metrics.checkpoints.labels("ok" if done else "failed").inc()
                all_done = all_done and done
        return all_done

    async def _checkpoint(self, partition: Partition) -> bool:
        try:
            position, users, offset = await self._pipeline.checkpoint(partition)
        except LeaseError:
            return False
        except Exception:
            self._metrics.checkpoints.labels("failed").inc()
            raise
        if partition.given_up:
            return False  # Its next owner may have written to the store, and its position is not ours to commit.
        if offset is not None:
            self._store.write(partition.number, users, offset)
        self._acknowledge(partition.number, position)
        return True


def _check_follows(partition: Partition, records: FetchedRecords) -> None:
    """Raise ContractError if a fetch was read and never taken in: its events would be lost. Offsets may have gaps."""
    missed = records.follows is not None and records.follows >= partition.next_offset
    if missed and records[0].offset > partition.next_offset:
        raise ContractError(
            f"partition {partition.number} goes on at offset {records[0].offset}, expected {partition.next_offset}: "
            "a fetch between was lost. This is a bug; nothing was committed past it, so start the worker again."
        )
