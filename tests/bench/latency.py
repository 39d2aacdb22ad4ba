"""Latency: how long after an event its score is there.

Both times are stamped by the broker, so one clock measures everything. Measured are one steady rate, a curve over rates
up to saturation, and a rate beyond it.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from confluent_kafka import Producer
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from stream.kafka.clients import kafka_python_config
from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings
from tests.bench.events import clicks
from tests.bench.systems import Topic, settings_for
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess

__all__ = ["Live", "live_worker", "measure_latency", "saturated"]

#: The first seconds are not measured, because caches fill and the model warms up.
_WARM_UP_S: Final = 2.0
#: A point of the curve is past saturation if half of the events wait longer than this,
#: or if less than this share of them could be sent in time.
_SATURATED_MS: Final = 1_000.0
_SENT_SHARE_MIN: Final = 0.9
_IDLE_TIMEOUT_S: Final = 180.0
_PRIORITY: Final = {"Order Completed": "purchase", "Product Added": "cart", "Product Removed": "cart"}


class Waited(NamedTuple):
    """One event: milliseconds until the first score of its user that includes it, and its priority in the queue."""

    ms: int
    priority: str


class Live:
    """A worker with the shipped model and no refresh interval, which has taken in and scored the whole topic.

    Its users therefore have full histories.
    """

    def __init__(self, settings: Settings, worker: WorkerProcess, users: int) -> None:
        self._settings, self._worker, self._users = settings, worker, users
        self._seed = 98

    def at(self, events_per_s: int, seconds: float) -> dict[str, Any]:
        """Measure event → score at a steady rate, in milliseconds, and sample the worker's metrics each second."""
        before = {topic: _ends(self._settings, topic) for topic in (self._events, self._settings.scores_topic)}
        n = int(events_per_s * (seconds + _WARM_UP_S))
        self._seed += 1
        # There are no repeats: a repeat changes nothing, so no score would follow it.
        span_s = n / events_per_s
        live = clicks(n, self._users, self._seed, end=time.time() + span_s, span_s=span_s, repeated=0)
        with self._sampled() as samples:
            sent_s = _send(self._settings, live, events_per_s)
        _wait_idle(self._worker, self._settings)
        waited = _waits(self._settings, before, skip=int(events_per_s * _WARM_UP_S / harness.PARTITIONS))
        ms = np.array([w.ms for w in waited])
        return {
            "p50_ms": float(np.percentile(ms, 50)),
            "p99_ms": float(np.percentile(ms, 99)),
            "max_ms": float(ms.max()),
            "events": len(ms),
            "events_per_second": n / sent_s,
            "by_priority": _by_priority(waited),
            "samples": _rates(samples),
        }

    @property
    def _events(self) -> str:
        return self._settings.events_topic

    @contextmanager
    def _sampled(self) -> Iterator[list[dict[str, float]]]:
        samples: list[dict[str, float]] = []
        ended = threading.Event()

        def sample() -> None:
            began = time.monotonic()
            while not ended.wait(1.0):
                samples.append({"t_s": time.monotonic() - began, **_gauges(self._worker.get("/metrics")[1])})

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            ended.set()
            thread.join(timeout=10)


@contextmanager
def live_worker(topic: Topic, users: int, folder: Path) -> Iterator[Live]:
    """A live worker on this topic, which ends with the context."""
    settings = settings_for(topic, f"latency-{uuid.uuid4().hex[:8]}", folder)
    ensure_topics(settings, harness.PARTITIONS)
    folder.joinpath(settings.app_id).mkdir(parents=True)
    _stamp_at_the_broker(settings, (settings.events_topic, settings.scores_topic))
    log = folder / settings.app_id / "log"
    with WorkerProcess(settings, log, VALUESTREAM_REFRESH_INTERVAL_S="0") as worker:
        worker.wait_ready()
        _wait_idle(worker, settings)
        yield Live(settings, worker, users)
        worker.terminate()


def _wait_idle(worker: WorkerProcess, settings: Settings) -> None:
    """Wait until everything that the broker has is taken in, scored, durable and committed."""

    def idle() -> bool:
        taken_in = worker.alive() and harness.committed(settings) == harness.end_offsets(settings)
        return taken_in and worker.metric("valuestream_queue_depth") == 0

    harness.wait_for("the worker to have nothing to do", idle, _IDLE_TIMEOUT_S)


def measure_latency(topic: Topic, folder: Path, *, users: int, events_per_s: int, seconds: float) -> dict[str, Any]:
    """Measure event → score at one steady rate."""
    with live_worker(topic, users, folder) as live:
        return live.at(events_per_s, seconds)


