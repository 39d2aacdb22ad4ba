"""The systems that are compared, and one measured run of one of them on the topic."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stream.service.settings import Settings
from stream.service.topics import changelog_topic, ensure_topics
from tests.bench import counts
from tests.bench.counts import UserCounts
from tests.bench.process import SystemProcess
from tests.broker import harness
from tests.broker.harness import Message, wait_for

__all__ = ["FAUST", "SCORING", "SYSTEMS", "VALUESTREAM", "System", "Topic", "run_system", "settings_for"]

_RUN_TIMEOUT_S: Final = 900.0


@dataclass(frozen=True)
class System:
    """One system: the module that runs it with its arguments, and how to read users' counts from its changelog."""

    name: str
    arguments: tuple[str, ...]
    counts: Callable[[Mapping[str, bytes]], dict[str, UserCounts]]
    environment: Mapping[str, str] = field(default_factory=dict)


_OURS: Final = ("tests.bench.peers.valuestream",)
#: Ingestion alone: the peers score nobody either.
VALUESTREAM: Final = System("valuestream", _OURS, counts.of_valuestream, {"BENCH_SCORING": "off"})
#: The same with the shipped model scoring at the default refresh interval.
SCORING: Final = System("valuestream_scoring", _OURS, counts.of_valuestream, {"BENCH_SCORING": "on"})
#: Its faster settings: uvloop, and a log level at which it does not make a record of every debug message.
FAUST: Final = System(
    "faust", ("tests.bench.peers.faust_stock", "--loop", "uvloop", "worker", "--loglevel", "info"), counts.of_faust
)
SYSTEMS: Final = (VALUESTREAM, SCORING, FAUST)


@dataclass(frozen=True)
class Topic:
    """The events topic and all that was written to it, per partition in offset order."""

    bootstrap_servers: str
    name: str
    written: dict[int, list[Message]]

    def prefix(self, applied: Mapping[str, int]) -> list[Message]:
        """The first so many records of each partition."""
        return [m for partition, n in applied.items() for m in self.written[int(partition)][:n]]


def settings_for(topic: Topic, app_id: str, folder: Path) -> Settings:
    """Settings of one run, with topics of its own for everything but the events."""
    return Settings(
        bootstrap_servers=topic.bootstrap_servers,
        app_id=app_id,
        events_topic=topic.name,
        scores_topic=f"{app_id}-scores",
        alerts_topic=f"{app_id}-alerts",
        dlq_topic=f"{app_id}-dlq",
        data_dir=folder / app_id,
    )


def run_system(system: System, topic: Topic, events: int, folder: Path) -> dict[str, Any]:
    """Run a system from the start of the topic until ``events`` are applied; its report, with the users checked."""
    settings = settings_for(topic, f"{system.name}-{uuid.uuid4().hex[:8]}", folder)
    if system is not FAUST:
        ensure_topics(settings, harness.PARTITIONS)
    with SystemProcess(system.arguments, settings, events, folder / settings.app_id, system.environment) as process:
        wait_for(f"{system.name} to apply {events:,} events", process.finished, _RUN_TIMEOUT_S)
        measured = process.report()
        wanted = counts.expected(topic.prefix(measured["applied"]))
        if system is FAUST:
            # It sends one changelog record for each event that counts; when all are there, it may be killed.
            n_accepted = sum(user.n_events for user in wanted.values())
            wait_for("all of its changelog", lambda: _changelog_records(settings) >= n_accepted)
        else:
            measured["seconds_by_stage"] = process.seconds_by_stage()
            process.stop()
    records = harness.read_topic(settings, changelog_topic(settings))
    wrong = counts.differences(system.counts(harness.last_values(records)), wanted)
    # What is applied becomes durable soon after; this is when the last of it was handed to the producer.
    measured["seconds_to_last_changelog_record"] = max(r.timestamp for r in records) / 1000 - measured["began_at"]
    measured["changelog_bytes"] = sum(len(r.value) for r in records)
    return {"system": system.name, "users": len(wanted), "users_wrong": len(wrong), "wrong": wrong[:3], **measured}


def _changelog_records(settings: Settings) -> int:
    changelog = settings.model_copy(update={"events_topic": changelog_topic(settings)})
    return sum(harness.end_offsets(changelog).values())
