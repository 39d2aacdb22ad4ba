"""Process: one simulated worker process.

Its assignment, pipeline, commits and lease are real. Around them it does, task by task, what
:mod:`stream.service.worker`, Faust and aiokafka do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError
from faust.types import TP

from stream.assignment import Assignment
from stream.checkpoint.lease import MembershipLease
from stream.checkpoint.pending_reviews import Reviews
from stream.errors import ScoringError
from stream.kafka.fetches import OneEventPerFetch, Records
from stream.pipeline import Pipeline, Stages, Topics
from tests.simulation.broker import ALERTS, CHANGELOG, DLQ, EVENTS, SCORES
from tests.simulation.client import Consumer, Producer
from tests.simulation.disk import Disk
from tests.simulation.loop import ProcessLoop
from tests.simulation.member import NAP_S, SESSION_S, Member
from tests.simulation.model import HashedDecider, HashedModel, HashedSentiment
from tests.simulation.network import WITHIN
from tests.simulation.oracle import decoder

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["REST_S", "SESSION_S", "Process"]

_CHECKPOINT_S: Final = 1.0
_SWEEP_S: Final = 3.0
_REFRESH_S: Final = 0.5
#: This is longer than a sweep, the scores that follow from it, and their checkpoint take.
REST_S: Final = _SWEEP_S + 2 * _CHECKPOINT_S
_FETCHES_WAITING_MAX: Final = 4
_REVIEWS_PENDING_MAX: Final = 3
_USERS_MAX: Final = 4


class Process(Member):
    """A worker process. It runs while the scheduler steps its ``loop``, until it is no longer ``alive``."""

    def __init__(self, world: World, name: str, disk: Disk, instance: str) -> None:
        super().__init__(world, name, instance)
        self.loop = ProcessLoop(world.clock, slow=world.network.slow)
        self.alive, self.paused, self.stopping = True, False, False
        #: The error that ended it; None while it runs and after an orderly stop.
        self.error: BaseException | None = None
        self.store = disk
        self.lease = MembershipLease(world.clock, SESSION_S)
        self.consumer = Consumer(self)
        self.reviews = Reviews(HashedSentiment(), _REVIEWS_PENDING_MAX, world.metrics, world.clock)
        stages = Stages(
            decoder(),
            self.reviews,
            HashedModel(),  # type: ignore[arg-type]
            HashedDecider(),  # type: ignore[arg-type]
        )
        self.pipeline = Pipeline(
            stages,
            sink=Producer(self.lease, self),
            topics=Topics(EVENTS, CHANGELOG, SCORES, ALERTS, DLQ),
            metrics=world.metrics,
            clock=world.clock,
        )
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._fetches: asyncio.Queue[tuple[list[Records], int]] = asyncio.Queue(_FETCHES_WAITING_MAX)
        self._scheduler = OneEventPerFetch()
        self.assignment = Assignment(
            pipeline=self.pipeline,
            store=self.store,
            acknowledge=lambda number, position: self.consumer.acknowledge(TP(EVENTS, number), position),
            lease=self.lease,
            metrics=world.metrics,
            clock=world.clock,
            refresh_interval_s=_REFRESH_S,
        )
        world.sabotage(self)
        self.loop.create_task(self._run())

    # -- life -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        membership = self.loop.create_task(self._guard(self._belong))
        tasks = [self.loop.create_task(self._guard(job)) for job in self._jobs()]
        try:
            await self._ended
        except Exception as error:
            self.error = error
        membership.cancel()
        if self.error is not None:
            self.assignment.revoke()
            _cancel(tasks)
        await self._leave()
        _cancel(tasks)
        self.alive = False

    @property
    def at_rest(self) -> bool:
        """Whether everything that was taken in is scored and durable."""
        partitions = self.assignment.partitions.values()
        return not any(len(p.queue) or p.has_news or len(p.state.unscored()) for p in partitions)

    def stop(self) -> None:
        """End in good order, as after SIGTERM."""
        self.stopping = True
        self.loop.call_soon(lambda: self._ended.done() or self._ended.set_result(None))

    def _jobs(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        jobs = [self._fetch_forever, self._ingest_forever, self._checkpoint_forever, self._sweep_forever]
        return [*jobs, self._score_forever, self._score_forever, self._review_forever, self._heartbeat, self._recover]

    async def _guard(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await job()
        except Exception as error:
            if not self._ended.done():
                self._ended.set_exception(error)

    async def finish(self) -> None:
        """Drain, unless a failure ends the process: then nothing more may be acknowledged."""
        if not (self._ended.done() and self._ended.exception()):
            await self.assignment.drain()

    # -- jobs: as in stream.service.loops ------------------------------------------------------------------------------

    async def _fetch_forever(self) -> None:
        while True:
            await asyncio.sleep(NAP_S)
            for number in self.numbers:
                at = self.consumer.fetch_at.get(number, 0)
                # A real broker lets a fetch wait until there is something to read. Such waits are left out here.
                if number in self.consumer.active and at < self.world.broker.end(EVENTS, number):
                    await self._fetch(number, at)

    async def _fetch(self, number: int, at: int) -> None:
        positions = self.consumer.fetch_at
        try:
            records = await self._read(EVENTS, number, at, self.world.fetch_records_max)
        except KafkaError:
            return
        # aiokafka drops an answer that belongs to another assignment or to another position of the partition.
        if not records or self.consumer.fetch_at is not positions or positions.get(number) != at:
            return
        positions[number] = records[-1].offset + 1
        for _, fetched in self._scheduler.iterate({TP(EVENTS, number): records}):
            await self._fetches.put((fetched.value, self.world.broker.end(EVENTS, number)))

    async def _ingest_forever(self) -> None:
        while True:
            fetch, highwater = await self._fetches.get()
            # A fetch may wait on its way through Faust's conductor and streams.
            if self.world.rng.random() < 0.3:
                await self.call("stream", lambda reply: reply(None, None), WITHIN)
            await self.reviews.room(lambda: self.assignment.partitions.values())
            for records in fetch:
                self.assignment.take_in(records.tp.partition, records, highwater)

    async def _checkpoint_forever(self) -> None:
        while True:
            await asyncio.sleep(_CHECKPOINT_S)
            await self.assignment.checkpoint()
            await self.consumer.commit()

    async def _score_forever(self) -> None:
        while True:
            if not await self._tried(self.assignment.score(_USERS_MAX)):
                await asyncio.sleep(2 * NAP_S)

    async def _review_forever(self) -> None:
        while True:
            partitions = list(self.assignment.partitions.values())
            if self.assignment.idle or not await self._tried(self.reviews.score(partitions)):
                await asyncio.sleep(2 * NAP_S)

    async def _tried(self, scoring: Awaitable[int]) -> int:
        try:
            return await scoring
        except ScoringError:
            await asyncio.sleep(NAP_S)
            return 0

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            for partition in self.assignment.partitions.values():
                event_now = partition.event_now(self.world.clock.time())
                partition.queue_silent(event_now, self.pipeline.idle_stage_max, self.world.clock.monotonic())


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
