"""Ingestion: lets every system do the job once in each round, and takes the medians of the rounds."""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stream.kafka.topic_admin import ensure_topics
from tests.bench.events import clicks
from tests.bench.systems import PEERS, SYSTEMS, VALUESTREAM, System, Topic, run_system, settings_for
from tests.broker import harness
from tests.broker.harness import Message

__all__ = ["Plan", "Say", "rounds", "summary", "write_topic"]

Say = Callable[[str], None]
_MEDIANS: Final = (
    "events_per_second",
    "cpu_seconds_per_million_events",
    "peak_rss_bytes",
    "rss_grown_bytes",
    "state_bytes_per_user",
    "emitted",
)


@dataclass(frozen=True)
class Plan:
    """How much is run. A system with an ``events_max`` reads only so many events from the start of the topic."""

    events: int = 600_000
    users: int = 10_000
    rounds: int = 5
    run_timeout_s: float = 180.0
    latency_events_per_s: int = 1_000
    latency_s: float = 20.0
    seed: int = 1

    def events_for(self, system: System) -> int:
        """How many events a system applies in one round."""
        return min(system.events_max, self.events)


def write_topic(plan: Plan, bootstrap_servers: str, folder: Path, messages: Iterable[Message] | None = None) -> Topic:
    """Write the events topic of a plan to the broker, and keep the events in memory as well."""
    topic = Topic(bootstrap_servers, f"bench-{uuid.uuid4().hex[:8]}", {p: [] for p in range(harness.PARTITIONS)})
    settings = settings_for(topic, f"{topic.name}-producer", folder)
    ensure_topics(settings, harness.PARTITIONS)
    written = list(messages or clicks(plan.events, plan.users, plan.seed, end=time.time()))
    harness.produce(settings, written)
    for message in written:
        topic.written[harness.partition_of((message[0] or b"").decode())].append(message)
    ends = harness.end_offsets(settings)
    assert ends == {p: len(m) for p, m in topic.written.items() if m}, f"wrote {len(written)}, the broker has {ends}"
    return topic


def rounds(
    plan: Plan, topic: Topic, systems: Sequence[System], folder: Path, say: Say, done: Callable[..., None]
) -> dict[str, str]:
    """Run all rounds, each in another order, and call ``done`` with each run. Returns system → why it failed.

    A system that fails or counts wrongly is left out from then on, because its speed means nothing.
    """
    failures: dict[str, str] = {}
    for number in range(plan.rounds):
        first = number % len(systems)
        for system in (*systems[first:], *systems[:first]):
            if system.name in failures:
                continue
            load, began = round(os.getloadavg()[0], 2), time.monotonic()
            try:
                run = run_system(system, topic, plan.events_for(system), folder, plan.run_timeout_s)
                assert not run["users_wrong"], f"{run['users_wrong']} of {run['users']} users wrong: {run['wrong']}"
            except Exception as error:
                failures[system.name] = f"{type(error).__name__}: {error}"
                say(f"round {number + 1} of {plan.rounds}: {system.name} FAILED: {failures[system.name]}")
                continue
            took = time.monotonic() - began
            say(
                f"round {number + 1} of {plan.rounds}: {system.name} {run['events_per_second']:,.0f} events/s"
                f" ({run['events']:,} in {run['seconds']:.1f} s; {took:.0f} s in all; load before {load})"
            )
            done({"round": number + 1, "load_average_before": load, **run})
    return failures


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians and ratios of the systems in these runs."""
    medians: dict[str, float] = {}
    for name in (system.name for system in SYSTEMS):
        for what in _MEDIANS:
            values = [run[what] for run in runs if run["system"] == name and what in run]
            if values:
                medians[f"ingest.{name}.{what}"] = round(float(statistics.median(values)), 1)
        users = [run["rss_grown_bytes"] / run["users"] for run in runs if run["system"] == name and run["users"]]
        if users:
            medians[f"ingest.{name}.rss_grown_bytes_per_user"] = round(float(statistics.median(users)), 1)
    rate = {name: medians.get(f"ingest.{name}.events_per_second", 0.0) for name in (VALUESTREAM.name, *PEERS)}
    ours = rate[VALUESTREAM.name]
    ratios = {f"ingest.ratio.{peer}": round(ours / rate[peer], 3) for peer in PEERS if ours and rate[peer]}
    return {**medians, **ratios, **_stages(runs)}


def _stages(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median seconds per million events of each stage of our worker."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for stage, seconds in run.get("seconds_by_stage", {}).items():
            applied = sum(run["applied"].values())
            found.setdefault(f"ingest.{run['system']}.seconds_per_million.{stage}", []).append(seconds / applied * 1e6)
    return {name: round(float(statistics.median(values)), 3) for name, values in found.items()}
