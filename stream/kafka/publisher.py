"""Publisher: sends records to Kafka as whole batches, each to a known partition, and waits for every acknowledgement.

Changelog, scores and alerts have the partitions of the source, so one produce request carries a batch of users. Sending
each record by itself is slower (measured with 400-byte values: 674,000 against 72,000 records/s). Faust's own producer
does not hold back a commit when a delivery fails, and its ``flush()`` is no barrier (``docs/faust-faults.md``, 5, 6b
and 17).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, NodeNotReadyError, ProducerFenced
from aiokafka.protocol.produce import ProduceRequest

from stream.checkpoint.lease import Lease
from stream.errors import LeaseError, PublishError
from stream.outgoing import OutgoingLike

__all__ = ["Publisher"]

_BATCH_BYTES: Final = 900_000
_REQUEST_BYTES: Final = 8 * 1024 * 1024
#: How often a request that waits for the lease looks for it.
_NAP_S: Final = 0.05
#: What to do about a refusal. Errors that may pass, such as a missing topic or broker, are retried until time is up.
_RAISE: Final = "raise the topic's max.message.bytes (Kafka's default is enough)"
_GIVEN_UP: Final = "our partitions were given up before this was sent"
_LOOK: Final = "run `valuestream topics check` and look at the brokers"


class _Producers(NamedTuple):
    """The producers of one term. ``bulk`` sends the changelog, so that scores do not wait behind a checkpoint."""

    term: int
    quick: AIOKafkaProducer
    bulk: AIOKafkaProducer


class Publisher:
    """Sends record batches and waits for every acknowledgement, for at most ``timeout_s``.

    An idempotent producer retries until the broker is back, so without this bound a send could wait for ever. Each
    term of the lease has its own producers, because records that still wait in those of an earlier term must never be
    sent. See ``docs/decisions/0011-membership-lease.md``.
    """

    def __init__(self, lease: Lease, timeout_s: float, changelog_topic: str, **kafka: Any) -> None:
        self._lease, self._timeout_s, self._changelog_topic, self._kafka = lease, timeout_s, changelog_topic, kafka
        self._current: _Producers | None = None
        self._renewing = asyncio.Lock()
        #: Tasks that stop the producers of earlier terms.
        self._stopping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect."""
        await self._producers()

    async def stop(self) -> None:
        """Send the records that still wait, and disconnect."""
        if self._current is not None:
            self._retire(self._current)
        await asyncio.gather(*self._stopping)

    async def _producers(self) -> _Producers:
        """Return the producers of this term; make them if there are none. Raises ProducerFenced if the term ends."""
        term = self._lease.term
        async with self._renewing:
            if self._current is not None and self._current.term != term:
                self._retire(self._current)
                self._current = None
            if self._lease.term != term:
                raise ProducerFenced(_GIVEN_UP)
            if self._current is None:
                self._current = await _started(_Producers(term, self._producer(term), self._producer(term)))
            return self._current

    def _producer(self, term: int) -> AIOKafkaProducer:
        """Make a producer that sends a produce request only while the lease is held, and none after its term."""
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            max_batch_size=_BATCH_BYTES,
            max_request_size=_REQUEST_BYTES,
            **self._kafka,
        )
        client = producer.client
        send = client.send

        async def send_with_lease(node: int, request: Any, **kwargs: Any) -> Any:
            if isinstance(request, ProduceRequest):
                await self._wait_for_lease(client, node, term)
            return await send(node, request, **kwargs)

        client.send = send_with_lease
        return producer

    def _retire(self, producers: _Producers) -> None:
        stopping = asyncio.ensure_future(_stop(producers))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    async def _wait_for_lease(self, client: Any, node: int, term: int) -> None:
        """Return when the client is connected and the lease is held.

        The client connects first, so that the request goes to the socket right after the lease was checked. Raises
        ProducerFenced if the term has ended, because our partitions were given up.
        """
        while True:
            if not await client.ready(node):
                raise NodeNotReadyError(f"broker {node} cannot be connected")
            if self._lease.term != term:
                raise ProducerFenced(_GIVEN_UP)
            if self._lease.held:
                return
            await asyncio.sleep(_NAP_S)

    async def send(self, topic: str, partition: int, records: Iterable[OutgoingLike]) -> int | None:
        """Send records in order, and return the offset of the last one once all are acknowledged.

        Returns None if there were no records. Raises PublishError if a record is not acknowledged, and LeaseError if
        the partition may already belong to another worker. After an error the caller must not advance.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._deliver(topic, partition, records)
        except ProducerFenced as error:
            raise LeaseError(str(error)) from error
        except (KafkaError, TimeoutError) as error:
            cause = "every attempt failed" if isinstance(error, TimeoutError) else type(error).__name__
            next_step = _RAISE if isinstance(error, MessageSizeTooLargeError) else _LOOK
            raise PublishError(
                f"topic {topic} partition {partition} did not take our records ({cause}), expected an acknowledgement"
                f" within {self._timeout_s:.0f} s: {next_step}"
            ) from error

    async def _deliver(self, topic: str, partition: int, records: Iterable[OutgoingLike]) -> int | None:
        producers = await self._producers()
        producer = producers.bulk if topic == self._changelog_topic else producers.quick
        acks: list[asyncio.Future[Any]] = []
        rest, n_in_last_batch = iter(records), 0
        first = next(rest, None)
        while first is not None:
            batch = producer.create_batch()
            first = _fill(batch, chain((first,), rest))
            acks.append(await self._send(producer, batch, topic, partition))
            n_in_last_batch = batch.record_count()
        return int((await asyncio.gather(*acks))[-1].offset) + n_in_last_batch - 1 if acks else None

    async def _send(self, producer: Any, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        if not self._lease.held:
            raise LeaseError("found no membership lease, expected one before anything is sent; wait for a heartbeat")
        ack: asyncio.Future[Any] = await producer.send_batch(batch, topic, partition=partition)
        return ack


async def _started(producers: _Producers) -> _Producers:
    """Start both producers and return them. If one cannot start, both are stopped."""
    try:
        await asyncio.gather(producers.quick.start(), producers.bulk.start())
    except BaseException:
        await _stop(producers)
        raise
    return producers


async def _stop(producers: _Producers) -> None:
    await asyncio.gather(producers.quick.stop(), producers.bulk.stop())


def _fill(batch: Any, records: Iterator[OutgoingLike]) -> OutgoingLike | None:
    """Add records until the batch is full, and return the record that it refused. An empty batch takes any record.

    The batch's own ``append`` takes four times as long per record.
    """
    append, n, refused = batch._builder.append, 0, None
    for record in records:
        key, value, headers, timestamp_ms = record
        if append(n, timestamp_ms, key, value, list(headers)) is None:
            refused = record
            break
        n += 1
    batch._relative_offset = n
    batch.close()
    return refused
