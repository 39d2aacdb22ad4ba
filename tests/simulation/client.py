"""Client: the Kafka clients of one simulated process. Real commits and a real publisher send simulated requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from stream.checkpoint.lease import Lease
from stream.kafka.consumer import PositionConsumer
from stream.kafka.publisher import Publisher
from stream.outgoing import Outgoing
from tests.simulation.broker import CHANGELOG, EVENTS
from tests.simulation.network import Reply

if TYPE_CHECKING:
    from tests.simulation.process import Process

__all__ = ["Consumer", "Producer"]

#: Records in one produce request. It is so small that a checkpoint needs several requests for its users.
_BATCH_RECORDS_MAX = 2
_PUBLISH_TIMEOUT_S = 20.0


class Consumer(PositionConsumer):
    """The real consumer decides which positions are committed, and when. Faust and aiokafka are left out."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._positions, self._committed, self._resumed, self._delivered = {}, {}, {}, {}
        self._committing = False
        #: Partition → the next offset to be fetched, and those that are not paused.
        self.fetch_at: dict[int, int] = {}
        self.active: set[int] = set()
        self._thread: Any = SimpleNamespace(
            call_thread=self._call, earliest_offsets=self._earliest, _ensure_consumer=lambda: self, next_offsets={}
        )
        #: The part of aiokafka's consumer that the real consumer uses.
        self._coordinator: Any = SimpleNamespace(fetch_committed_offsets=self._fetch_committed)

    def assignment(self) -> set[TP]:
        return {TP(EVENTS, number) for number in self._process.numbers}

    async def commit(self, *_: Any, **__: Any) -> bool:
        """Commit as Faust does: one commit at a time. If one is under way, a second does nothing."""
        if self._committing:
            return False
        self._committing = True
        try:
            return await self.force_commit()
        finally:
            self._committing = False

    async def seek(self, partition: TP, offset: int) -> None:
        self.fetch_at[partition.partition] = offset

    async def perform_seek(self) -> None:
        self._delivered.clear()
        for tp, position in self._resumed.items():
            if tp in self.assignment():
                await self.seek(tp, position.offset)

    def forget(self) -> None:
        """Forget the partitions, as the real consumer does when they are revoked."""
        self._positions.clear()
        self._committed.clear()
        self.fetch_at, self.active = {}, set()

    async def _call(self, method: Any, *args: Any) -> Any:
        if method == self.commit:
            method = self._commit
        return await method(*args)

    async def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        process = self._process
        positions = {tp.partition: (at.offset, at.metadata) for tp, at in offsets.items()}
        member, generation = process.member, process.generation
        await process.call(
            f"commit {' '.join(f'{n}:{o}' for n, (o, _) in positions.items())}",
            lambda reply: process.world.commit(process, member, generation, positions, reply),
        )

    async def _fetch_committed(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        group = self._process.world.group
        found = await self._process.call("fetch committed", lambda reply: reply(dict(group.committed), None))
        return {tp: OffsetAndMetadata(*found.get(tp.partition, (-1, ""))) for tp in tps}

    async def _earliest(self, *tps: TopicPartition) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)


class _Batch:
    """Stands for aiokafka's batch builder. It is full after ``_BATCH_RECORDS_MAX`` records."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self._builder = self
        self._relative_offset = 0

    def append(self, at: int, timestamp_ms: int | None, key: Any, value: Any, headers: Any) -> Any:
        if len(self.records) >= _BATCH_RECORDS_MAX:
            return None
        self.records.append(Outgoing(key, value, headers))
        return at

    def record_count(self) -> int:
        return len(self.records)

    def close(self) -> None:
        """Nothing to close."""


class Producer(Publisher):
    """The real publisher. Each of its batches is a simulated request."""

    def __init__(self, lease: Lease, process: Process) -> None:
        super().__init__(lease, _PUBLISH_TIMEOUT_S, CHANGELOG)
        self._process = process

    async def _producers(self) -> Any:
        producer = SimpleNamespace(create_batch=_Batch, send_batch=self._send_batch)
        return SimpleNamespace(quick=producer, bulk=producer)

    async def _send_batch(self, batch: _Batch, topic: str, partition: int) -> Any:
        process = self._process

        def append(reply: Reply) -> None:
            process.world.append(process, topic, partition, batch.records, reply)

        return process.call(f"append {topic} {partition} ({len(batch.records)})", append, lane=(topic, partition))
