"""The event loop of one simulated process: it runs when it is stepped, and time is a clock moved by hand.

A process that is not stepped is one that was stopped (SIGSTOP); one whose loop is forgotten was killed.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from itertools import count
from typing import Any, NamedTuple

from stream.clock import Clock

__all__ = ["Job", "ProcessLoop"]


class Job(NamedTuple):
    """Work for a thread of the process, and the future that waits for it."""

    future: asyncio.Future[Any]
    work: Callable[[], Any]
    slow: bool


class ProcessLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order they were scheduled, as asyncio does, one for each :meth:`step`."""

    def __init__(self, clock: Clock, slow: Callable[[], bool]) -> None:
        self._clock, self._slow = clock, slow
        self.ready: deque[asyncio.Handle] = deque()
        #: Work given to threads; the scheduler says when it is done.
        self.jobs: list[Job] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()

    def step(self) -> None:
        """Run the next callback."""
        handle = self.ready.popleft()
        if not handle.cancelled():
            events._set_running_loop(self)
            try:
                handle._run()
            finally:
                events._set_running_loop(None)

    def wake(self) -> None:
        """Make every timer ready whose time has come."""
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self.ready.append(heapq.heappop(self._timers)[2])

    @property
    def next_timer(self) -> float:
        """When the next timer is due, in monotonic seconds."""
        return self._timers[0][0] if self._timers else float("inf")

    def finish(self, job: Job, error: Exception | None = None) -> None:
        """A thread is done with its work, or has failed with ``error``."""
        self.jobs.remove(job)
        if error is not None:
            self.call_soon(_settle, job.future, None, error)
            return
        self.call_soon(_settle, job.future, job.work(), None)

    def settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        """An answer has come from outside."""
        self.call_soon(_settle, future, result, error)

    # -- what asyncio asks of a loop ------------------------------------------------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer stays where it is and does nothing when its time comes."""

    def time(self) -> float:
        return self._clock.monotonic()

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **_: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = asyncio.Task(coro, loop=self)
        # The tasks of a killed process are pending for ever.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, work: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        self.jobs.append(Job(future, lambda: work(*args), self._slow()))
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody waits for a task whose process was killed."""


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return  # Cancelled: nobody waits for the answer any more.
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
