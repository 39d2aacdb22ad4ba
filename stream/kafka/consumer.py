"""Consumer: commits an offset only when everything before it is durable.

Stock Faust commits too early and loses events. ``docs/faust-faults.md`` lists its faults; their numbers stand below.
``docs/decisions/0002-faust-in-batches.md`` says what we replaced.
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
from stream.checkpoint.position import Position
from stream.errors import ConfigError
from stream.kafka.fetcher import Fetcher
from stream.kafka.fetches import OneEventPerFetch

__all__ = ["PositionConsumer"]

logger = logging.getLogger(__name__)


class _NothingRead(dict[TP, int | None]):
    """Takes the place of Faust's ``_read_offset`` and says that nothing was read yet, so that Faust drops no fetch.

    Faust drops a fetch that begins before the offset that it noted as read. But it resumes partitions before it seeks.
    A fetch from before the seek can wait in the queue and be noted after the seek. Faust then dropped the fetches that
    followed, because they began further back. State and recovery recognise replayed records by themselves.
    """

    def __getitem__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        """Do not keep the offset."""


class PositionConsumer(AIOKafkaConsumer):
    """Commits the positions that it is told to commit, and nothing else.

    Faust's own bookkeeping of acknowledged messages is switched off (faults 1, 2, 3 and 11). Where Faust waits for its
    streams, this consumer awaits ``drain``: before partitions are revoked, and before the worker stops (faults 7
    and 15). The worker sets ``drain`` and ``lease``.
    """

    drain: Callable[[], Awaitable[None]]
    lease: MembershipLease
    #: Whether we have partitions that were not revoked since their assignment.
    owned = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NothingRead()
        #: Partition → the last offset that was delivered since we sought, and the next offset that will be fetched.
        self._delivered: dict[TP, tuple[int, int]] = {}
        self._positions: dict[TP, Position] = {}
        self._committed: dict[TP, Position] = {}
        self._resumed: dict[TP, Position] = {}

    def _new_consumer_thread(self) -> Fetcher:
        return Fetcher(self, lambda: self.lease)

    async def _wait_next_records(self, timeout: float) -> Any:
        records, active = await super()._wait_next_records(timeout)
        fetcher = cast("Fetcher", self._thread)
        if fetcher.seeks_at_fetch != fetcher.seeks:
            # We sought after this fetch. Its records will be fetched again, from the position that we sought.
            return {tp: fetched for tp, fetched in (records or {}).items() if tp not in self._resumed}, active
        for tp, next_offset in fetcher.next_offsets.items():
            last = records[tp][-1].offset if records and records.get(tp) else self._delivered.get(tp, (-1, 0))[0]
            self._delivered[tp] = (last, next_offset)
        return records, active

    def end_of_gap(self, tp: TP, next_offset: int) -> int:
        """Return the next offset that can hold a record, if all records before ``next_offset`` were taken in.

        Transaction markers, aborted records and records that compaction removed leave offsets without a record.
        """
        last, next_fetched = self._delivered.get(tp, (-1, next_offset))
        return next_fetched if last < next_offset else next_offset

    def check_errors(self) -> None:
        """Raise the error that the group coordinator's client has met, as Faust never asks for it.

        The client would otherwise wait for ever. An error after which a new attempt may succeed is only logged. Raises
        ConfigError if another worker has taken our instance id.
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
        """Return when the broker last answered a fetch of this partition, in seconds since 1970.

        None if it has answered none yet.
        """
        timestamp_ms = self._thread._ensure_consumer().last_poll_timestamp(TopicPartition(*tp))
        return None if timestamp_ms is None else timestamp_ms / 1000

    @property
    def seeks(self) -> int:
        """How often this consumer has sought."""
        return cast("OneEventPerFetch", self.scheduler).seeks

    def acknowledge(self, tp: TP, position: Position) -> None:
        """Note that everything before ``position`` is durable. The next commit includes it."""
        self._positions[tp] = position

    async def resume_positions(self, tps: Iterable[TP]) -> dict[TP, Position]:
        """Return where each of these partitions resumes: at its last commit, else at its earliest offset."""
        partitions = {tp: TopicPartition(tp.topic, tp.partition) for tp in tps}
        coordinator = self._thread._ensure_consumer()._coordinator
        commits = await self._thread.call_thread(coordinator.fetch_committed_offsets, list(partitions.values()))
        earliest = await self._thread.earliest_offsets(*partitions.values())
        self._committed = {
            tp: Position.read(commits[partition].offset, commits[partition].metadata)
            for tp, partition in partitions.items()
            if partition in commits and commits[partition].offset >= 0
        }
        self._resumed = {
            tp: self._committed.get(tp, Position(earliest[partition])) for tp, partition in partitions.items()
        }
        return self._resumed

    async def perform_seek(self) -> None:
        """Seek each partition to the position that its state was resumed from.

        Faust would seek to the last commit, which may be newer than that position. A partition without a commit it
        leaves where the first fetches moved it, and those came before the state was loaded.
        """
        await super().perform_seek()
        assigned, fetcher = self.assignment(), cast("Fetcher", self._thread)
        offsets = {tp: position.offset for tp, position in self._resumed.items() if tp in assigned}
        await fetcher.seek_all(offsets)
        self._delivered.clear()
        cast("OneEventPerFetch", self.scheduler).sought()

    def uncommitted(self) -> dict[TP, Position]:
        """Return the acknowledged positions that are not committed yet."""
        new = {tp: position for tp, position in self._positions.items() if self._committed.get(tp) != position}
        # Before the start, nothing is new and the assignment cannot be asked for.
        assigned = self.assignment() if new else set()
        return {tp: position for tp, position in new.items() if tp in assigned}

    async def force_commit(self, *_: Any, **__: Any) -> bool:
        """Commit every new position, and return whether that was done.

        A position that the broker refuses stays new and is tried again. Faust would count it as committed (fault 6).
        """
        new = self.uncommitted()
        if not new:
            return False
        offsets = {
            TopicPartition(*tp): OffsetAndMetadata(position.offset, position.metadata()) for tp, position in new.items()
        }
        try:
            await self._thread.call_thread(self._thread._ensure_consumer().commit, offsets)
        except (KafkaError, IllegalStateError) as error:
            logger.warning("commit refused, trying again: %r", error)
            return False
        self._committed.update(new)
        return True

    async def wait_empty(self) -> None:
        """Make everything taken in durable and commit it. Faust calls this before a revocation and at the end."""
        await self.drain()
        await self.commit()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Note that the partitions are ours from now on."""
        self.owned = True
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Drain while the partitions are still ours, then forget them. Faust forgets before it commits (fault 7).

        The drain happens in ``super()``, which calls ``wait_empty``.
        """
        self.owned = False
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._positions.pop(tp, None)
            self._committed.pop(tp, None)

    def ack(self, message: Any) -> bool:
        """Mark the message, and nothing else: it is done when its position is acknowledged (faults 1 to 3)."""
        message.acked = True
        return True

    async def _add_gap(self, *_: Any) -> None:
        """Do nothing: a position is the next offset to read, so offsets without a record do not matter (fault 11)."""

    def on_buffer_full(self, tp: TP) -> None:
        """Keep fetching: a full queue holds the fetcher back by itself. Faust would sleep a whole second (fault 12)."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing; see :meth:`on_buffer_full`."""
