"""The moving parts of the demo: the worker's process, the simulator's thread, the feed of scores, and signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import msgspec
from kafka import KafkaConsumer

from stream.clock import Clock
from stream.commands.broker.processes import POLL_S
from stream.commands.demo.scrape import Reading, ready, scrape
from stream.commands.replay import SignalStop
from stream.contract.score import Alert, Score
from stream.datasets.events import Record, event_stream
from stream.datasets.shoppers import Market
from stream.errors import ValuestreamError
from stream.kafka.reading import follow
from stream.kafka.sender import Rate, Sent, send_events
from stream.settings import Settings

__all__ = ["Feed", "Signals", "Simulator", "WorkerProcess"]

_READY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 15.0
_ABANDON_TIMEOUT_S: Final = 2.0
_LOG_LINES: Final = 4
#: Users and alerts kept for the view; beyond it the ones unheard of for longest go.
_USERS_MAX: Final = 50_000
_ALERTS_MAX: Final = 50


class WorkerProcess:
    """``valuestream worker`` as a process of its own, with its log in a file."""

    def __init__(self, flags: dict[str, object], log: Path) -> None:
        self.log = log
        self.port = int(str(flags["http_port"]))
        arguments = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        with log.open("wb") as out:
            # A session of its own: Ctrl-C in the terminal must not end the worker before the last event is in.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream.commands.cli", "worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return once it serves; ValuestreamError with its last words where it does not."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not ready(self.port):
            self._require_alive()
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {_READY_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)

    def reading(self, at: float) -> Reading:
        """What its metrics say; ValuestreamError with its last words where it does not answer."""
        self._require_alive()
        reading = scrape(self.port, at)
        if reading is None:
            self._require_alive()
            raise self._failure("does not answer at its metrics port")
        return reading

    def _require_alive(self) -> None:
        status = self._process.poll()
        if status is not None:
            raise self._failure(f"ended with exit status {status}")

    def stop(self) -> None:
        """End it in order; ValuestreamError where it does not end within its time, or not well."""
        self._process.terminate()
        try:
            status = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failure(f"did not stop within {_STOP_TIMEOUT_S:.0f} s") from None
        if status:
            raise self._failure(f"ended with exit status {status}")

    def kill(self) -> None:
        """End it now, where it is still there."""
        self._process.kill()
        self._process.wait()

    def _failure(self, what: str) -> ValuestreamError:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = "\n  ".join(lines[-_LOG_LINES:]) or "(nothing)"
        return ValuestreamError(
            f"the worker {what}; expected it to serve until the demo ends; its last words are below, all of them in"
            f" {self.log}\n  {said}"
        )


class Simulator:
    """Shoppers whose events are sent from a thread: fast through the past, never ahead of the clock."""

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
        """Where the shoppers are: the event time of what is sent next, at most the present."""
        return datetime.fromtimestamp(min(self._next_s, self._clock.time()), UTC)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> Sent:
        """End it, and wait until every event is acknowledged or has failed."""
        self._stop.set()
        self._thread.join()
        self.require_alive()
        assert self._result is not None, "the simulator has ended without a result. This is a bug."
        self._result.require_all()
        return self._result

    def abandon(self) -> None:
        """End it without asking what came of it; for when the demo fails."""
        self._stop.set()
        self._thread.join(_ABANDON_TIMEOUT_S)

    def require_alive(self) -> None:
        """Raise what ended it."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        records = self._noted(event_stream(self._market.events()))
        try:
            self._result = send_events(
                self._settings, records, self._rate, _unseen, clock=self._clock, up_to_now=True, stop=self._stop
            )
        except Exception as error:
            self._error = error

    def _noted(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self._next_s = record[2] / 1000
            yield record


def _unseen(n: int, elapsed_s: float, time_ms: int) -> None:
    """Show no progress: the view does."""


class Feed:
    """The newest score of each user and the newest alerts, read from their topics in a thread."""

    def __init__(self, topics: KafkaConsumer, alerts_topic: str, clock: Clock) -> None:
        self._topics, self._alerts_topic, self._clock = topics, alerts_topic, clock
        self._scores: dict[str, Score] = {}
        self._alerts: deque[Alert] = deque(maxlen=_ALERTS_MAX)
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._stop.set()
        self._thread.join()

    def require_alive(self) -> None:
        """Raise what ended it."""
        if self._error is not None:
            raise self._error

    def at_risk(self, n: int) -> list[Score]:
        """Users in the high churn band, then those in the medium one; in each the most valuable first."""
        with self._lock:
            scores = [score for score in self._scores.values() if score.churn.band != "low"]
        return sorted(scores, key=lambda s: (s.churn.band != "high", -s.ltv.expected))[:n]

    def newest_alerts(self, n: int) -> list[Alert]:
        """The last alerts, the newest first."""
        with self._lock:
            return list(self._alerts)[: -n - 1 : -1]

    def _run(self) -> None:
        with closing(self._topics):
            try:
                for record in follow(self._topics, self._stop, self._clock):
                    self._take(record)
            except Exception as error:
                self._error = error

    def _take(self, record: Any) -> None:
        with self._lock:
            if record.topic == self._alerts_topic:
                self._alerts.append(msgspec.json.decode(record.value, type=Alert))
                return
            score = msgspec.json.decode(record.value, type=Score)
            self._scores.pop(score.user_id, None)
            self._scores[score.user_id] = score
            if len(self._scores) > _USERS_MAX:
                del self._scores[next(iter(self._scores))]


class Signals(SignalStop):
    """Ctrl-C, SIGTERM and a closed terminal: while starting they interrupt at once, later they only ask for the end."""

    def __init__(self) -> None:
        self._interrupting = True
        self._before: dict[int, Any] = {}

    def end_in_order(self) -> None:
        """From here on, a signal only asks for the end."""
        self._interrupting = False

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        again, self._set = self._set, True
        if self._interrupting and not again:
            raise KeyboardInterrupt
