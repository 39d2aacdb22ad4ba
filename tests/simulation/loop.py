"""Loop: the event loop of one simulated process. It runs one callback per step, and its time is a manual clock.

A process with a loop that is not stepped has been paused (SIGSTOP). A process with a loop that is dropped was killed.
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
    """Work for a thread of the process, and the future for its result."""

    future: asyncio.Future[Any]
    work: Callable[[], Any]
    slow: bool


class ProcessLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order in which they were scheduled, as asyncio does, one per :meth:`step`."""

    def __init__(self, clock: Clock, slow: Callable[[], bool]) -> None:
        self._clock, self._slow = clock, slow
        self.ready: deque[asyncio.Handle] = deque()
        #: Work for threads. The scheduler decides when it is done.
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
        """Make all timers ready that are due."""
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self.ready.append(heapq.heappop(self._timers)[2])

    @property
    def next_timer(self) -> float:
        """When the next timer is due, in monotonic seconds."""
        return self._timers[0][0] if self._timers else float("inf")

    def finish(self, job: Job, error: Exception | None = None) -> None:
        """End a thread's work with its result, or with ``error``."""
        self.jobs.remove(job)
        if error is not None:
            self.call_soon(_settle, job.future, None, error)
            return
        self.call_soon(_settle, job.future, job.work(), None)

    def settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        """Give a future its answer from outside."""
        self.call_soon(_settle, future, result, error)

    # -- what asyncio needs from a loop -----------------------------------------------------------------------

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
        """Do nothing: a cancelled timer stays in the heap and does nothing when it is due."""

    def time(self) -> float:
        return self._clock.monotonic()

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **_: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = asyncio.Task(coro, loop=self)
        # The tasks of a killed process stay pending for ever.
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
        """Ignore it: nobody waits for the tasks of a killed process."""


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return  # It was cancelled, so nobody waits for the answer.
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
