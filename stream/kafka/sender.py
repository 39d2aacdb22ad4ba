"""Sender: sends events to Kafka at a set pace, and says how many arrived."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.clock import Clock, Stop
from stream.datasets.events import Record
from stream.errors import ConfigError, ValuestreamError
from stream.kafka.clients import connect, kafka_python_config
from stream.kafka.codecs import compression_type
from stream.kafka.rights import Right, require_rights
from stream.kafka.topics import require_topic
from stream.settings import Settings

__all__ = ["Progress", "Rate", "Sent", "paced", "send_events"]

#: Is called a few times a second with the events sent, the seconds since the start, and the last event time in ms.
Progress = Callable[[int, float, int], None]

#: With this many unacknowledged events, the sender waits for the oldest. kafka-python itself has no such bound.
IN_FLIGHT_MAX: Final = 20_000
#: After this many failed deliveries the sender gives up.
FAILED_MAX: Final = 1_000
DELIVERY_TIMEOUT_S: Final = 30.0
_PROGRESS_INTERVAL_S: Final = 0.25
#: A shorter wait is skipped: the event goes out early, and a later one waits. No sleep is finer than this.
_SLEEP_MIN_S: Final = 0.002
#: A longer wait is split into parts, so that a stop and a jump of the wall clock are noticed.
_SLEEP_MAX_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast to send: ``events_per_s``, or ``speed`` times the pace of event time, or neither for no limit.

    >>> Rate.parse("max"), Rate.parse("500").events_per_s, Rate.parse("x3600").speed
    (Rate(events_per_s=None, speed=None), 500.0, 3600.0)
    """

    events_per_s: float | None = None
    speed: float | None = None

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``max``, ``N`` or ``xK``. Raises ConfigError for anything else."""
        if text == "max":
            return cls()
        if re.fullmatch(r"x?\d+(\.\d+)?", text) and (value := float(text.removeprefix("x"))) > 0:
            return cls(speed=value) if text.startswith("x") else cls(events_per_s=value)
        raise ConfigError(
            f"rate is {text!r}, expected max, a number of events per second (500),"
            " or x and a multiple of real time (x3600); set --rate"
        )

    def due_s(self, n: int, event_s: float) -> float:
        """Return how many seconds after the start event ``n`` is due.

        ``event_s`` is its event time, in seconds after that of the first event.
        """
        if self.events_per_s is not None:
            return n / self.events_per_s
        return event_s / self.speed if self.speed is not None else 0.0


@dataclass(slots=True)
class Sent:
    """The result of a run: how many ``events`` were acknowledged, and how many ``failed``."""

    events: int = 0
    failed: int = 0
    seconds: float = 0.0
    last_event_ms: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.events / self.seconds if self.seconds > 0 else 0.0
        return f"{self.events:,} events sent in {self.seconds:.1f} s, {rate:,.0f} events/s"

    def require_all(self) -> None:
        """Raise ValuestreamError if any event was not delivered."""
        if self.failed:
            gave_up = ", then gave up" if self.failed >= FAILED_MAX else ""
            raise ValuestreamError(
                f"{self.failed:,} events were not delivered{gave_up} ({self.errors[0]}), expected none;"
                f" {self.events:,} were; check the broker and send again, repeats are recognised"
            )


def paced(
    records: Iterable[Record],
    rate: Rate,
    clock: Clock,
    wait: Callable[[float], object],
    *,
    seconds: float | None = None,
    up_to_now: bool = False,
) -> Iterator[Record]:
    """Give each record when it is due. ``wait`` sleeps, and ends the records if it returns true.

    ``seconds`` ends them after that time. ``up_to_now`` holds back events with a time in the future.
    """
    began, first_ms = clock.monotonic(), None
    for n, record in enumerate(records):
        first_ms = record[2] if first_ms is None else first_ms
        due = began + rate.due_s(n, (record[2] - first_ms) / 1000)
        while True:
            now = clock.monotonic()
            if seconds is not None and now - began >= seconds:
                return
            delay = due - now if due - now >= _SLEEP_MIN_S else 0.0
            if up_to_now:
                delay = max(delay, record[2] / 1000 - clock.time())
            if delay <= 0:
                break
            if seconds is not None:
                delay = min(delay, seconds - (now - began))
            if wait(min(delay, _SLEEP_MAX_S)):
                return
        yield record


def send_events(
    settings: Settings,
    records: Iterable[Record],
    rate: Rate,
    progress: Progress,
    *,
    clock: Clock,
    seconds: float | None = None,
    up_to_now: bool = False,
    stop: Stop | None = None,
) -> Sent:
    """Send records to the events topic until they end, ``seconds`` are over, or ``stop`` is set.

    Returns once every event was acknowledged or has failed. Raises ConfigError if there is no broker, no topic, or no
    right to write to it.
    """
    stop = stop or threading.Event()
    _require_topic(settings)
    # Records carry the time of sending. With event time, retention would drop a replay of old events at once.
    producer = KafkaProducer(
        **kafka_python_config(settings),
        acks="all",
        enable_idempotence=True,
        compression_type=compression_type(settings),
        linger_ms=5,
        batch_size=65_536,
        delivery_timeout_ms=int(DELIVERY_TIMEOUT_S * 1000),
        request_timeout_ms=int(DELIVERY_TIMEOUT_S * 500),
    )
    try:
        run = _Run(producer, settings.events_topic)
        due = paced(records, rate, clock, stop.wait, seconds=seconds, up_to_now=up_to_now)
        return run.send_all(due, progress, clock, stop)
    finally:
        # By now every event was acknowledged or counted as failed, so an error of closing says nothing new.
        with contextlib.suppress(KafkaError):
            producer.close(timeout=DELIVERY_TIMEOUT_S)


class _Run:
    """One run of a producer. It knows the events that are not acknowledged yet."""

    def __init__(self, producer: Any, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self._in_flight: deque[Any] = deque()
        self._sent = Sent()

    def send_all(self, records: Iterator[Record], progress: Progress, clock: Clock, stop: Stop) -> Sent:
        began = shown = clock.monotonic()
        sent = self._sent
        for n, (key, value, time_ms) in enumerate(records, start=1):
            self._send(key, value)
            sent.last_event_ms = time_ms
            now = clock.monotonic()
            if now - shown >= _PROGRESS_INTERVAL_S:
                shown = now
                progress(n, now - began, time_ms)
            if stop.is_set() or sent.failed >= FAILED_MAX:
                break
        self._settle(0)
        sent.seconds = clock.monotonic() - began
        progress(sent.events, sent.seconds, sent.last_event_ms)
        return sent

    def _send(self, key: bytes, value: bytes) -> None:
        try:
            self._in_flight.append(self._producer.send(self._topic, value=value, key=key))
        except KafkaError as error:
            self._failed(error)
        self._settle(IN_FLIGHT_MAX)

    def _settle(self, in_flight_max: int) -> None:
        """Wait for acknowledgements and count them, until at most this many events are in flight."""
        while len(self._in_flight) > in_flight_max:
            try:
                self._in_flight.popleft().get(timeout=2 * DELIVERY_TIMEOUT_S)
                self._sent.events += 1
            except KafkaError as error:
                self._failed(error)

    def _failed(self, error: KafkaError) -> None:
        self._sent.failed += 1
        if len(self._sent.errors) < 1:
            self._sent.errors.append(" ".join(str(error).split()))


def _require_topic(settings: Settings) -> None:
    with contextlib.closing(connect(settings)) as admin:
        require_rights(settings, admin, [Right("topic", settings.events_topic, "Write")])
        require_topic(settings, settings.events_topic, admin.list_topics())
