"""Run: the command behind ``make bench``. All systems do the same job on the same topic, one after the other.

The job: decode JSON events of real size, drop repeats, keep the last 64 events of every user and the counts of four
event-time windows by event type, make them durable, and send one record a second for every user who had an event. The
final counts of every run are checked, and the medians go into a JSON file. ``--series`` measures other things, of our
worker alone.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from stream.commands.broker.embedded import EmbeddedBroker
from tests.bench.ingest import Plan, Say, rounds, summary, write_topic
from tests.bench.latency import measure_latency
from tests.bench.results import RESULTS, Machine, Results
from tests.bench.series import SERIES, SeriesPlan
from tests.bench.systems import SYSTEMS, System

__all__ = ["choose", "run_bench", "run_series"]


def run_bench(
    plan: Plan, systems: Sequence[System], bootstrap_servers: str, folder: Path, results: Results, say: Say
) -> dict[str, str]:
    """Run all rounds and the latency, and update the results after each run. Returns what failed → why."""
    machine, runs = Machine(), list[dict[str, Any]]()
    results.put(
        {"plan": asdict(plan), "machine": machine.so_far()}, replace=("ingest.", "latency", "rounds", "failures")
    )
    say(f"writing {plan.events:,} events of {plan.users:,} users to Kafka")
    topic = write_topic(plan, bootstrap_servers, folder)

    def done(run: dict[str, Any]) -> None:
        runs.append(run)
        results.put({**summary(runs), "rounds": runs}, replace=("ingest.",))

    failures = rounds(plan, topic, systems, folder, say, done)
    # A system that failed has no results, even if earlier rounds of it went well.
    sound = [run for run in runs if run["system"] not in failures]
    results.put({**summary(sound), "rounds": sound, "failures": failures}, replace=("ingest.",))
    if plan.latency_s:
        failures |= _latency(plan, topic, folder, results, say)
    results.put({"machine": machine.so_far(), "failures": failures})
    return failures


def _latency(plan: Plan, topic: Any, folder: Path, results: Results, say: Say) -> dict[str, str]:
    say(f"latency at {plan.latency_events_per_s:,} events/s for {plan.latency_s:.0f} s")
    load = round(os.getloadavg()[0], 2)
    try:
        found = measure_latency(
            topic, folder, users=plan.users, events_per_s=plan.latency_events_per_s, seconds=plan.latency_s
        )
    except Exception as error:
        say(f"latency FAILED: {error}")
        return {"latency": f"{type(error).__name__}: {error}"}
    del found["samples"]
    said = {f"latency.{name}": found[name] for name in ("p50_ms", "p99_ms")}
    results.put({**said, "latency": {"load_average_before": load, **found}})
    return {}


def run_series(
    name: str, plan: SeriesPlan, bootstrap_servers: str, folder: Path, results: Results, say: Say
) -> dict[str, str]:
    """Run one series. Each point is in the results as soon as it is measured."""
    machine = Machine()

    def put(values: dict[str, Any]) -> None:
        results.put({**values, f"machine.{name}": machine.so_far()})

    try:
        SERIES[name](plan, bootstrap_servers, folder, say, put)
    except Exception as error:
        say(f"{name} FAILED: {error}")
        return {name: f"{type(error).__name__}: {error}"}
    return {}


def choose(only: str, say: Say) -> list[System]:
    """The systems of these names, or all. A system that is not installed is left out, and a line says so."""
    names = [name for name in only.split(",") if name] or [system.name for system in SYSTEMS]
    unknown = set(names) - {system.name for system in SYSTEMS}
    if unknown:
        have = ", ".join(system.name for system in SYSTEMS)
        raise click.BadParameter(f"no system {', '.join(sorted(unknown))}; there are {have}", param_hint="--only")
    chosen = [system for system in SYSTEMS if system.name in names]
    for system in chosen:
        if not system.installed:
            say(f"{system.name} is left out: .venv-bench has no {system.python.name}; `make bench` makes it")
    return [system for system in chosen if system.installed]


def table(values: dict[str, Any]) -> str:
    """The comparison as a table for the terminal."""
    lines = [f"{'':<22}{'events/s':>12}{'CPU s per million':>20}{'peak RSS MB':>14}{'ours ×':>9}"]
    for name in (s.name for s in SYSTEMS if f"ingest.{s.name}.events_per_second" in values):
        rate, cpu, rss = (
            values[f"ingest.{name}.{what}"]
            for what in ("events_per_second", "cpu_seconds_per_million_events", "peak_rss_bytes")
        )
        ratio = values.get(f"ingest.ratio.{name}")
        lines.append(f"{name:<22}{rate:>12,.0f}{cpu:>20,.1f}{rss / 1e6:>14,.0f}{ratio or '':>9}")
    if "latency.p50_ms" in values:
        lines.append(f"event → score: p50 {values['latency.p50_ms']:.0f} ms, p99 {values['latency.p99_ms']:.0f} ms")
    return "\n".join(lines)


@click.command()
@click.option(
    "--series",
    type=click.Choice(["ingest", *SERIES]),
    default="ingest",
    show_default=True,
    help="What to measure; ingest is the comparison.",
)
@click.option("--events", default=Plan.events, show_default=True, help="Events in the topic.")
@click.option("--users", default=Plan.users, show_default=True, help="Users who send the events.")
@click.option("--rounds", default=Plan.rounds, show_default=True, help="How often each system runs; the median counts.")
@click.option("--only", default="", metavar="SYSTEM,SYSTEM", help="Run only these systems.")
@click.option(
    "--latency-seconds", "latency_s", default=Plan.latency_s, show_default=True, help="Length of the latency run."
)
@click.option("--skip-latency", is_flag=True, help="Measure ingestion only.")
@click.option(
    "--timeout", "run_timeout_s", default=Plan.run_timeout_s, show_default=True, help="Seconds that one run may take."
)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Results file.")
def main(series: str, only: str, skip_latency: bool, output: Path, **plan: Any) -> None:
    """Measure on a broker of its own, and write each result as soon as it is there."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So SIGTERM ends the broker as well.
    for name in [name for name in os.environ if name.startswith("VALUESTREAM_")]:
        del os.environ[name]  # The developer's own settings must not count.
    began, results = time.monotonic(), Results(output)

    def say(text: str) -> None:
        click.echo(f"[{time.monotonic() - began:6.0f} s] {text}")

    if skip_latency:
        plan["latency_s"] = 0.0
    with tempfile.TemporaryDirectory(prefix="valuestream-bench-") as made:
        folder = Path(made)
        with EmbeddedBroker(folder / "broker") as broker:
            broker.start(say)
            servers = broker.bootstrap_servers
            if series == "ingest":
                failures = run_bench(Plan(**plan), choose(only, say), servers, folder, results, say)
                click.echo(table(results.values))
            else:
                failures = run_series(series, SeriesPlan(), servers, folder, results, say)
    say(f"written to {output}")
    if failures:
        raise click.ClickException("\n".join(f"{name}: {why[-2_000:]}" for name, why in failures.items()))


if __name__ == "__main__":
    main()
