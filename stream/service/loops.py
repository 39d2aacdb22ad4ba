"""Loops: what a worker does again and again beside ingestion: checkpoint, score, look for silence, watch itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from stream.errors import ScoringError
from stream.service.build import WorkerParts
from stream.service.gauges import Gauges
from stream.service.recovery import RecoveryWatch

__all__ = ["Loops"]

logger = logging.getLogger(__name__)
#: Scorers at once: while one publishes its batch, the other is in inference.
_SCORERS: Final = 2
#: A scorer that found nobody waits this long for news. Then it looks again, for users whose refresh interval has ended.
_NAP_S: Final = 0.02
_RETRY_S: Final = 1.0
#: Behind a backlog a scorer rests this many times as long as it worked, so that ingestion can catch up.
_REST_WHEN_BEHIND: Final = 4.0


class Loops:
    """The endless loops of one worker. ``fail`` ends the worker with an error, unless it is ending already."""

    def __init__(self, parts: WorkerParts, fail: Callable[[BaseException], None]) -> None:
        self._parts, self._settings, self._clock = parts, parts.settings, parts.clock
        self._gauges, self.recovery = Gauges(parts), RecoveryWatch(parts, fail)
        #: Set when events or reviews were taken in.
        self._news = asyncio.Event()
        self._committed_at = parts.clock.monotonic()

    def coroutine_functions(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What to run, each for ever. An error in one of them is to end the worker."""
        timers = [self._checkpoint_forever, self._sweep_forever, self._watch_forever, self._check_group_forever]
        reviews = [self._review_forever] if self._parts.reviews.has_model else []
        return [*timers, *[self._score_forever] * _SCORERS, *reviews]

    def taken_in(self) -> None:
        """Events were taken in: a scorer that found nobody looks again at once."""
        self._news.set()

    # -- durability -----------------------------------------------------------------------------------------

    async def _checkpoint_forever(self) -> None:
        source = self._parts.source
        while True:
            await asyncio.sleep(self._settings.checkpoint_interval_s)
            done = await self._parts.assignment.checkpoint()
            if await source.consumer.commit():
                self._parts.health.committed()
            if done and not source.consumer.uncommitted():
                self._committed_at = self._clock.monotonic()

    # -- scoring --------------------------------------------------------------------------------------------

    async def _score_forever(self) -> None:
        while True:
            started = self._clock.monotonic()
            if await self._tried("scoring", self._parts.assignment.score(self._settings.batch_users_max)):
                await asyncio.sleep(self._rest_s(self._clock.monotonic() - started))
            else:
                await self._nap()

    async def _review_forever(self) -> None:
        reviews, assignment = self._parts.reviews, self._parts.assignment
        while True:
            if assignment.idle or not await self._tried("sentiment", reviews.score(self._parts.partitions)):
                await self._nap()

    async def _tried(self, what: str, scoring: Awaitable[int]) -> int:
        """How many were scored. 0 if scoring failed and is to be tried again."""
        try:
            return await scoring
        except ScoringError as error:
            logger.error("%s failed, trying again: %s", what, error)
            await asyncio.sleep(_RETRY_S)
            return 0

    def _rest_s(self, busy_s: float) -> float:
        """How long a scorer rests after ``busy_s`` of work: only behind a backlog."""
        behind = any(p.lag > self._settings.fetch_records_max for p in self._parts.partitions)
        return _REST_WHEN_BEHIND * busy_s if behind else 0.0

    async def _nap(self) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NAP_S):
                await self._news.wait()

    async def _sweep_forever(self) -> None:
        """Queue the users who have reached the next age of silence."""
        pipeline = self._parts.pipeline
        while True:
            await asyncio.sleep(self._settings.idle_sweep_s)
            for partition in self._parts.partitions:
                event_now = partition.event_now(self._clock.time())
                partition.queue_silent(event_now, pipeline.idle_stage_max, self._clock.monotonic())
                await asyncio.sleep(0)

    # -- watching -------------------------------------------------------------------------------------------

    async def _check_group_forever(self) -> None:
        source = self._parts.source
        while True:
            await asyncio.sleep(1.0)
            if source.app.consumer.started:
                source.consumer.check_errors()

    async def _watch_forever(self) -> None:
        while True:
            self._gauges.read()
            self._parts.metrics.commit_age.set(self._clock.monotonic() - self._committed_at)
            self.recovery.look()
            await asyncio.sleep(1.0)
