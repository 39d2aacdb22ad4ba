"""Publisher, without a broker: nothing is sent without the lease, and nothing waits behind a checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.memory_records import MemoryRecords

from stream.checkpoint.changelog import records_of
from stream.checkpoint.journal_blocks import Users
from stream.errors import LeaseError
from stream.kafka.publisher import Publisher
from stream.outgoing import Outgoing


class Client:
    """A client of one broker. It keeps the requests that reached the broker, and connecting may take time."""

    def __init__(self) -> None:
        self.received: list[object] = []
        self.connect: Callable[[], None] = lambda: None

    async def ready(self, _node: int) -> bool:
        self.connect()
        return True

    async def send(self, _node: int, request: object) -> None:
        self.received.append(request)


class OneAtATime:
    """A producer with one request in flight: each acknowledgement waits for those before it.

    A request for the changelog is never acknowledged.
    """

    def __init__(self, **_: Any) -> None:
        self.client = Client()
        self.stopped = False
        self._last: asyncio.Future[Any] | None = None

    async def start(self) -> None:
        """Connect, which takes some turns of the loop."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def stop(self) -> None:
        self.stopped = True

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1_000_000, 0)

    async def send_batch(self, _batch: BatchBuilder, topic: str, **_: int) -> asyncio.Future[Any]:
        self._last = asyncio.ensure_future(self._acknowledged(self._last, topic))
        return self._last

    async def _acknowledged(self, before: asyncio.Future[Any] | None, topic: str) -> SimpleNamespace:
        if before is not None:
            await before
        if topic == "changelog":
            await asyncio.Event().wait()
        return SimpleNamespace(offset=0)


@dataclass
class Held:
    """A lease that the test sets."""

    held: bool = True
    term: int = 0

    def end_term(self) -> None:
        self.term += 1


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> list[OneAtATime]:
    """All producers that a publisher makes from now on."""
    made: list[OneAtATime] = []

    def make(**_: Any) -> OneAtATime:
        made.append(OneAtATime())
        return made[-1]

    monkeypatch.setattr("stream.kafka.publisher.AIOKafkaProducer", make)
    monkeypatch.setattr("stream.kafka.publisher._NAP_S", 0.0)
    return made


SCORE = [Outgoing(b"u", b"score")]
PRODUCE = ProduceRequest(transactional_id=None, required_acks=-1, timeout=1_000, topics=[])


async def test_score_does_not_wait_behind_a_checkpoint(producers: list[OneAtATime]) -> None:
    publisher = Publisher(Held(), 5.0, "changelog")
    checkpoint = asyncio.ensure_future(publisher.send("changelog", 0, [Outgoing(b"u", b"state")]))
    await asyncio.sleep(0)
    assert await publisher.send("scores", 0, SCORE) == 0
    assert not checkpoint.done()
    checkpoint.cancel()


async def test_lease_that_ends_while_the_client_connects_holds_the_request_back(producers: list[OneAtATime]) -> None:
    lease = Held()
    await Publisher(lease, 5.0, "changelog").start()
    client, held = producers[0].client, iter([False, False, True])
    client.connect = lambda: setattr(lease, "held", next(held))
    sending = asyncio.create_task(client.send(1, PRODUCE))
    await asyncio.sleep(0)
    assert client.received == []
    await sending
    assert client.received == [PRODUCE]
    assert next(held, None) is None


async def test_request_of_an_ended_term_is_never_sent_even_if_the_lease_is_held_again(
    producers: list[OneAtATime],
) -> None:
    lease = Held()
    await Publisher(lease, 5.0, "changelog").start()
    client = producers[0].client
    client.connect = lease.end_term
    for _ in range(2):  # The second waited in the producer and becomes a request after the first failed.
        with pytest.raises(ProducerFenced):
            await client.send(1, PRODUCE)
    assert client.received == []


async def test_request_that_writes_nothing_needs_no_lease(producers: list[OneAtATime]) -> None:
    await Publisher(Held(held=False), 5.0, "changelog").start()
    await producers[0].client.send(1, "metadata")
    assert producers[0].client.received == ["metadata"]


