"""Network: requests of simulated processes to the broker.

A request is sent, arrives, and is answered. Each of these is a step of the scheduler.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.process import Process

__all__ = ["WITHIN", "Network", "Reply", "Request"]

#: How the broker answers a request: with a result or an error, at once or later.
Reply = Callable[[Any, Exception | None], None]
#: The lane of waits inside a process. They may take long, and they are never lost.
WITHIN = ("within", None)


@dataclass(slots=True, eq=False)
class Request:
    """One request. Requests of one process in one ``lane`` arrive in the order in which they were sent."""

    process: Process
    name: str
    lane: Any
    handle: Callable[[Reply], None]
    future: asyncio.Future[Any]
    slow: bool
    result: Any = None
    error: Exception | None = None


class Network:
    """Requests under way to the broker (``sent``) and answers under way to the processes (``answered``)."""

    def __init__(self, rng: random.Random, *, slow_share: float) -> None:
        self._rng, self._slow_share = rng, slow_share
        self.sent: list[Request] = []
        self.answered: list[Request] = []

    def slow(self) -> bool:
        """Whether a request or job that begins now takes long."""
        return self._rng.random() < self._slow_share

    def call(
        self, process: Process, name: str, handle: Callable[[Reply], None], lane: Any = None
    ) -> asyncio.Future[Any]:
        """Send a request. The future gets its answer, or the error of the broker or the connection."""
        request = Request(process, name, lane, handle, process.loop.create_future(), self.slow())
        self.sent.append(request)
        return request.future

    def arrivals(self) -> list[Request]:
        """Requests that may arrive next: the first one of each lane."""
        if len(self.sent) < 2:
            return self.sent
        first: dict[Any, Request] = {}
        for request in self.sent:
            lane = (id(request.process), request.lane) if request.lane else id(request)
            first.setdefault(lane, request)
        return list(first.values())

    def arrive(self, request: Request) -> None:
        """Let the broker read a request."""
        self.sent.remove(request)

        def reply(result: Any, error: Exception | None) -> None:
            request.result, request.error = result, error
            self.answered.append(request)

        request.handle(reply)

    def fail(self, request: Request, error: Exception) -> None:
        """Lose a request or its answer. The process gets an error instead."""
        if request in self.sent:
            self.sent.remove(request)
            self.answered.append(request)
        request.result, request.error = None, error

    def deliver(self, request: Request) -> None:
        """Let a process read an answer."""
        self.answered.remove(request)
        request.process.loop.settle(request.future, request.result, request.error)

    def forget(self, process: Process) -> None:
        """Drop the requests of a process that has ended, as nobody reads the answers."""
        self.sent = [r for r in self.sent if r.process is not process]
        self.answered = [r for r in self.answered if r.process is not process]
