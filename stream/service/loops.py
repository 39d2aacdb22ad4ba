"""Loops: what a worker does again and again beside ingestion: checkpoint, score, sweep, observe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from faust.types import TP

from stream.assignment import Assignment
from stream.checkpoint.lease import MembershipLease
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews
from stream.clock import Clock
from stream.errors import ScoringError, ValuestreamError
from stream.kafka.app import Source
from stream.metrics import Metrics
from stream.pipeline import Pipeline
from stream.service.health import Health
from stream.service.observe import observe
from stream.settings import Settings

__all__ = ["Loops"]

logger = logging.getLogger(__name__)
#: Scorers at once: while the batch of one is published, that of the other is in inference.
_SCORERS: Final = 2
#: How long a scorer that found nobody waits for news before it looks again: for users whose refresh interval is over.
_NAP_S: Final = 0.02
_RETRY_S: Final = 1.0
#: Behind a backlog each scorer rests this many times as long as it worked.
_REST_WHEN_BEHIND: Final = 4.0


class Loops:
    """The endless loops of one worker. ``fail`` ends the worker with an error, unless it is ending already."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        pipeline: Pipeline,
        assignment: Assignment,
        reviews: Reviews,
        lease: MembershipLease,
        metrics: Metrics,
        health: Health,
        clock: Clock,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._settings, self._source, self._pipeline = settings, source, pipeline
        self._assignment, self._reviews, self._lease = assignment, reviews, lease
        self._metrics, self._health, self._clock = metrics, health, clock
        self._fail = fail
        #: Set when events or reviews were taken in.
        self._news = asyncio.Event()
        self._committed_at = self._recovering_since = clock.monotonic()
        # Counted when it is asked for: an old 0 would look as if all were scored.
        metrics.queue_depth.set_function(lambda: sum(len(p.queue) for p in self._partitions))

    def coroutine_functions(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What to run, each for ever; an error that one raises is to end the worker."""
        timers = [self._checkpoint_forever, self._sweep_forever, self._observe_forever, self._check_group_forever]
        reviews = [self._review_forever] if self._reviews.has_model else []
        return [*timers, *[self._score_forever] * _SCORERS, *reviews]

    def taken_in(self) -> None:
        """Events were taken in: who found nothing to score looks again at once."""
        self._news.set()

    def recovering(self) -> None:
        """A recovery begins: from now on it has its deadline."""
        self._recovering_since = self._clock.monotonic()

    def recovered(self) -> None:
        """The recovery that began last has ended."""
        self._metrics.recovery_seconds.set(self._clock.monotonic() - self._recovering_since)

    @property
    def _partitions(self) -> list[Partition]:
        return list(self._assignment.partitions.values())

    # -- durability -----------------------------------------------------------------------------------------

    async def _checkpoint_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_interval_s)
            done = await self._assignment.checkpoint()
            if await self._source.consumer.commit():
                self._health.committed()
            if done and not self._source.consumer.uncommitted():
                self._committed_at = self._clock.monotonic()

    # -- scoring --------------------------------------------------------------------------------------------

    async def _score_forever(self) -> None:
        while True:
            started = self._clock.monotonic()
            if await self._tried("scoring", self._assignment.score(self._settings.batch_users_max)):
                await asyncio.sleep(self._rest_s(self._clock.monotonic() - started))
            else:
                await self._nap()

    async def _review_forever(self) -> None:
        while True:
            if self._assignment.idle or not await self._tried("sentiment", self._reviews.score(self._partitions)):
                await self._nap()

    async def _tried(self, what: str, scoring: Awaitable[int]) -> int:
        """How many were scored: none where it failed and is to be tried again."""
        try:
            return await scoring
        except ScoringError as error:
            logger.error("%s failed, trying again: %s", what, error)
            await asyncio.sleep(_RETRY_S)
            return 0

    def _rest_s(self, busy_s: float) -> float:
        """Behind a backlog scoring gives way to ingestion: it rests in proportion to what it took."""
        behind = any(p.lag > self._settings.fetch_records_max for p in self._partitions)
        return _REST_WHEN_BEHIND * busy_s if behind else 0.0

    async def _nap(self) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NAP_S):
                await self._news.wait()

    async def _sweep_forever(self) -> None:
        """Queue the users whose silence has reached the next age."""
        while True:
            await asyncio.sleep(self._settings.idle_sweep_s)
            for partition in self._partitions:
                event_now = partition.event_now(self._clock.time())
                partition.queue_silent(event_now, self._pipeline.idle_stage_max, self._clock.monotonic())
                await asyncio.sleep(0)

    # -- watching -------------------------------------------------------------------------------------------

    async def _check_group_forever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._source.app.consumer.started:
                self._source.consumer.check_errors()

    async def _observe_forever(self) -> None:
        while True:
            self._observe()
            self._watch_recovery()
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
        self._health.broker(fetch_age_s=now - oldest_fetch, heartbeat_age_s=self._lease.age_s)
        observe(self._partitions, self._metrics, self._health, self._clock)
        self._metrics.commit_age.set(self._clock.monotonic() - self._committed_at)

    def _watch_recovery(self) -> None:
        """Recovery has a deadline, and past it a message that says which partition waits for which offset."""
        if not self._source.app.in_recovery:
            self._metrics.recovery_remaining.set(0)
            return
        waiting = self._source.recovery.active_stats()
        self._metrics.recovery_remaining.set(sum(s.remaining for s in waiting.values()))
        if self._clock.monotonic() - self._recovering_since > self._settings.recovery_deadline_s:
            partitions = ", ".join(
                f"partition {tp.partition} is at offset {s.offset} of {s.highwater}" for tp, s in waiting.items()
            )
            # Told, not raised: an orderly end that is under way goes on to be observed.
            self._fail(
                ValuestreamError(
                    f"recovery took longer than {self._settings.recovery_deadline_s:.0f} s: {partitions}; "
                    "look at the changelog topic's brokers, or raise --recovery-deadline-s"
                )
            )