async def test_each_term_has_producers_of_its_own(producers: list[OneAtATime]) -> None:
    lease = Held()
    publisher = Publisher(lease, 5.0, "changelog")
    await publisher.start()
    for term in (1, 2):
        lease.end_term()
        assert [await publisher.send("scores", 0, SCORE) for _ in range(2)] == [0, 0]
        assert len(producers) == 2 * (term + 1)
    await publisher.stop()
    assert all(producer.stopped for producer in producers)


async def test_send_that_waits_for_a_producer_as_the_term_ends_is_refused(producers: list[OneAtATime]) -> None:
    lease = Held()
    publisher = Publisher(lease, 5.0, "changelog")
    other = asyncio.create_task(publisher.start())
    await asyncio.sleep(0)
    sending = asyncio.create_task(publisher.send("scores", 0, SCORE))
    await asyncio.sleep(0)
    lease.end_term()
    await other
    with pytest.raises(LeaseError):
        await sending


async def test_both_producers_are_stopped_if_one_cannot_connect(
    producers: list[OneAtATime], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(producer: OneAtATime) -> None:
        if producer is producers[1]:
            raise KafkaConnectionError("no broker")

    monkeypatch.setattr(OneAtATime, "start", start)
    publisher = Publisher(Held(), 5.0, "changelog")
    with pytest.raises(KafkaConnectionError):
        await publisher.start()
    assert [producer.stopped for producer in producers] == [True, True]
    assert await publisher.send("scores", 0, SCORE) == 0


class Kept(OneAtATime):
    """A producer that keeps the records of its batches and acknowledges each batch at the next offset."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.batches: list[list[Any]] = []

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(2_000, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, **_: int) -> asyncio.Future[Any]:
        first = sum(map(len, self.batches))
        records = MemoryRecords(bytes(batch._build()))
        self.batches += [[*records.next_batch()]]
        acknowledged: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        acknowledged.set_result(SimpleNamespace(offset=first))
        return acknowledged


@pytest.fixture
def kept(producers: list[OneAtATime], monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """All producers that a publisher makes from now on."""
    made: list[Kept] = []

    def make(**_: Any) -> Kept:
        made.append(Kept())
        return made[-1]

    monkeypatch.setattr("stream.kafka.publisher.AIOKafkaProducer", make)
    return made


async def test_batches_hold_records_of_any_size_in_order(kept: list[Kept]) -> None:
    sizes = [0, 1, 700, 1_500, 5_000, 1_999, 10, 10, 3_000, 600, 600, 600, 600]
    sent = [
        Outgoing(b"k%d" % i, bytes(size) if size else None, [("a", b"1"), ("b", None)] if i % 2 else (), 1_000 + i)
        for i, size in enumerate(sizes)
    ]
    publisher = Publisher(Held(), 5.0, "changelog")
    assert await publisher.send("scores", 0, sent) == len(sent) - 1
    found = [record for batch in kept[0].batches for record in batch]
    assert [(r.key, r.value, list(r.headers), r.timestamp) for r in found] == [(*s[:2], list(s[2]), s[3]) for s in sent]
    assert [r.offset for batch in kept[0].batches for r in batch] == [i for b in kept[0].batches for i in range(len(b))]
    assert len(kept[0].batches) > 5


async def test_users_are_sent_with_their_values_and_an_erased_one_as_a_tombstone(kept: list[Kept]) -> None:
    publisher = Publisher(Held(), 5.0, "changelog")
    users = Users.without_rows([b"ann", b"bob"], [b"value", None])
    before_ms = time.time() * 1000
    assert await publisher.send("changelog", 0, records_of(users)) == 1
    (batch,) = kept[1].batches
    assert [(r.key, r.value, list(r.headers)) for r in batch] == [(b"ann", b"value", []), (b"bob", None, [])]
    assert all(before_ms - 1 <= r.timestamp <= time.time() * 1000 for r in batch)


async def test_no_batch_is_sent_without_records(kept: list[Kept]) -> None:
    assert await Publisher(Held(), 5.0, "changelog").send("scores", 0, []) is None
    assert not kept[0].batches
