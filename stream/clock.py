"""Clocks, and the wish to stop: both are passed in, so that tests move time instead of sleeping."""

from __future__ import annotations

import time
from typing import Final, Protocol

__all__ = ["Clock", "ManualClock", "Stop", "SystemClock"]

#: Where a :class:`ManualClock` starts unless told: 2025-01-01T00:00:00Z.
_START: Final = 1_735_689_600.0


class Clock(Protocol):
    """What the service may ask about time."""

    def time(self) -> float:
        """Wall clock, in seconds since 1970; it may jump."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; it never goes back, so ages are measured with it."""


class Stop(Protocol):
    """Tells a run to end. A ``threading.Event`` that another thread sets is one."""

    def is_set(self) -> bool:
        """Return whether the run is to end."""

    def wait(self, timeout: float) -> bool:
        """Sleep for at most ``timeout`` seconds, and return whether the run is to end."""


class SystemClock:
    """The machine's clocks."""

    def time(self) -> float:
        """Wall clock, in seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told.

    >>> clock = ManualClock(start=100.0)
    >>> clock.advance(seconds=61)
    >>> clock.time(), clock.monotonic()
    (161.0, 61.0)
    """

    def __init__(self, start: float = _START) -> None:
        self._start = start
        self._elapsed = 0.0

    def time(self) -> float:
        """Wall clock, in seconds since 1970."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed

    def advance(self, *, seconds: float) -> None:
        """Move both clocks on; time never goes back here."""
        if seconds < 0:
            raise ValueError(f"found {seconds} seconds, expected 0 or more: a clock only moves on")
        self._elapsed += seconds
