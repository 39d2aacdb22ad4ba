"""Worker: runs the pipeline on Faust, from its start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from stream.checkpoint.position import Position
from stream.errors import ValuestreamError
from stream.kafka.client_types import TP, AioKafkaError
from stream.kafka.rights import named_refusal
from stream.kafka.topics import worker_rights
from stream.score.scorer import Scorer
from stream.service.build import WorkerParts
from stream.service.garbage_collection import spare_nothing, spare_the_living
from stream.service.health import RunningServer, serve
from stream.service.loops import Loops
from stream.service.recovery import check_recovered, check_source
from stream.service.watchdog import Watchdog

__all__ = ["Worker"]

logger = logging.getLogger(__name__)
#: The share of ``stop_timeout_s`` that closing may take. The rest is for the process to exit.
_CLOSE_SHARE: Final = 0.8


class Worker:
    """One worker process, made inside its event loop. ``run`` returns after a stop, and raises what made it fail."""

    def __init__(self, parts: WorkerParts, scorer: Scorer) -> None:
        self._parts, self._scorer = parts, scorer
        self._settings, self._source, self._assignment = parts.settings, parts.source, parts.assignment
        self._loops = Loops(parts, self._fail)
        self._loop = asyncio.get_running_loop()
        #: Done when the worker is to end: with a result after ``stop``, with the error after a failure.
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._resuming = asyncio.Lock()
        self._watchdog = Watchdog(parts.health, self._stuck, grace_s=parts.settings.stop_timeout_s)

    # -- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until :meth:`stop` is called or something fails."""
        tasks, server = await self._start()
        try:
            await self._ended
        except BaseException as error:
            await self._fall(error, tasks, server)
        try:
            await self._close(tasks, server)
        except TimeoutError as error:
            raise ValuestreamError(
                f"the end took longer than {self._settings.stop_timeout_s:.0f} s; what was not committed will be"
                " replayed; look at the brokers, or raise --stop-timeout-s"
            ) from error

    async def _start(self) -> tuple[list[asyncio.Task[None]], RunningServer]:
        metrics, health, manifest = self._parts.metrics, self._parts.health, self._scorer.manifest
        metrics.set_model(manifest.name, manifest.version, self._scorer.sha256, self._scorer.provider)
        health.started()
        self._watchdog.start()
        server = await serve(self._settings.http_host, self._settings.http_port, health, metrics)
        logger.info("metrics and health on http://%s:%d", self._settings.http_host, server.port)
        await self._parts.publisher.start()
        self._subscribe()
        app = self._source.app
        app.finalize()
        jobs = [app.start, *self._loops.coroutine_functions(), self._source.crashed]
        return [asyncio.create_task(self._guard(job)) for job in jobs], server

    async def _fall(self, error: BaseException, tasks: list[asyncio.Task[None]], server: RunningServer) -> None:
        """End after a failure, and raise it. If the broker refused us something, raise which right is missing."""
        # Looked up beside the end: an end that hangs is forced, and nothing could be said after it.
        naming = self._loop.run_in_executor(None, named_refusal, self._settings, error, worker_rights(self._settings))
        # A broker that does not answer must not keep the failure from being reported.
        with contextlib.suppress(TimeoutError):
            await self._abandon(tasks, server)
        if (refusal := await naming) is not None:
            raise refusal from error
        raise error

    async def _close(self, tasks: list[asyncio.Task[None]], server: RunningServer) -> None:
        """Make everything taken in durable and end. Raises TimeoutError if that takes too long."""
        async with asyncio.timeout(_CLOSE_SHARE * self._settings.stop_timeout_s):
            await self._source.app.stop()
            await _cancelled(tasks)
            await self._parts.publisher.stop()
            await server.close()

    async def _abandon(self, tasks: list[asyncio.Task[None]], server: RunningServer) -> None:
        """End without another checkpoint. Our sends have ended before the group gives our partitions to others."""
        async with asyncio.timeout(_CLOSE_SHARE * self._settings.stop_timeout_s):
            self._assignment.revoke()
            await _cancelled(tasks)
            await self._parts.publisher.stop()
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
            # Logged at once: an end that hangs is forced, and would leave no reason.
            worded = isinstance(error, (ValuestreamError, AioKafkaError))
            logger.error("this worker ends: %s", error if worded else type(error).__name__)
            self._ended.set_exception(error)

    def _stuck(self, reason: str) -> None:
        """End with this reason. The watchdog calls it from its own thread."""
        error = ValuestreamError(f"this worker is stuck: {reason}; look at the brokers, and start it again")
        self._loop.call_soon_threadsafe(self._fail, error)

    async def _guard(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a job for ever. An error in it ends the worker, as half a worker is worse than none."""
        try:
            await job()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)

    # -- Faust ----------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        app, source = self._source.app, self._source
        source.consumer.drain, source.consumer.lease = self._drain, self._parts.lease
        app.agent(source.events, name="ingest", concurrency=1)(self._ingest)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        source.users.on_recover(self._on_recovered)

    async def _ingest(self, fetches: Any) -> None:
        async for fetch in fetches.noack().events():
            try:
                await self._parts.reviews.room(lambda: self._parts.partitions)
                await self._parts.schema_wait.until_known(fetch.value, lambda: bool(self._parts.partitions))
                for records in fetch.value:
                    # The client knows the end only of a partition that is ours. We may have lost it while we waited.
                    if records.tp.partition in self._assignment.partitions:
                        highwater = self._source.consumer.highwater(records.tp)
                        self._assignment.take_in(records.tp.partition, records, highwater)
                self._loops.taken_in()
            except BaseException as error:
                self._fail(error)
                raise
            await asyncio.sleep(0)

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
            return  # Revoked again already. Faust calls once more for the next assignment.
        check_recovered(self._source)
        tps = {tp for tp in consumer.assignment() if tp.topic == self._settings.events_topic}
        if not await self._assignment.resume(lambda: consumer.seeks, self._positions(tps)):
            return
        await check_source(self._source, self._settings.events_topic, self._assignment)
        self._ready()

    async def _positions(self, tps: set[TP]) -> dict[int, Position]:
        return {tp.partition: at for tp, at in (await self._source.consumer.resume_positions(tps)).items()}

    def _ready(self) -> None:
        """Report that the partitions are recovered and served."""
        partitions, metrics, health = self._parts.partitions, self._parts.metrics, self._parts.health
        self._loops.recovery.end()
        metrics.rebalances.inc()
        metrics.partitions_assigned.set(len(partitions))
        health.assigned(len(partitions))
        health.recovered(True)
        spare_the_living()
        users = sum(len(p.state) for p in partitions)
        logger.info("ready", extra={"partitions": len(partitions), "state_users": users})

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._parts.health.recovered(False)
        self._loops.recovery.begin()
        self._parts.metrics.partitions_assigned.set(0)
        if self._parts.partitions:
            spare_nothing()
        for partition in self._parts.partitions:
            self._parts.metrics.forget_partition(partition.number)
        self._assignment.revoke()

    async def _drain(self) -> None:
        """Make everything taken in durable. It is called while the partitions are still ours."""
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
