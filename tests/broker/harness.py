"""Harness: helpers for tests on a real Kafka: a worker process, topics read to their end, and an oracle.

The oracle is an undisturbed offline replay of the same records through the same pure stages.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import CoordinatorNotAvailableError
from kafka.partitioner.default import murmur2

from stream.checkpoint.pending_reviews import SentimentModel
from stream.commands.broker.processes import free_port
from stream.contract.columns import IDLE_AGES_S
from stream.decode.decoder import Decoder, Money
from stream.kafka.clients import aiokafka_config, kafka_python_config
from stream.score.decide import AlertRule, Decider, encode_json
from stream.score.encode import encode
from stream.score.features import features
from stream.score.scorer import DEMO_MODEL, Scorer
from stream.settings import Settings
from stream.state.partition_state import PartitionState

PARTITIONS = 4
WAIT_S = 60.0


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """Poll until the condition holds, and return its value. After ``timeout_s`` fail and say ``what`` was awaited."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}")


def partition_of(user: str) -> int:
    """The partition of a user by Kafka's default partitioner."""
    return int((murmur2(user.encode()) & 0x7FFFFFFF) % PARTITIONS)


def track(user: str, event: str, at: float, message_id: str, **properties: Any) -> bytes:
    """A Segment track event as JSON."""
    return json.dumps(
        {
            "type": "track",
            "event": event,
            "messageId": message_id,
            "userId": user,
            "timestamp": at,
            "properties": properties,
        }
    ).encode()


Message = tuple[bytes | None, bytes | None]


def produce(settings: Settings, messages: Iterable[Message]) -> None:
    """Send messages in order, in large batches."""

    async def send() -> None:
        producer = AIOKafkaProducer(**aiokafka_config(settings), max_batch_size=900_000, acks="all")
        await producer.start()
        try:
            acks = []
            batches = {p: producer.create_batch() for p in range(PARTITIONS)}

            async def flush(p: int) -> None:
                batches[p].close()
                acks.append(await producer.send_batch(batches[p], settings.events_topic, partition=p))
                batches[p] = producer.create_batch()

            for key, value in messages:
                p = partition_of((key or b"").decode(errors="replace"))
                if batches[p].append(key=key, value=value, timestamp=None) is None:
                    await flush(p)
                    batches[p].append(key=key, value=value, timestamp=None)
            for p in batches:
                if batches[p].record_count():
                    await flush(p)
            await asyncio.gather(*acks)
        finally:
            await producer.stop()

    asyncio.run(send())


def page(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page that a worker on this machine serves; status 0 while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def metric_sum(metrics_page: str, name: str) -> float:
    """Sum of the series on a metrics page that start with this name, which may go on into the labels."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in metrics_page.splitlines() if line.startswith(name))


class WorkerProcess:
    """A worker in a process of its own, started as a person would start it."""

    def __init__(self, settings: Settings, log: Path, module: str = "stream.commands.cli", **env: str) -> None:
        self.port = free_port()
        self._log = log

        variables = {
            "VALUESTREAM_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "VALUESTREAM_HTTP_PORT": str(self.port),
            **{
                f"VALUESTREAM_{name.upper()}": str(getattr(settings, name))
                for name in (
                    "app_id",
                    "instance_id",
                    "events_topic",
                    "scores_topic",
                    "alerts_topic",
                    "dlq_topic",
                    "data_dir",
                )
            },
            **env,
        }
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "worker"],
                env={**os.environ, **variables},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages; status 0 while nothing listens."""
        return page(self.port, path)

    def metric(self, name: str) -> float:
        """Sum of the series that start with this name, which may go on into the labels."""
        return metric_sum(self.get("/metrics")[1], name)

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"the worker ended:\n{self.log()}"
            return self.get("/health/ready")[0] == 200

        wait_for("the worker to be ready", ready)

    def wait_idle(self, settings: Settings) -> None:
        """Wait until everything that the broker has is taken in, scored, durable and committed."""
        wait_for("all offsets to be committed", lambda: self.alive() and committed(settings) == end_offsets(settings))
        wait_for("the queue to be empty", lambda: self.alive() and self.metric("valuestream_queue_depth") == 0)

    def alive(self) -> bool:
        assert self.process.poll() is None, f"the worker ended:\n{self.log()}"
        return True

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, timeout_s: float = 20) -> int:
        self.process.terminate()
        return self.process.wait(timeout_s)

    def log(self) -> str:
        return self._log.read_text()


