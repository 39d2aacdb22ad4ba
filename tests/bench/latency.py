"""How long after an event its score is there: both times are the broker's own, so one clock measures all."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.service.kafka import aiokafka_config, kafka_python_config
from stream.service.settings import Settings
from stream.service.topics import ensure_topics
from tests.bench.events import clicks
from tests.bench.systems import Topic, settings_for
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess

__all__ = ["measure_latency"]

#: The first seconds are not measured: caches fill, the model warms.
_WARM_UP_S: Final = 2.0


def measure_latency(topic: Topic, users: int, events_per_s: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Event → score, in milliseconds, at a steady rate with the shipped model and no refresh interval.

    The worker has taken in and scored the whole topic before, so users have the histories of the topic.
    """
    settings = settings_for(topic, f"latency-{uuid.uuid4().hex[:8]}", folder)
    ensure_topics(settings, harness.PARTITIONS)
    _stamp_at_the_broker(settings, (settings.events_topic, settings.scores_topic))
    with WorkerProcess(settings, folder / f"{settings.app_id}.log", VALUESTREAM_REFRESH_INTERVAL_S="0") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        before = harness.end_offsets(settings)
        n = int(events_per_s * (seconds + _WARM_UP_S))
        # No repeats: those change nothing, so no score answers them.
        live = clicks(n, users, seed=99, end=time.time(), span_s=1.0, repeated=0)
        sent_s = asyncio.run(_send(settings, live, events_per_s))
        worker.wait_idle(settings)
        worker.terminate()
    waits = np.array(_waits(settings, before, skip=int(events_per_s * _WARM_UP_S / harness.PARTITIONS)))
    return {
        "p50_ms": float(np.percentile(waits, 50)),
        "p99_ms": float(np.percentile(waits, 99)),
        "max_ms": float(waits.max()),
        "events": len(waits),
        "events_per_second": n / sent_s,
    }


def _stamp_at_the_broker(settings: Settings, topics: Iterable[str]) -> None:
    admin = KafkaAdminClient(**kafka_python_config(settings))
    stamped = {"message.timestamp.type": "LogAppendTime"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, stamped) for topic in topics])
    admin.close()


async def _send(settings: Settings, messages: Iterable[Message], events_per_s: int) -> float:
    """Send each record when it is due, alone; returns the seconds that it took."""
    producer = AIOKafkaProducer(**aiokafka_config(settings), linger_ms=0)
    await producer.start()
    acks, began = [], time.perf_counter()
    try:
        for i, (key, value) in enumerate(messages):
            await asyncio.sleep(max(0.0, began + i / events_per_s - time.perf_counter()))
            partition = harness.partition_of((key or b"").decode())
            acks.append(await producer.send(settings.events_topic, value, key, partition))
        await asyncio.gather(*acks)
        return time.perf_counter() - began
    finally:
        await producer.stop()


def _waits(settings: Settings, before: dict[int, int], skip: int) -> list[int]:
    """For each event from ``skip`` past ``before`` on: until the first score of its user that had seen it."""
    scores: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in harness.read_topic(settings, settings.scores_topic):
        scores[record.key.decode()].append((json.loads(record.value)["applied_offset"], record.timestamp))
    waits = []
    for event in harness.read_topic(settings, settings.events_topic):
        if event.offset >= before[event.partition] + skip:
            of_user = scores[event.key.decode()]
            seen = bisect_left(of_user, event.offset, key=lambda score: score[0])
            waits.append(of_user[seen][1] - event.timestamp)
    return waits
