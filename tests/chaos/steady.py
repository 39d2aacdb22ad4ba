"""Steady: keeps sending events while a scenario waits for something."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Final

from stream.settings import Settings
from tests.broker.harness import produce, wait_for
from tests.broker.undisturbed import shoppers

__all__ = ["Steady"]

_TICK_EVENTS: Final = 100
_TICK_S: Final = 0.2


class Steady:
    """Traffic of up to 500 events a second, which the waiting scenario itself sends.

    No event comes twice. So each event changes its user, and the newest applied offset tells how far the source is
    applied.
    """

    def __init__(self, settings: Settings, seed: int, watch: Callable[[], None] = lambda: None) -> None:
        self._settings, self._watch = settings, watch
        self._seeds = itertools.count(10_000 * seed)
        self._next = time.monotonic()

    def tick(self, times: int = 1) -> None:
        """Send some events, and call ``watch``."""
        for _ in range(times):
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + _TICK_S
            produce(self._settings, shoppers(_TICK_EVENTS, users=300, seed=next(self._seeds), repeat=0))
            self._watch()

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Send events until the condition holds."""

        def send_and_check() -> bool:
            self.tick()
            return condition()

        wait_for(what, send_and_check)