def end_offsets(settings: Settings) -> dict[int, int]:
    """End offset of every source partition."""
    consumer = KafkaConsumer(**kafka_python_config(settings))
    tps = [TopicPartition(settings.events_topic, p) for p in range(PARTITIONS)]
    ends = consumer.end_offsets(tps)
    consumer.close()
    return {tp.partition: offset for tp, offset in ends.items() if offset > 0}


def committed(settings: Settings) -> dict[int, int]:
    """Committed offset of every source partition that has a commit."""
    admin = KafkaAdminClient(**kafka_python_config(settings))
    try:
        offsets = admin.list_group_offsets(settings.app_id)[settings.app_id]
    except CoordinatorNotAvailableError:
        return {}  # Nothing was ever committed to this broker. It creates its topic for offsets only now.
    finally:
        admin.close()
    return {
        tp.partition: commit.offset
        for tp, commit in offsets.items()
        if tp.topic == settings.events_topic and commit.offset > 0
    }


def read_topic(settings: Settings, topic: str) -> list[Any]:
    """Every record of a topic up to its present end, in offset order per partition. Aborted records are left out."""
    consumer = KafkaConsumer(
        **kafka_python_config(settings),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    consumer.assign(tps)
    consumer.seek_to_beginning(*tps)
    ends = consumer.end_offsets(tps)
    records: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s to read {topic}"
        for polled in consumer.poll(timeout_ms=500).values():
            records.extend(polled)
    consumer.close()
    return records


def events_of(settings: Settings) -> list[Any]:
    """Every record of the events topic, in offset order per partition."""
    return read_topic(settings, settings.events_topic)


def last_values(records: Iterable[Any]) -> dict[str, bytes]:
    """The last value of each key, which compaction would keep."""
    return {r.key.decode(): r.value for r in records}


@dataclass(frozen=True)
class Oracle:
    """The result of an undisturbed run: the states, and the last score of every user as bytes."""

    partitions: dict[int, PartitionState]
    scores: dict[str, bytes]


def oracle(settings: Settings, model: Path = DEMO_MODEL, sentiment: SentimentModel | None = None) -> Oracle:
    """Replay the source topic offline. With a sentiment model the texts of accepted reviews are read as well."""
    scorer = Scorer(model)
    decider = Decider(scorer.manifest, scorer.sha256, AlertRule(high=0.7, clear=0.6, cooldown_s=86_400))
    decoder = Decoder(
        settings.envelope,
        Money(scorer.manifest.currency),
        bytes_max=settings.event_bytes_max,
        future_skew_s=settings.future_skew_s,
    )
    by_partition: dict[int, list[Any]] = {p: [] for p in range(PARTITIONS)}
    for record in read_topic(settings, settings.events_topic):
        by_partition[record.partition].append(record)
    states, scores = {}, {}
    for number, records in by_partition.items():
        state = states[number] = PartitionState(settings.lateness_s, "USD")
        decoded = decoder.decode(records, time.time())
        applied = state.apply(decoded.batch)
        if sentiment is not None:
            user_of = dict(zip(applied.accepted.tolist(), applied.users.tolist(), strict=True))
            reviews = [(i, text) for i, text in decoded.reviews if i in user_of]
            rows = np.array([user_of[i] for i, _ in reviews], np.int64)
            offsets = decoded.batch.rows["offset"][[i for i, _ in reviews]]
            state.note_sentiments(rows, offsets, sentiment.run([text for _, text in reviews]))
        if len(state):
            rows = np.arange(len(state))
            snapshot = state.snapshot(rows)
            as_of = snapshot.users["last_time"].astype(np.int64) + IDLE_AGES_S[state.idle_stages(state.watermark)]
            raw = scorer.run(encode(snapshot, as_of), features(snapshot, as_of))
            decided = decider.decide(snapshot, as_of, raw)
            scores |= {s.user_id: encode_json(s) for s in decided.scores}
    return Oracle(states, scores)
