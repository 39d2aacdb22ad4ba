"""Series: measurements of our worker alone: scale in users, latency over rates, recovery, and two workers."""

from __future__ import annotations

import os
import shutil
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.kafka.topic_admin import ensure_topics
from stream.kafka.topics import required_topics
from stream.settings import Settings
from tests.bench.events import SPAN_S, clicks, everyone, zipf
from tests.bench.ingest import Plan, Say, write_topic
from tests.bench.latency import live_worker, saturated
from tests.bench.process import SystemProcess
from tests.bench.systems import INGEST, Topic, settings_for
from tests.bench.workers import measure_workers
from tests.broker import harness
from tests.broker.harness import Message, wait_for

__all__ = ["SERIES", "SeriesPlan"]

Put = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class SeriesPlan:
    """Sizes of the series. In ``scale`` every user has sent one event before ``scale_events`` more are measured."""

    scale_users: tuple[int, ...] = (10_000, 100_000, 500_000, 2_000_000)
    scale_events: int = 1_000_000
    scale_times: int = 3
    latency_users: int = 10_000
    latency_events: int = 200_000
    latency_rates: tuple[int, ...] = (100, 300, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
    latency_s: float = 15.0
    latency_warm_s: float = 45.0
    latency_warm_rate: int = 1_000
    overload_rate: int = 10_000
    overload_s: float = 20.0
    recovery_users: int = 500_000
    recovery_events: int = 1_000_000
    recovery_times: int = 3
    workers_users: int = 10_000
    workers_events: int = 600_000
    workers_rounds: int = 3
    run_timeout_s: float = 600.0
    seed: int = 1


def scale(plan: SeriesPlan, bootstrap_servers: str, folder: Path, say: Say, put: Put) -> None:
    """Measure events per second and memory for each number of users, with uniform and Zipf keys; take median runs."""
    points: list[dict[str, Any]] = []
    for users in plan.scale_users:
        for keys in ("uniform", "zipf"):
            load = round(os.getloadavg()[0], 2)
            topic = _stream_topic(_population(plan, users, plan.scale_events, keys), bootstrap_servers, folder)
            runs = [_scale_run(plan, users, topic, folder) for _ in range(plan.scale_times)]
            _delete_topics(topic.bootstrap_servers, [topic.name])
            point = sorted(runs, key=_rate)[len(runs) // 2]
            points.append(
                {"users": users, "keys": keys, "load_average_before": load, **point, "rates": list(map(_rate, runs))}
            )
            say(
                f"scale: {users:,} users, {keys}: {point['events_per_second']:,.0f} events/s,"
                f" {point['rss_bytes'] / 1e6:,.0f} MB"
            )
            put({"scale": points})


def _population(plan: SeriesPlan, users: int, events: int, keys: str) -> Iterator[Message]:
    now = time.time()
    activity = zipf(users, plan.seed) if keys == "zipf" else zipf(users, plan.seed, exponent=0.0)
    return chain(everyone(users, plan.seed, now - SPAN_S), clicks(events, users, plan.seed, now, activity=activity))


def _stream_topic(messages: Iterator[Message], bootstrap_servers: str, folder: Path) -> Topic:
    """Write these events to a topic without keeping them in memory."""
    topic = Topic(bootstrap_servers, f"bench-{uuid.uuid4().hex[:8]}", {})
    settings = settings_for(topic, f"{topic.name}-producer", folder)
    ensure_topics(settings, harness.PARTITIONS)
    harness.produce(settings, messages)
    return topic


def _rate(run: dict[str, Any]) -> float:
    return float(run["events_per_second"])


def _scale_run(plan: SeriesPlan, users: int, topic: Topic, folder: Path) -> dict[str, Any]:
    settings = settings_for(topic, f"scale-{uuid.uuid4().hex[:8]}", folder)
    ensure_topics(settings, harness.PARTITIONS)
    with _worker(settings, users + plan.scale_events, folder, skip=users) as process:
        wait_for(f"all events of {users:,} users", process.finished, plan.run_timeout_s)
        # The worker sets its gauges once a second.
        wait_for("the number of users", lambda: process.metrics().get("valuestream_state_users", 0) >= users)
        report, metrics = process.report(), process.metrics()
    shutil.rmtree(settings.data_dir)
    topics = [spec.name for spec in required_topics(settings, harness.PARTITIONS)]
    _delete_topics(settings.bootstrap_servers, [name for name in topics if name != topic.name])
    bytes_per_user = metrics["valuestream_state_bytes"] / metrics["valuestream_state_users"]
    kept = ("events", "seconds", "events_per_second", "cpu_seconds_per_million_events", "rss_bytes", "peak_rss_bytes")
    return {
        **{name: report[name] for name in kept},
        "before": report["before"],
        "state_users": metrics["valuestream_state_users"],
        "state_bytes_per_user": round(bytes_per_user, 1),
    }


def _delete_topics(bootstrap_servers: str, names: list[str]) -> None:
    """Delete topics at once, so that the memory of their files is free before the next run."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    at_once = {"file.delete.delay.ms": "1"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, at_once) for name in names])
    admin.delete_topics(names)
    admin.close()


def _worker(settings: Settings, events: int, folder: Path, skip: int = 0) -> SystemProcess:
    environment = {**INGEST.environment, "BENCH_SKIP": str(skip)}
    own = folder / settings.app_id
    return SystemProcess(INGEST.arguments, settings, events=events, folder=own, environment=environment)


def latency(plan: SeriesPlan, bootstrap_servers: str, folder: Path, say: Say, put: Put) -> None:
    """Measure event → score at rates up to saturation, then a rate above capacity, second by second."""
    whole = Plan(events=plan.latency_events, users=plan.latency_users, seed=plan.seed)
    topic = write_topic(whole, bootstrap_servers, folder)
    points: list[dict[str, Any]] = []
    with live_worker(topic, plan.latency_users, folder) as live:
        # The JVM of a broker that has just started compiles its code, on the cores that we measure.
        live.at(plan.latency_warm_rate, plan.latency_warm_s)
        for rate in plan.latency_rates:
            load = round(os.getloadavg()[0], 2)
            point = live.at(rate, plan.latency_s)
            points.append({"offered": rate, "load_average_before": load, **point})
            say(f"latency at {rate:,} events/s: p50 {point['p50_ms']:.0f} ms, p99 {point['p99_ms']:.0f} ms")
            put({"curve": [{k: v for k, v in p.items() if k != "samples"} for p in points]})
            if saturated(point, rate):
                break
        over = live.at(plan.overload_rate, plan.overload_s)
    put({"overload": {"offered": plan.overload_rate, "seconds": plan.overload_s, **over}})
    said = ", ".join(f"{name} {waits['p95_ms']:.0f} ms" for name, waits in over["by_priority"].items())
    say(f"overload at {plan.overload_rate:,} events/s: p95 wait {said}")


def recovery(plan: SeriesPlan, bootstrap_servers: str, folder: Path, say: Say, put: Put) -> None:
    """Measure how many users per second are read back: from the changelog, and from the local store."""
    messages = _population(plan, plan.recovery_users, plan.recovery_events, "uniform")
    topic = _stream_topic(messages, bootstrap_servers, folder)
    settings = settings_for(topic, f"recovery-{uuid.uuid4().hex[:8]}", folder)
    ensure_topics(settings, harness.PARTITIONS)
    with _worker(settings, plan.recovery_users + plan.recovery_events, folder) as process:
        wait_for("all events", process.finished, plan.run_timeout_s)
        process.stop()
    found: dict[str, list[dict[str, Any]]] = {"changelog": [], "local": []}
    for number in range(plan.recovery_times):
        shutil.rmtree(settings.data_dir)
        for runs in found.values():  # The recovery from the changelog fills the local store for the other one.
            runs.append(_start(settings, plan, folder))
        said = ", ".join(f"{name} {runs[-1]['seconds_to_recovered']:.1f} s" for name, runs in found.items())
        say(f"recovery {number + 1} of {plan.recovery_times}, since the start of the process: {said}")
        put({"recovery": _recovered(found, plan.recovery_users)})


def _start(settings: Settings, plan: SeriesPlan, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    with _worker(settings, 1, folder) as process:
        found = wait_for("recovery", lambda: process.running() and process.recovered(), plan.run_timeout_s)
        seconds = time.monotonic() - began
        process.stop()
    return {"seconds_to_recovered": seconds, **found}


def _recovered(found: dict[str, list[dict[str, Any]]], users: int) -> dict[str, Any]:
    """Medians. Times from the changelog count from its first record; local ones are opening, checking and loading."""
    replay_s = statistics.median(run["changelog_seconds"] for run in found["changelog"])
    records = statistics.median(run["changelog_records"] for run in found["changelog"])
    load_s = statistics.median(run["open_seconds"] + run["load_seconds"] for run in found["local"])
    short = [run["users"] for runs in found.values() for run in runs if run["users"] != users]
    assert not short, f"recovered {short[0]} users, expected {users}"
    return {
        "users": users,
        "changelog_records": round(records),
        "changelog_seconds": round(replay_s, 3),
        "changelog_users_per_second": round(users / replay_s),
        "local_seconds": round(load_s, 3),
        "local_users_per_second": round(users / load_s),
        "runs": found,
    }


def workers(plan: SeriesPlan, bootstrap_servers: str, folder: Path, say: Say, put: Put) -> None:
    """Measure one worker and two, on events that wait for them."""
    measured = measure_workers(
        bootstrap_servers,
        folder,
        say,
        events=plan.workers_events,
        users=plan.workers_users,
        rounds=plan.workers_rounds,
    )
    put({"workers": measured})


SERIES: Final = {"scale": scale, "latency": latency, "recovery": recovery, "workers": workers}
