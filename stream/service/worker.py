"""Runtime: the pipeline on Faust, from its start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiokafka.errors import KafkaError
from faust.types import TP

from stream.assignment import Assignment
from stream.checkpoint.lease import MembershipLease
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews, SentimentModel
from stream.checkpoint.position import Position
from stream.clock import Clock
from stream.errors import ValuestreamError
from stream.kafka.rights import named_refusal
from stream.kafka.topics import worker_rights
from stream.metrics import Metrics
from stream.score.scorer import Scorer
from stream.service import health as health_checks
from stream.service.build import build_pipeline, build_publisher, build_source
from stream.service.garbage_collection import spare_nothing, spare_the_living
from stream.service.loops import Loops
from stream.service.recovery import check_recovered, check_source
from stream.service.watchdog import Watchdog
from stream.settings import Settings

__all__ = ["Worker"]

logger = logging.getLogger(__name__)
#: Of the time that an end may take, what closing may; the rest is for the process.
_CLOSE_SHARE: Final = 0.8


class Worker:
    """One worker process, made inside its event loop. ``run`` returns after a stop and raises what made it fail."""

    def __init__(
        self,
        settings: Settings,
        scorer: Scorer,
        partitions: int,
        clock: Clock,
        sentiment: SentimentModel | None = None,
    ) -> None:
        self._settings, self._scorer, self._clock = settings, scorer, clock
        self.metrics = Metrics()
        self._reviews = Reviews(sentiment, settings.reviews_pending_max, self.metrics, clock)
        self.health = health_checks.Health(clock, stall_timeout_s=settings.stall_timeout_s)
        self._lease = MembershipLease(clock, settings.session_timeout_s)
        self._publisher = build_publisher(settings, self._lease)
        self._source = build_source(settings, partitions)
        pipeline = build_pipeline(settings, scorer, self._publisher, self.metrics, clock, self._reviews)
        self._assignment = Assignment(
            pipeline,
            self._source.store,
            self._acknowledge,
            self._lease,
            self.metrics,
            clock,
            refresh_interval_s=settings.refresh_interval_s,
        )
        self._jobs = Loops(
            settings,
            self._source,
            pipeline,
            self._assignment,
            self._reviews,
            self._lease,
            self.metrics,
            self.health,
            clock,
            self._fail,
        )
        self._loop = asyncio.get_running_loop()
        #: Done when the worker is to end: with a result after ``stop``, with the error after a failure.
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._resuming = asyncio.Lock()
        self._watchdog = Watchdog(self.health, self._stuck, grace_s=settings.stop_timeout_s)

    # -- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until :meth:`stop` is called or something fails."""
        self.metrics.set_model(
            self._scorer.manifest.name, self._scorer.manifest.version, self._scorer.sha256, self._scorer.provider
        )
        self.health.started()
        self._watchdog.start()
        server = await health_checks.serve(
            self._settings.http_host, self._settings.http_port, self.health, self.metrics
        )
        logger.info("metrics and health on http://%s:%d", self._settings.http_host, server.port)
        await self._publisher.start()
        self._subscribe()
        app = self._source.app
        app.finalize()
        jobs = [app.start, *self._jobs.coroutine_functions(), self._source.crashed]
        tasks = [asyncio.create_task(self._guard(job)) for job in jobs]
        try:
            await self._ended
        except BaseException as error:
            # Named beside the end, which may hang until it is forced and then says nothing more.
            rights = worker_rights(self._settings)
            naming = self._loop.run_in_executor(None, named_refusal, self._settings, error, rights)
            # What made the worker fail is not kept waiting by a broker that does not answer.
            with contextlib.suppress(TimeoutError):
                await self._abandon(tasks, server)
            if (refusal := await naming) is not None:
                raise refusal from error
            raise
        try:
            await self._close(tasks, server)
        except TimeoutError as error:
            raise ValuestreamError(
                f"the end took longer than {self._settings.stop_timeout_s:.0f} s; what was not committed will be"
                " replayed; look at the brokers, or raise --stop-timeout-s"
            ) from error

    async def _close(self, tasks: list[asyncio.Task[None]], server: health_checks.RunningServer) -> None:
        """Make everything taken in durable and end; TimeoutError where that takes too long."""
        async with asyncio.timeout(_CLOSE_SHARE * self._settings.stop_timeout_s):
            await self._source.app.stop()
            await _cancelled(tasks)
            await self._publisher.stop()
            await server.close()

    async def _abandon(self, tasks: list[asyncio.Task[None]], server: health_checks.RunningServer) -> None:
        """End as we are; what is under way has ended before the group gives our partitions to others."""
        async with asyncio.timeout(_CLOSE_SHARE * self._settings.stop_timeout_s):
            self._assignment.revoke()
            await _cancelled(tasks)
            await self._publisher.stop()
            await self._source.app.stop()
            await server.close()

    def stop(self) -> None:
        """Ask for an orderly stop: everything taken in becomes durable and committed first."""
        self._watchdog.ending()
        if not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self._watchdog.ending()
        if not self._ended.done():
            # Said at once, because an end that hangs is forced and would leave no reason.
            worded = isinstance(error, (ValuestreamError, KafkaError))
            logger.error("this worker ends: %s", error if worded else type(error).__name__)
            self._ended.set_exception(error)

    def _stuck(self, reason: str) -> None:
        """End with this reason; called from the watchdog's thread."""
        error = ValuestreamError(f"this worker is stuck: {reason}; look at the brokers, and start it again")
        self._loop.call_soon_threadsafe(self._fail, error)

    async def _guard(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a job for ever; an error in it ends the worker, as half a worker is worse than none."""
        try:
            await job()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)

    # -- Faust ----------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        app, source = self._source.app, self._source
        source.consumer.drain, source.consumer.lease = self._drain, self._lease
        app.agent(source.events, name="ingest", concurrency=1)(self._ingest)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        source.users.on_recover(self._on_recovered)

    async def _ingest(self, fetches: Any) -> None:
        async for fetch in fetches.noack().events():
            try:
                await self._reviews.room(lambda: self._partitions)
                for records in fetch.value:
                    self._assignment.take_in(records.tp.partition, records, self._source.consumer.highwater(records.tp))
                self._jobs.taken_in()
            except BaseException as error:
                self._fail(error)
                raise
            await asyncio.sleep(0)

    @property
    def _partitions(self) -> list[Partition]:
        return list(self._assignment.partitions.values())

    def _acknowledge(self, number: int, position: Position) -> None:
        self._source.consumer.acknowledge(TP(self._settings.events_topic, number), position)

    async def _on_recovered(self) -> None:
        """Faust has brought the table up to date: build the hot state of our partitions from it."""
        try:
            async with self._resuming:
                await self._resume_partitions()
        except BaseException as error:
            self._fail(error)
            raise

    async def _resume_partitions(self) -> None:
        consumer = self._source.consumer
        if not consumer.owned:
            return  # Revoked again already; Faust calls once more for the next assignment.
        check_recovered(self._source)
        tps = {tp for tp in consumer.assignment() if tp.topic == self._settings.events_topic}
        if not await self._assignment.resume(lambda: consumer.seeks, self._positions(tps)):
            return
        await check_source(self._source, self._settings.events_topic, self._assignment)
        partitions = self._partitions
        self._jobs.recovered()
        self.metrics.rebalances.inc()
        self.metrics.partitions_assigned.set(len(partitions))
        self.health.assigned(len(partitions))
        self.health.recovered(True)
        spare_the_living()
        users = sum(len(p.state) for p in partitions)
        logger.info("ready", extra={"partitions": len(partitions), "state_users": users})

    async def _positions(self, tps: set[TP]) -> dict[int, Position]:
        return {tp.partition: at for tp, at in (await self._source.consumer.resume_positions(tps)).items()}

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self.health.recovered(False)
        self._jobs.recovering()
        self.metrics.partitions_assigned.set(0)
        if self._partitions:
            spare_nothing()
        for partition in self._partitions:
            self.metrics.forget_partition(partition.number)
        self._assignment.revoke()

    async def _drain(self) -> None:
        """Make everything taken in durable; called while the partitions are still ours."""
        if self._ended.done() and self._ended.exception():
            return  # Nothing more may be acknowledged: what is not durable will be replayed.
        try:
            await self._assignment.drain()
        except Exception as error:
            self._fail(error)
            raise


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
