"""``make bench``: every system does the same job on the same topic in the same run, in turns; medians go into JSON.

The job: decode JSON events of real size, drop repeats, keep for every user the last 64 events and the counts of
four event-time windows by event type, durably, with a changelog. The final counts of every run are checked.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from stream.service.broker import EmbeddedBroker
from stream.service.jars import KAFKA_VERSION
from stream.service.topics import ensure_topics
from tests.bench.events import clicks
from tests.bench.latency import measure_latency
from tests.bench.systems import FAUST, SYSTEMS, VALUESTREAM, Topic, run_system, settings_for
from tests.broker import harness

__all__ = ["Plan", "run_bench"]

Say = Callable[[str], None]
_PACKAGES: Final = ("faust-streaming", "aiokafka", "numpy", "msgspec", "orjson", "uvloop", "rocksdict", "onnxruntime")


@dataclass(frozen=True)
class Plan:
    """What is run. Stock Faust takes the first ``faust_events`` of the topic, so as not to take all day."""

    events: int = 300_000
    users: int = 10_000
    faust_events: int = 30_000
    rounds: int = 3
    latency_events_per_s: int = 1_000
    latency_s: float = 20.0
    seed: int = 1

    def events_for(self, system: str) -> int:
        """How many events a system applies in one round."""
        return min(self.faust_events, self.events) if system == FAUST.name else self.events


def run_bench(plan: Plan, bootstrap_servers: str, folder: Path, say: Say) -> dict[str, Any]:
    """Run all rounds; the results as they go into the file. AssertionError where a system counts wrongly."""
    machine, began = _machine(), datetime.now(UTC)
    say(f"writing {plan.events:,} events of {plan.users:,} users to Kafka")
    topic = _write_topic(plan, bootstrap_servers, folder)
    rounds = []
    for number in range(1, plan.rounds + 1):
        for system in SYSTEMS:
            done = run_system(system, topic, plan.events_for(system.name), folder)
            say(f"round {number} of {plan.rounds}: {system.name} {done['events_per_second']:,.0f} events/s")
            assert not done["users_wrong"], f"{system.name} counts wrongly, so its speed means nothing: {done['wrong']}"
            rounds.append({"round": number, **done})
    say(f"latency at {plan.latency_events_per_s:,} events/s for {plan.latency_s:.0f} s")
    latency = measure_latency(topic, plan.users, plan.latency_events_per_s, plan.latency_s, folder)
    return {
        **_summary(rounds, latency),
        "plan": asdict(plan),
        "machine": {**machine, "began": began.isoformat(timespec="seconds"), "load_average_end": os.getloadavg()[0]},
        "latency": latency,
        "rounds": rounds,
    }


def _write_topic(plan: Plan, bootstrap_servers: str, folder: Path) -> Topic:
    topic = Topic(bootstrap_servers, f"bench-{uuid.uuid4().hex[:8]}", {p: [] for p in range(harness.PARTITIONS)})
    settings = settings_for(topic, f"{topic.name}-producer", folder)
    ensure_topics(settings, harness.PARTITIONS)
    messages = list(clicks(plan.events, plan.users, plan.seed, end=time.time()))
    harness.produce(settings, messages)
    for message in messages:
        topic.written[harness.partition_of((message[0] or b"").decode())].append(message)
    ends = harness.end_offsets(settings)
    assert ends == {p: len(m) for p, m in topic.written.items() if m}, f"wrote {len(messages)}, the broker has {ends}"
    return topic


def _summary(rounds: list[dict[str, Any]], latency: dict[str, Any]) -> dict[str, float]:
    def median(system: str, what: str) -> float:
        return float(statistics.median(r[what] for r in rounds if r["system"] == system))

    summary = {
        f"ingest.{system.name}.{what}": round(median(system.name, what), 1)
        for system in SYSTEMS
        for what in ("events_per_second", "cpu_seconds_per_million_events", "peak_rss_bytes")
    }
    ours, theirs = median(VALUESTREAM.name, "events_per_second"), median(FAUST.name, "events_per_second")
    summary[f"ingest.ratio.{FAUST.name}"] = round(ours / theirs, 2)
    return {**summary, "latency.p50_ms": latency["p50_ms"], "latency.p99_ms": latency["p99_ms"]}


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "packages": {name: version(name) for name in _PACKAGES},
        "load_average_begin": os.getloadavg()[0],
    }


def _table(results: dict[str, Any]) -> str:
    lines = [f"{'ingestion with durable state':<30}{'events/s':>12}{'CPU s per million':>20}{'peak RSS MB':>14}"]
    for name in (system.name for system in SYSTEMS):
        rate, cpu, rss = (
            results[f"ingest.{name}.{what}"]
            for what in ("events_per_second", "cpu_seconds_per_million_events", "peak_rss_bytes")
        )
        lines.append(f"{name:<30}{rate:>12,.0f}{cpu:>20,.1f}{rss / 1e6:>14,.0f}")
    lines.append(f"valuestream is {results['ingest.ratio.faust']:,.1f} times as fast as stock Faust")
    lines.append(f"event → score: p50 {results['latency.p50_ms']:.0f} ms, p99 {results['latency.p99_ms']:.0f} ms")
    return "\n".join(lines)


@click.command()
@click.option("--events", default=Plan.events, show_default=True, help="Events in the topic.")
@click.option("--users", default=Plan.users, show_default=True, help="Users who send them.")
@click.option("--faust-events", default=Plan.faust_events, show_default=True, help="Of these, for stock Faust.")
@click.option("--rounds", default=Plan.rounds, show_default=True, help="Runs of each system; the median counts.")
@click.option("--latency-seconds", "latency_s", default=Plan.latency_s, show_default=True, help="Length of that run.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("bench-results.json"), show_default=True)
def main(output: Path, **plan: Any) -> None:
    """Measure on a Kafka of its own, and write the results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # An end from outside ends the broker as well.
    for name in [name for name in os.environ if name.startswith("VALUESTREAM_")]:
        del os.environ[name]  # The developer's own settings stay out.
    with tempfile.TemporaryDirectory(prefix="valuestream-bench-") as made:
        folder = Path(made)
        with EmbeddedBroker(folder / "broker") as broker:
            broker.start(click.echo)
            results = run_bench(Plan(**plan), broker.bootstrap_servers, folder, click.echo)
    unfinished = output.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.replace(output)
    click.echo(f"{_table(results)}\nwritten to {output}")


if __name__ == "__main__":
    main()
