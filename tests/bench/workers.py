"""Workers: measures how much faster two workers are than one. On fewer than four cores they share what there is."""

from __future__ import annotations

import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings
from tests.bench.events import clicks
from tests.bench.process import SystemProcess
from tests.bench.systems import INGEST, Topic, settings_for
from tests.broker import harness
from tests.broker.harness import wait_for

__all__ = ["measure_workers"]

_APPLIED: Final = "valuestream_events_total"
#: Workers are paused while the events are written, and that must not end their membership.
_SESSION_S: Final = "60"


def measure_workers(
    bootstrap_servers: str, folder: Path, say: Callable[[str], None], *, events: int, users: int, rounds: int
) -> dict[str, Any]:
    """Events per second of one worker and of two, in turns, on events that wait for them; medians of the rounds."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for n in (1, 2) if number % 2 == 0 else (2, 1):
            rates[n].append(_rate(n, events, users, bootstrap_servers, folder))
            say(f"round {number + 1} of {rounds}: {n} worker{'s' * (n > 1)}, {rates[n][-1]:,.0f} events/s")
    one, two = statistics.median(rates[1]), statistics.median(rates[2])
    return {
        "events": events,
        "users": users,
        "cores": os.cpu_count(),
        "one": round(one),
        "two": round(two),
        "ratio": round(two / one, 3),
        "runs": {"one": rates[1], "two": rates[2]},
    }


def _rate(n_workers: int, events: int, users: int, bootstrap_servers: str, folder: Path) -> float:
    """Events per second of ``n_workers`` workers that begin at the same time."""
    topic = Topic(bootstrap_servers, f"workers-{uuid.uuid4().hex[:8]}", {})
    settings = settings_for(topic, topic.name, folder)
    ensure_topics(settings, harness.PARTITIONS)
    with ExitStack() as ended:
        workers = [ended.enter_context(_worker(settings, number, folder)) for number in range(n_workers)]
        wait_for("each worker to have its share", lambda: _have_shares(workers))
        for worker in workers:
            worker.pause()
        harness.produce(settings, clicks(events, users, 1, end=time.time()))
        for worker in workers:
            worker.go_on()
        began = time.monotonic()
        wait_for("all events", lambda: _applied(workers) >= events)
        return events / (time.monotonic() - began)


def _worker(settings: Settings, number: int, folder: Path) -> SystemProcess:
    own = folder / settings.app_id / str(number)
    environment = {**INGEST.environment, "VALUESTREAM_SESSION_TIMEOUT_S": _SESSION_S}
    own_settings = settings.model_copy(update={"data_dir": own / "state"})
    return SystemProcess(INGEST.arguments, own_settings, events=sys.maxsize, folder=own, environment=environment)


def _have_shares(workers: Sequence[SystemProcess]) -> bool:
    shares = [worker.running() and worker.metrics().get("valuestream_partitions_assigned", 0) for worker in workers]
    return shares == [harness.PARTITIONS / len(workers)] * len(workers)


def _applied(workers: Sequence[SystemProcess]) -> float:
    return sum(worker.running() and worker.metrics().get(_APPLIED, 0) for worker in workers)
