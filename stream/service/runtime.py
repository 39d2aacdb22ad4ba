"""Runtime: the pipeline on Faust, with its timers, checkpoints and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiokafka.errors import KafkaError
from faust.types import TP

from stream.assignment import Assignment
from stream.decide import AlertRule, Decider
from stream.decode import Decoder, Money
from stream.errors import ContractError, ScoringError, ValuestreamError
from stream.explain import Explainer
from stream.lease import MembershipLease
from stream.partition import Partition, Position
from stream.pipeline import Pipeline, Topics
from stream.pseudonym import pseudonyms_of
from stream.publish import Publisher
from stream.reviews import Reviews, SentimentModel
from stream.score import Scorer
from stream.service import health as health_checks
from stream.service.clock import Clock
from stream.service.kafka import aiokafka_config, faust_credentials
from stream.service.metrics import Metrics
from stream.service.observe import observe
from stream.service.rights import named_refusal
from stream.service.settings import Settings
from stream.service.topics import changelog_topic, worker_rights
from stream.service.watchdog import Watchdog
from stream.source import build_app

__all__ = ["Worker"]

logger = logging.getLogger(__name__)
#: Scorers at once: while the batch of one is published, that of the other is in inference.
_SCORERS: Final = 2
#: How long a scorer that found nobody waits for news before it looks again: for users whose refresh interval is over.
_NAP_S: Final = 0.02
_RETRY_S: Final = 1.0
#: Of the time that an end may take, what closing may; the rest is for the process.
_CLOSE_SHARE: Final = 0.8
#: Behind a backlog each scorer rests this many times as long as it worked.
_REST_WHEN_BEHIND: Final = 4.0


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
        self._publisher = Publisher(self._lease, settings.stall_timeout_s, **aiokafka_config(settings))
        self._source = build_app(
            app_id=settings.app_id,
            brokers=settings.bootstrap_servers,
            events_topic=settings.events_topic,
            partitions=partitions,
            data_dir=settings.data_dir,
            fetch_records_max=settings.fetch_records_max,
            session_timeout_s=settings.session_timeout_s,
            instance_id=settings.instance_id,
            standby_replicas=settings.standby_replicas,
            credentials=faust_credentials(settings),
        )
        self._pipeline = self._build_pipeline()
        self._assignment = Assignment(
            self._pipeline,
            self._source.store,
            self._acknowledge,
            self._lease,
            self.metrics,
            clock,
            lateness_s=settings.lateness_s,
            refresh_interval_s=settings.refresh_interval_s,
        )
        #: Done when the worker is to end: with a result after ``stop``, with the error after a failure.
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        #: Set when events or reviews were taken in.
        self._news = asyncio.Event()
        self._resuming = asyncio.Lock()
        self._committed_at = self._recovering_since = clock.monotonic()
        self._watchdog = Watchdog(self.health, self._stuck, grace_s=settings.stop_timeout_s)

    def _build_pipeline(self) -> Pipeline:
        s, manifest = self._settings, self._scorer.manifest
        decoder = Decoder(
            s.envelope,
            Money(manifest.currency, s.fx_rates),
            bytes_max=s.event_bytes_max,
            future_skew_s=s.future_skew_s,
            pseudonyms=pseudonyms_of(s.pseudonym_key.get_secret_value(), s.pseudonym_key_id),
        )
        rule = AlertRule(s.alert_churn_high, s.alert_churn_clear, s.alert_cooldown_s)
        topics = Topics(changelog_topic(s), s.scores_topic, s.alerts_topic, s.dlq_topic)
        decider = Decider(manifest, self._scorer.sha256, rule)
        explainer = Explainer(self._scorer, users_max=s.explain_users_max) if s.explain_users_max else None
        return Pipeline(
            decoder, self._scorer, decider, self._publisher, topics, self.metrics, self._clock, self._reviews, explainer
        )

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
        tasks = [asyncio.create_task(self._guard(job)) for job in (app.start, *self._jobs())]
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

    def _jobs(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        timers = [self._checkpoint_forever, self._sweep_forever, self._observe_forever, self._check_group_forever]
        reviews = [self._review_forever] if self._reviews.has_model else []
        return [*timers, *[self._score_forever] * _SCORERS, *reviews, self._source.crashed]

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
                self._news.set()
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
        started, consumer = self._clock.monotonic(), self._source.consumer
        if not consumer.owned:
            return  # Revoked again already; Faust calls once more for the next assignment.
        self._check_recovered()
        tps = {tp for tp in consumer.assignment() if tp.topic == self._settings.events_topic}
        if not await self._assignment.resume(consumer.seeks, self._positions(tps)):
            return
        await self._check_source()
        partitions = self._partitions
        self.metrics.recovery_seconds.set(self._clock.monotonic() - started)
        self.metrics.rebalances.inc()
        self.metrics.partitions_assigned.set(len(partitions))
        self.health.assigned(len(partitions))
        self.health.recovered(True)
        users = sum(len(p.state) for p in partitions)
        logger.info("ready", extra={"partitions": len(partitions), "state_users": users})

    async def _positions(self, tps: set[TP]) -> dict[int, Position]:
        return {tp.partition: at for tp, at in (await self._source.consumer.resume_positions(tps)).items()}

    async def _check_source(self) -> None:
        """A topic that was made anew begins at offset 0 again: its events would be taken for replays, and be lost."""
        topic = self._settings.events_topic
        ends = await self._source.consumer.highwaters(*(TP(topic, p.number) for p in self._partitions))
        for partition in self._partitions:
            end = ends[TP(topic, partition.number)]
            seen = int(partition.state.users["applied_offset"][: len(partition.state)].max(initial=-1))
            if seen >= end:
                raise ContractError(
                    f"topic {topic} partition {partition.number} ends at offset {end}, but the state has seen offset"
                    f" {seen}; expected the topic that the state comes from; begin anew with another --app-id"
                )

    def _check_recovered(self) -> None:
        """Faust goes on after an error in recovery, with a partial table; we do not."""
        store = self._source.store
        if store.recovery_error is not None:
            raise store.recovery_error
        for tp, last in self._source.recovery.active_highwaters.items():
            have = store.persisted_offset(tp)
            if last >= 0 and (have is None or have < last):
                raise ContractError(
                    f"recovery of {tp.topic} partition {tp.partition} ended at offset {have}, expected {last}. "
                    "This is a bug."
                )

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self.health.recovered(False)
        self._recovering_since = self._clock.monotonic()
        self.metrics.partitions_assigned.set(0)
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

    # -- jobs -----------------------------------------------------------------------------------------------

    async def _checkpoint_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_interval_s)
            done = await self._assignment.checkpoint()
            if await self._source.consumer.commit():
                self.health.committed()
            if done and not self._source.consumer.uncommitted():
                self._committed_at = self._clock.monotonic()

    async def _score_forever(self) -> None:
        while True:
            started = self._clock.monotonic()
            if await self._score():
                await asyncio.sleep(self._rest_s(self._clock.monotonic() - started))
            else:
                await self._nap()

    async def _nap(self) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NAP_S):
                await self._news.wait()

    async def _score(self) -> int:
        try:
            return await self._assignment.score(self._settings.batch_users_max)
        except ScoringError as error:
            logger.error("scoring failed, trying again: %s", error)
            await asyncio.sleep(_RETRY_S)
            return 0

    async def _review_forever(self) -> None:
        while True:
            if self._assignment.idle or not await self._score_reviews():
                await self._nap()

    async def _score_reviews(self) -> int:
        try:
            return await self._reviews.score(self._partitions)
        except ScoringError as error:
            logger.error("sentiment failed, trying again: %s", error)
            await asyncio.sleep(_RETRY_S)
            return 0

    def _rest_s(self, busy_s: float) -> float:
        """Behind a backlog scoring gives way to ingestion: it rests in proportion to what it took."""
        behind = any(p.lag > self._settings.fetch_records_max for p in self._partitions)
        return _REST_WHEN_BEHIND * busy_s if behind else 0.0

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.idle_sweep_s)
            for partition in self._partitions:
                event_now = partition.event_now(self._clock.time())
                partition.queue_silent(event_now, self._pipeline.stage_max, self._clock.monotonic())
                await asyncio.sleep(0)

    async def _check_group_forever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._source.app.consumer.started:
                self._source.consumer.check_errors()

    async def _observe_forever(self) -> None:
        while True:
            self._observe()
            await asyncio.sleep(1.0)

    def _observe(self) -> None:
        now = oldest_fetch = self._clock.time()
        for partition in self._partitions:
            tp = TP(self._settings.events_topic, partition.number)
            highwater = self._source.consumer.highwater(tp)
            partition.highwater = highwater if highwater is not None else partition.highwater
            fetched_at = self._source.consumer.fetched_at(tp)
            oldest_fetch = min(oldest_fetch, now if fetched_at is None else fetched_at)
            partition.pass_gap(self._source.consumer.end_of_gap(tp, partition.next_offset))
        self.health.broker(fetch_age_s=now - oldest_fetch, heartbeat_age_s=self._lease.age_s)
        observe(self._partitions, self.metrics, self.health, self._clock)
        self.metrics.commit_age.set(self._clock.monotonic() - self._committed_at)
        self._watch_recovery()

    def _watch_recovery(self) -> None:
        """Recovery has a deadline, and past it a message that says which partition waits for which offset."""
        if not self._source.app.in_recovery:
            self.metrics.recovery_remaining.set(0)
            return
        waiting = self._source.recovery.active_stats()
        self.metrics.recovery_remaining.set(sum(s.remaining for s in waiting.values()))
        if self._clock.monotonic() - self._recovering_since > self._settings.recovery_deadline_s:
            partitions = ", ".join(
                f"partition {tp.partition} is at offset {s.offset} of {s.highwater}" for tp, s in waiting.items()
            )
            self._fail(
                ValuestreamError(
                    f"recovery took longer than {self._settings.recovery_deadline_s:.0f} s: {partitions}; "
                    "look at the changelog topic's brokers, or raise --recovery-deadline-s"
                )
            )


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
