"""Sends dead letters, as the events that they were, back to their topics at a bounded pace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from stream.clock import Clock, Stop
from stream.commands.dlq.letters import Letter
from stream.commands.dlq.read import Place
from stream.commands.dlq.route import Event, Router
from stream.errors import ValuestreamError
from stream.kafka.client_types import AioKafkaError, AIOKafkaProducer
from stream.kafka.clients import aiokafka_config
from stream.kafka.sender import Progress
from stream.settings import Settings

__all__ = ["Pace", "Replayed", "replay_letters"]

#: A longer wait is split into parts, so that a stop is noticed.
_SLEEP_MAX_S: Final = 0.2
_DELIVERY_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 5.0
_REQUEST_BYTES: Final = 8 * 1024 * 1024


class Pace(NamedTuple):
    """How many events a second to send, and how many at most (None: all)."""

    events_per_s: float
    limit: int | None = None


@dataclass(slots=True)
class Replayed:
    """What became of a replay."""

    #: (topic, partition) → events acknowledged.
    sent: Counter[tuple[str, int]] = field(default_factory=Counter)
    #: Reason to leave dead letters → how many were left for it.
    left: Counter[str] = field(default_factory=Counter)
    #: How many of the sent events were cut, and so were read whole from their source topic.
    read_whole: int = 0
    #: Where to go on: at the refused dead letter, or behind the last one that was sent. None if nothing was sent.
    following: Place | None = None
    #: Why the dead letter at ``following`` was not acknowledged, if that ended the replay.
    refused: str | None = None

    @property
    def total(self) -> int:
        """Events acknowledged."""
        return self.sent.total()


async def replay_letters(
    settings: Settings,
    letters: Iterable[Letter],
    router: Router,
    pace: Pace,
    *,
    progress: Progress,
    clock: Clock,
    stop: Stop,
    dry_run: bool,
) -> Replayed:
    """Send dead letters in order until they end, the limit is reached, one is refused, or ``stop`` is set.

    Raises ValuestreamError if no producer can be started.
    """
    done = Replayed()
    events = islice(_sendable(letters, router, done), pace.limit)
    if dry_run:
        for event in events:
            _note(done, event)
        return done
    # Routing the first one checks our rights, and its error names the topic. The error of a producer would not.
    first = list(islice(events, 1))
    async with _producer(settings) as producer:
        sending = _Sending(producer, done, pace, progress, clock, stop)
        await sending.send_all(chain(first, events))
    return done


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[Any]:
    """A producer. It compresses, because a topic may take a large event only if it is compressed."""
    producer = AIOKafkaProducer(
        **aiokafka_config(settings),
        acks="all",
        enable_idempotence=True,
        compression_type="gzip",
        max_request_size=_REQUEST_BYTES,
        request_timeout_ms=int(_DELIVERY_TIMEOUT_S * 1000),
    )
    try:
        try:
            await producer.start()
        except AioKafkaError as error:
            raise ValuestreamError(
                f"no producer could be started ({error!r}), expected the right to write;"
                " check the broker and our rights"
            ) from error
        yield producer
    finally:
        # If the broker is gone, stop() would wait for ever to send what was not acknowledged.
        with suppress(TimeoutError):
            await asyncio.wait_for(producer.stop(), _STOP_TIMEOUT_S)


def _sendable(letters: Iterable[Letter], router: Router, done: Replayed) -> Iterator[Event]:
    """Give the events to send, and count the dead letters that are left."""
    for letter in letters:
        routed = router.route(letter)
        if isinstance(routed, Event):
            yield routed
        else:
            done.left[routed] += 1


@dataclass(frozen=True, slots=True)
class _Sending:
    """Sends events one after the other, and notes in ``done`` what became of each."""

    producer: Any
    done: Replayed
    pace: Pace
    progress: Progress
    clock: Clock
    stop: Stop

    async def send_all(self, events: Iterator[Event]) -> None:
        """Send each event when it is due and the one before is acknowledged.

        So exactly the dead letters before ``done.following`` are sent or left, wherever the replay ends. Reading blocks
        the event loop, which does no harm, because nothing is in flight then.
        """
        began = self.clock.monotonic()
        for event in events:
            self._wait_until(began + self.done.total / self.pace.events_per_s)
            if self.stop.is_set() or not await self._send(event):
                return
            _note(self.done, event)
            self.progress(self.done.total, self.clock.monotonic() - began, event.letter.time_ms)

    def _wait_until(self, due: float) -> None:
        while not self.stop.is_set() and (delay := due - self.clock.monotonic()) > 0:
            self.stop.wait(min(delay, _SLEEP_MAX_S))

    async def _send(self, event: Event) -> bool:
        """Whether the broker has acknowledged the event. If it has not, ``done`` says why."""
        try:
            # The producer itself would try for ever: an idempotent one does not know what became of its batch.
            async with asyncio.timeout(_DELIVERY_TIMEOUT_S):
                await self.producer.send_and_wait(
                    event.topic, event.value, event.key, event.partition, headers=event.headers
                )
        except (AioKafkaError, TimeoutError) as error:
            self.done.following = Place(event.letter.partition, event.letter.offset)
            self.done.refused = " ".join(str(error).split()) or f"silence for {_DELIVERY_TIMEOUT_S:.0f} s"
            return False
        return True


def _note(done: Replayed, event: Event) -> None:
    done.sent[event.topic, event.partition] += 1
    done.read_whole += event.letter.cut_from is not None
    done.following = Place(event.letter.partition, event.letter.offset + 1)
