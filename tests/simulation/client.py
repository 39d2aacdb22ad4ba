"""The clients of one simulated process: the real commits and the real publisher, on requests of the network."""

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

#: Records in one produce request: the users of a checkpoint go out in more than one.
_BATCH_RECORDS_MAX = 2
_PUBLISH_TIMEOUT_S = 20.0


class Consumer(PositionConsumer):
    """Which positions are committed, and when, is decided by the real consumer; Faust and aiokafka are not there."""

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
        #: What the real consumer asks of aiokafka's.
        self._coordinator: Any = SimpleNamespace(fetch_committed_offsets=self._fetch_committed)

    def assignment(self) -> set[TP]:
        return {TP(EVENTS, number) for number in self._process.numbers}

    async def commit(self, *_: Any, **__: Any) -> bool:
        """As Faust's: one commit at a time, and who finds another under way leaves it at that."""
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
        for tp, at in self._resumed.items():
            if tp in self.assignment():
                await self.seek(tp, at.offset)

    def forget(self) -> None:
        """What the real consumer does when its partitions were revoked."""
        self._positions.clear()
        self._committed.clear()
        self.fetch_at, self.active = {}, set()

    async def _call(self, method: Any, *args: Any) -> Any:
        if method == self.commit:
            method = self._commit
        return await method(*args)

    async def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        process = self._process
        said = {tp.partition: (at.offset, at.metadata) for tp, at in offsets.items()}
        member, generation = process.member, process.generation
        await process.call(
            f"commit {' '.join(f'{n}:{o}' for n, (o, _) in said.items())}",
            lambda reply: process.world.commit(process, member, generation, said, reply),
        )

    async def _fetch_committed(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        group = self._process.world.group
        found = await self._process.call("fetch committed", lambda reply: reply(dict(group.committed), None))
        return {tp: OffsetAndMetadata(*found.get(tp.partition, (-1, ""))) for tp in tps}

    async def _earliest(self, *tps: TopicPartition) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)


class _Batch:
    """aiokafka's batch builder: it is full after so many records."""

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
    """The real publisher; its batches are requests."""

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
