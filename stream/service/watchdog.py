"""Watchdog: ends a worker that is stuck, so that its supervisor starts another; nothing it had not committed is lost.

It has a thread of its own, because a loop that is blocked cannot notice it. What "stuck" means stands in
:meth:`stream.service.health.Health.live`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

from stream.service.health import Health

__all__ = ["EXIT_STUCK", "Watchdog"]

logger = logging.getLogger(__name__)
#: A process that was paused finds itself stuck when it goes on, until its loop has turned: so look this often.
_LOOKS: Final = 3
#: Exit status of a worker that did not end by itself (EX_SOFTWARE of sysexits.h).
EXIT_STUCK: Final = 70


class Watchdog:
    """Looks at the health each ``interval_s``: a worker that is not live is told to end, and one that ends is made to.

    ``end`` is called once, from the watchdog's thread, with the reason; ``kill`` where the process is still there
    ``grace_s`` after it was told to end, by the watchdog or by others (:meth:`ending`).
    """

    def __init__(
        self,
        health: Health,
        end: Callable[[str], None],
        *,
        grace_s: float,
        interval_s: float = 1.0,
        kill: Callable[[], None] | None = None,
    ) -> None:
        self._health, self._end, self._kill = health, end, kill or _exit
        self._grace_s, self._interval_s = grace_s, interval_s
        self._ending, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def ending(self) -> None:
        """The worker was told to end: from now on it has ``grace_s``."""
        self._ending.set()

    def stop(self) -> None:
        """All is closed: look no more."""
        self._ended.set()
        self._ending.set()

    def _watch(self) -> None:
        looks = 0
        while not self._ending.wait(self._interval_s):
            check = self._health.live()
            looks = 0 if check.ok else looks + 1
            if looks >= _LOOKS:
                logger.error("stuck, so this worker ends: %s", check.detail)
                self._end(check.detail)
                break
        if not self._ended.wait(self._grace_s):
            self._kill()


def _exit() -> None:
    logger.error("the end took too long and is forced; what was not committed will be replayed")
    sys.stderr.flush()
    os._exit(EXIT_STUCK)