def saturated(point: Mapping[str, Any], offered: int) -> bool:
    """Whether a higher rate would only make the queue longer."""
    late = point["p50_ms"] > _SATURATED_MS
    return bool(late or point["events_per_second"] < _SENT_SHARE_MIN * offered)


def _stamp_at_the_broker(settings: Settings, topics: Iterable[str]) -> None:
    admin = KafkaAdminClient(**kafka_python_config(settings))
    stamped = {"message.timestamp.type": "LogAppendTime"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, stamped) for topic in topics])
    admin.close()


def _send(settings: Settings, messages: Iterable[Message], events_per_s: int) -> float:
    """Send each record when it is due, with librdkafka's defaults. Returns the seconds that it took."""
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    ready = list(messages)
    began = time.perf_counter()
    for i, (key, value) in enumerate(ready):
        time.sleep(max(0.0, began + i / events_per_s - time.perf_counter()))
        producer.produce(settings.events_topic, value, key, harness.partition_of((key or b"").decode()))
        producer.poll(0)
    unsent = producer.flush(harness.WAIT_S)
    assert not unsent, f"{unsent} records were not sent within {harness.WAIT_S:.0f} s"
    return time.perf_counter() - began


def _ends(settings: Settings, topic: str) -> dict[int, int]:
    return harness.end_offsets(settings.model_copy(update={"events_topic": topic}))


def _read_from(settings: Settings, topic: str, offsets: Mapping[int, int]) -> list[Any]:
    """Every record of a topic from these offsets to its present end."""
    consumer = KafkaConsumer(**kafka_python_config(settings), enable_auto_commit=False)
    tps = [TopicPartition(topic, p) for p in range(harness.PARTITIONS)]
    consumer.assign(tps)
    for tp in tps:
        consumer.seek(tp, offsets.get(tp.partition, 0))
    ends, records = consumer.end_offsets(tps), list[Any]()
    deadline = time.monotonic() + harness.WAIT_S
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        assert time.monotonic() < deadline, f"waited {harness.WAIT_S:.0f} s to read {topic}"
        for found in consumer.poll(timeout_ms=500).values():
            records.extend(found)
    consumer.close()
    return records


def _waits(settings: Settings, before: Mapping[str, Mapping[int, int]], skip: int) -> list[Waited]:
    """The wait of each event that lies at least ``skip`` past the offsets ``before``: until a score includes it."""
    scores: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in _read_from(settings, settings.scores_topic, before[settings.scores_topic]):
        scores[record.key.decode()].append((json.loads(record.value)["applied_offset"], record.timestamp))
    waits, first = [], before[settings.events_topic]
    for event in _read_from(settings, settings.events_topic, first):
        if event.offset >= first.get(event.partition, 0) + skip:
            user_scores = scores[event.key.decode()]
            first_after = bisect_left(user_scores, event.offset, key=lambda score: score[0])
            priority = _PRIORITY.get(json.loads(event.value)["event"], "other")
            waits.append(Waited(user_scores[first_after][1] - event.timestamp, priority))
    return waits


def _by_priority(waited: Iterable[Waited]) -> dict[str, dict[str, float]]:
    ms: dict[str, list[int]] = defaultdict(list)
    for wait in waited:
        ms[wait.priority].append(wait.ms)
    return {
        name: {
            "p50_ms": float(np.percentile(waits, 50)),
            "p95_ms": float(np.percentile(waits, 95)),
            "events": len(waits),
        }
        for name, waits in sorted(ms.items())
    }


def _gauges(page: str) -> dict[str, float]:
    """How much the worker has ingested and scored so far, and how far scoring is behind."""
    sums: dict[str, float] = defaultdict(float)
    for line in page.splitlines():
        if line.startswith("valuestream_"):
            name, value = line.rsplit(" ", 1)
            sums[name.split("{")[0].removeprefix("valuestream_")] += float(value)
    return {
        "ingested": sums["events_total"],
        "scored": sums["scores_total"],
        "queue_depth": sums["queue_depth"],
        "oldest_wait_s": sums["queue_oldest_wait_seconds"],
    }


def _rates(samples: list[dict[str, float]]) -> list[dict[str, float]]:
    """Turn counters into rates between two samples; keep gauges as they were."""
    return [
        {
            "t_s": round(b["t_s"], 1),
            "ingested_per_s": round((b["ingested"] - a["ingested"]) / (b["t_s"] - a["t_s"])),
            "scored_per_s": round((b["scored"] - a["scored"]) / (b["t_s"] - a["t_s"])),
            "queue_depth": b["queue_depth"],
            "oldest_wait_s": round(b["oldest_wait_s"], 3),
        }
        for a, b in itertools.pairwise(samples)
    ]
