"""Sends dead letters back to where they came from, as the events that they were, at a bounded pace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.clock import Clock, Stop
from stream.commands.dlq.letters import Letter
from stream.commands.dlq.read import Place
from stream.commands.dlq.route import Event, Router
from stream.errors import ValuestreamError
from stream.kafka.clients import aiokafka_config
from stream.kafka.sender import Progress
from stream.settings import Settings

__all__ = ["Pace", "Replayed", "replay_letters"]

#: Longer waits are taken in parts, so that a stop is noticed.
_SLEEP_MAX_S: Final = 0.2
_DELIVERY_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 5.0
_REQUEST_BYTES: Final = 8 * 1024 * 1024


class Pace(NamedTuple):
    """How fast to send, and how many at most (None: all)."""

    events_per_s: float
    limit: int | None = None


@dataclass(slots=True)
class Replayed:
    """What became of a replay."""

    #: (topic, partition) → events acknowledged.
    sent: Counter[tuple[str, int]] = field(default_factory=Counter)
    #: Why dead letters were left → how many.
    left: Counter[str] = field(default_factory=Counter)
    #: Of the sent ones, those whose whole event was read from its source topic.
    fetched: int = 0
    #: The first place that is still to be sent; None where nothing was.
    following: Place | None = None
    #: Why the one at ``following`` was not acknowledged, where that is the end.
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
    progress: Progress,
    clock: Clock,
    stop: Stop,
    *,
    dry_run: bool,
) -> Replayed:
    """Send dead letters in order until they end, the limit is reached, one is refused, or ``stop`` is set.

    Raises ValuestreamError where no broker answers.
    """
    done = Replayed()
    events = islice(_sendable(letters, router, done), pace.limit)
    if dry_run:
        for event in events:
            _note(done, event)
        return done
    # A producer asks for leave to write as well, and its error names nothing: so routing, which does, goes first.
    first = list(islice(events, 1))
    async with _producer(settings) as producer:
        await _send_all(producer, chain(first, events), done, pace, progress, clock, stop)
    return done


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[Any]:
    """A producer; it compresses, as a large event may be one that its topic only takes so."""
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
        except KafkaError as error:
            raise ValuestreamError(
                f"no producer could be started ({error!r}), expected leave to write; check the broker and our rights"
            ) from error
        yield producer
    finally:
        # Where the broker is gone, it would wait for ever to send what was not acknowledged.
        with suppress(TimeoutError):
            await asyncio.wait_for(producer.stop(), _STOP_TIMEOUT_S)


def _sendable(letters: Iterable[Letter], router: Router, done: Replayed) -> Iterator[Event]:
    for letter in letters:
        routed = router.route(letter)
        if isinstance(routed, Event):
            yield routed
        else:
            done.left[routed] += 1


async def _send_all(
    producer: Any, events: Iterator[Event], done: Replayed, pace: Pace, progress: Progress, clock: Clock, stop: Stop
) -> None:
    """Send one after the other, each when it is due and the one before is acknowledged.

    So what was sent is exactly what stands before ``done.following``, wherever it ends. Reading blocks the event loop,
    which does no harm: nothing is in flight then.
    """
    began = clock.monotonic()
    for event in events:
        due = began + done.total / pace.events_per_s
        while not stop.is_set() and (delay := due - clock.monotonic()) > 0:
            stop.wait(min(delay, _SLEEP_MAX_S))
        if stop.is_set():
            return
        try:
            # The producer itself would try for ever: an idempotent one does not know what became of its batch.
            async with asyncio.timeout(_DELIVERY_TIMEOUT_S):
                await producer.send_and_wait(
                    event.topic, event.value, event.key, event.partition, headers=event.headers
                )
        except (KafkaError, TimeoutError) as error:
            done.following = Place(event.letter.partition, event.letter.offset)
            done.refused = " ".join(str(error).split()) or f"silence for {_DELIVERY_TIMEOUT_S:.0f} s"
            return
        _note(done, event)
        progress(done.total, clock.monotonic() - began, event.letter.time_ms)


def _note(done: Replayed, event: Event) -> None:
    done.sent[event.topic, event.partition] += 1
    done.fetched += event.letter.cut_from is not None
    done.following = Place(event.letter.partition, event.letter.offset + 1)
