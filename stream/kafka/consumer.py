"""Consumer: offsets are committed when, and only when, all that they stand for is durable.

What stock Faust does, and what it loses, stands in ``docs/decisions/0002-faust-in-batches.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers.aiokafka import Consumer as AIOKafkaConsumer
from faust.types import TP

from stream.checkpoint.lease import MembershipLease
from stream.checkpoint.partition import Position
from stream.errors import ConfigError
from stream.kafka.fetcher import Fetcher
from stream.kafka.fetches import OneEventPerFetch

__all__ = ["PositionConsumer"]

logger = logging.getLogger(__name__)


class _NothingRead(dict[TP, int | None]):
    """How far Faust says that each partition was read: nowhere, so that it drops no fetch as one it had before.

    It resumes partitions before it seeks. A fetch of before waits in the queue meanwhile, and is noted as read when the
    seek is over: then those after it, which begin further back, were dropped. State and recovery know by themselves
    what they have had.
    """

    def __getitem__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        """Forget it."""


class PositionConsumer(AIOKafkaConsumer):
    """Consumer that commits the positions it is told, and nothing else.

    Faust's own bookkeeping of acknowledged messages is switched off. ``drain`` is awaited where Faust waits for
    its streams: before partitions are revoked and before the worker stops.
    """

    drain: Callable[[], Awaitable[None]]
    lease: MembershipLease
    #: Whether our partitions were assigned to us and not revoked since.
    owned = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NothingRead()
        #: Partition → the last offset that was delivered since it is ours, and the next to be fetched after that.
        self._delivered: dict[TP, tuple[int, int]] = {}
        self._positions: dict[TP, Position] = {}
        self._committed: dict[TP, Position] = {}
        self._resumed: dict[TP, Position] = {}

    def _new_consumer_thread(self) -> Fetcher:
        return Fetcher(self)

    async def _wait_next_records(self, timeout: float) -> Any:
        records, active = await super()._wait_next_records(timeout)
        reader = cast("Fetcher", self._thread)
        if reader.fetched_after != reader.seeks:
            # Fetched before we sought: not from where we go on, and read again from there.
            return {tp: found for tp, found in (records or {}).items() if tp not in self._resumed}, active
        for tp, at in reader.reached.items():
            last = records[tp][-1].offset if records and records.get(tp) else self._delivered.get(tp, (-1, 0))[0]
            self._delivered[tp] = (last, at)
        return records, active

    def end_of_gap(self, tp: TP, next_offset: int) -> int:
        """The next offset that can have a record, where all delivered before ``next_offset`` was taken in.

        Offsets without records are those of transaction markers and aborted records, and what compaction removed.
        """
        last, reached = self._delivered.get(tp, (-1, next_offset))
        return reached if last < next_offset else next_offset

    def check_errors(self) -> None:
        """Raise the error for which the group coordinator's client waits; Faust never asks, and it would wait for ever.

        One after which a new attempt may succeed is only logged, and then made.
        """
        if cast("Fetcher", self._thread).replaced:
            raise ConfigError(
                f"another worker has come under our instance id {self.app.conf.consumer_group_instance_id!r}; expected"
                " a name of its own for each; set --instance-id, or leave it empty"
            )
        coordinator = self._thread._ensure_consumer()._coordinator
        if coordinator is None:
            return  # The client is still connecting.
        try:
            coordinator.check_errors()
        except KafkaError as error:
            if not error.retriable:
                raise
            logger.warning("the consumer group failed us, trying again: %r", error)

    def fetched_at(self, tp: TP) -> float | None:
        """When the broker last answered a fetch of this partition, in seconds since 1970; None before the first."""
        timestamp_ms = self._thread._ensure_consumer().last_poll_timestamp(TopicPartition(*tp))
        return None if timestamp_ms is None else timestamp_ms / 1000

    @property
    def seeks(self) -> int:
        """How often we have sought."""
        return cast("OneEventPerFetch", self.scheduler).seeks

    def acknowledge(self, tp: TP, position: Position) -> None:
        """Everything before ``position`` is durable; the next commit says so."""
        self._positions[tp] = position

    async def resume_positions(self, tps: Iterable[TP]) -> dict[TP, Position]:
        """Where to go on with each of these partitions: what was committed last, else the earliest offset."""
        asked = {tp: TopicPartition(tp.topic, tp.partition) for tp in tps}
        coordinator = self._thread._ensure_consumer()._coordinator
        found = await self._thread.call_thread(coordinator.fetch_committed_offsets, list(asked.values()))
        earliest = await self._thread.earliest_offsets(*asked.values())
        self._committed = {
            tp: Position.read(found[at].offset, found[at].metadata)
            for tp, at in asked.items()
            if at in found and found[at].offset >= 0
        }
        self._resumed = {tp: self._committed.get(tp, Position(earliest[at])) for tp, at in asked.items()}
        return self._resumed

    async def perform_seek(self) -> None:
        """Seek to where the state was resumed from, and nowhere else.

        A commit may have come since, and Faust leaves a partition without one where the first fetches, from before
        the state was there, have taken it.
        """
        await super().perform_seek()
        assigned, reader = self.assignment(), cast("Fetcher", self._thread)
        offsets = {tp: at.offset for tp, at in self._resumed.items() if tp in assigned}
        await reader.seek_all(offsets)
        self._delivered.clear()
        cast("OneEventPerFetch", self.scheduler).sought()

    def uncommitted(self) -> dict[TP, Position]:
        """Acknowledged positions that the broker does not have yet."""
        new = {tp: at for tp, at in self._positions.items() if self._committed.get(tp) != at}
        # Before the start there is no assignment to ask for, and nothing new either.
        assigned = self.assignment() if new else set()
        return {tp: at for tp, at in new.items() if tp in assigned}

    async def force_commit(self, *_: Any, **__: Any) -> bool:
        """Commit every position that is new; one that the broker refused stays new and is tried again."""
        new = self.uncommitted()
        if not new:
            return False
        offsets = {TopicPartition(*tp): OffsetAndMetadata(at.offset, at.metadata()) for tp, at in new.items()}
        try:
            await self._thread.call_thread(self._thread._ensure_consumer().commit, offsets)
        except (KafkaError, IllegalStateError) as error:
            logger.warning("commit refused, trying again: %r", error)
            return False
        self._committed.update(new)
        return True

    async def wait_empty(self) -> None:
        """Make everything taken in so far durable and commit it: called before a revocation and before the end."""
        await self.drain()
        await self.commit()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Partitions are ours from now on."""
        self.owned = True
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Drain (by way of ``wait_empty``) while the partitions are still ours, then forget them."""
        self.owned = False
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._positions.pop(tp, None)
            self._committed.pop(tp, None)

    def ack(self, message: Any) -> bool:
        """Do nothing: a message is done when its position is acknowledged."""
        message.acked = True
        return True

    async def _add_gap(self, *_: Any) -> None:
        """Offsets that do not exist need no bookkeeping: a position is the next offset to read."""

    def on_buffer_full(self, tp: TP) -> None:
        """Keep fetching: a full queue holds the fetcher back by itself, and Faust would sleep a whole second."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See :meth:`on_buffer_full`."""
