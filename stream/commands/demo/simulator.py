"""The simulated shoppers of the demo, who send their events from a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from stream.clock import Clock
from stream.datasets.events import Record, event_stream
from stream.datasets.market import Market
from stream.kafka.sender import Rate, Sent, send_events
from stream.settings import Settings

__all__ = ["Simulator"]

_ABANDON_TIMEOUT_S: Final = 2.0


class Simulator:
    """Sends the events of simulated shoppers from a thread: fast through the past, and never ahead of the clock."""

    def __init__(self, settings: Settings, clock: Clock, *, users: int, seed: int, days: float, rate: float) -> None:
        start_time = datetime.fromtimestamp(clock.time(), UTC) - timedelta(days=days)
        self._settings, self._clock, self._rate = settings, clock, Rate(rate)
        self._market = Market(users, start_time, seed)
        self._next_s = start_time.timestamp()
        self._result: Sent | None = None
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)

    @property
    def now(self) -> datetime:
        """The event time that the shoppers have reached. It is never later than the present."""
        return datetime.fromtimestamp(min(self._next_s, self._clock.time()), UTC)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> Sent:
        """End it, and wait until every event is acknowledged. Raises ValuestreamError if an event was not delivered."""
        self._stop.set()
        self._thread.join()
        self.require_alive()
        assert self._result is not None, "the simulator has ended without a result. This is a bug."
        self._result.require_all()
        return self._result

    def abandon(self) -> None:
        """End it without a look at its result, because the demo has failed."""
        self._stop.set()
        self._thread.join(_ABANDON_TIMEOUT_S)

    def require_alive(self) -> None:
        """Raise the error that has ended the thread, if there is one."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        records = self._watched(event_stream(self._market.events()))
        try:
            self._result = send_events(
                self._settings,
                records,
                self._rate,
                _show_no_progress,
                clock=self._clock,
                up_to_now=True,
                stop=self._stop,
            )
        except Exception as error:
            self._error = error

    def _watched(self, records: Iterable[Record]) -> Iterator[Record]:
        """Give the records, and remember the event time of the last one."""
        for record in records:
            self._next_s = record[2] / 1000
            yield record


def _show_no_progress(n: int, elapsed_s: float, time_ms: int) -> None:
    """Show nothing, because the view of the demo shows the progress."""
