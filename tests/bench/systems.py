"""Systems: the systems that are compared, and one measured run of a system on the topic."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from stream.kafka.topic_admin import ensure_topics
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from tests.bench import counts
from tests.bench.counts import UserCounts
from tests.bench.durable_users import DurableUsers, in_changelog, in_recovery_store, quix_changelog
from tests.bench.process import SystemProcess
from tests.broker import harness
from tests.broker.harness import Message, wait_for

__all__ = [
    "FAUST",
    "INGEST",
    "PEERS",
    "SCORING",
    "SYSTEMS",
    "VALUESTREAM",
    "System",
    "Topic",
    "run_system",
    "settings_for",
]

#: Output is complete when nothing more comes for this long. No system waits longer before it sends.
_QUIET_S: Final = 2.0
#: Python of the peers that cannot be installed together with our packages; see ``peers/requirements.txt``.
PEERS_PYTHON: Final = Path(__file__).resolve().parents[2] / ".venv-bench/bin/python"


@dataclass(frozen=True)
class System:
    """One system: the module that runs it, its arguments, and how to read the users that it keeps.

    A slow system reads only the first ``events_max`` records of the topic. A system without ``durable_users`` is a
    limit: it keeps nothing. ``emits`` says what its output must hold: the ``last`` record of every user is as of their
    last event, ``some`` record of every user is there, or ``none``.
    """

    name: str
    arguments: tuple[str, ...]
    durable_users: Callable[[Settings], DurableUsers] | None = None
    events_max: int = sys.maxsize
    emits: Literal["last", "some", "none"] = "last"
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Path = Path(sys.executable)
    ends_itself: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is our worker."""
        return self.arguments == _OURS

    @property
    def installed(self) -> bool:
        """Whether its Python environment is there."""
        return self.python.exists()


_OURS: Final = ("tests.bench.peers.valuestream",)
#: The job. Each user who had an event gets a record with the counts of the windows, as the peers send it.
VALUESTREAM: Final = System(
    "valuestream",
    _OURS,
    in_changelog(counts.of_valuestream),
    environment={"BENCH_SCORING": "windows", "VALUESTREAM_BATCH_USERS_MAX": "4096"},
)
#: The same, but the shipped model scores these users. No peer has so much work.
SCORING: Final = System(
    "valuestream_scoring", _OURS, in_changelog(counts.of_valuestream), environment={"BENCH_SCORING": "on"}
)
#: Ingestion alone, with nothing sent but the changelog.
INGEST: Final = System(
    "valuestream_ingest", _OURS, in_changelog(counts.of_valuestream), emits="none", environment={"BENCH_SCORING": "off"}
)
#: With its faster settings: uvloop, and a log level at which it makes no log record of debug messages.
FAUST: Final = System(
    "faust",
    ("tests.bench.peers.faust_stock", "--loop", "uvloop", "worker", "--loglevel", "info"),
    in_changelog(counts.of_faust),
    events_max=15_000,
)
QUIX: Final = System(
    "quixstreams",
    ("tests.bench.peers.quix",),
    in_changelog(counts.of_quix, quix_changelog),
    events_max=300_000,
    emits="some",
    python=PEERS_PYTHON,
    ends_itself=True,
)
BYTEWAX: Final = System(
    "bytewax",
    ("tests.bench.peers.bytewax_flow",),
    in_recovery_store,
    events_max=300_000,
    python=PEERS_PYTHON,
    ends_itself=True,
)
_LIMITS: Final = tuple(
    System(name, ("tests.bench.peers.limits", name), emits="none") for name in ("aiokafka", "decode", "aiokafka_decode")
)
SYSTEMS: Final = (VALUESTREAM, SCORING, INGEST, FAUST, QUIX, BYTEWAX, *_LIMITS)
#: Systems for which there is a ratio: our events per second over theirs.
PEERS: Final = ("faust", "quixstreams", "bytewax", "aiokafka", "aiokafka_decode")


@dataclass(frozen=True)
class Topic:
    """The events topic, and everything that was written to it, per partition in offset order."""

    bootstrap_servers: str
    name: str
    written: dict[int, list[Message]]
    _expected: dict[tuple[int, ...], dict[str, UserCounts]] = field(default_factory=dict, compare=False)

    def expected(self, applied: Mapping[str, int]) -> dict[str, UserCounts]:
        """Final counts after the first ``applied[partition]`` records of each partition.

        They are kept, since most systems read the whole topic.
        """
        key = tuple(applied.get(str(partition), 0) for partition in self.written)
        if key not in self._expected:
            prefix = (m for messages, n in zip(self.written.values(), key, strict=True) for m in messages[:n])
            self._expected[key] = counts.expected(prefix)
        return self._expected[key]

    def ends(self, events: int) -> dict[str, int]:
        """End offsets of the first ``events`` records in all, with the same share of each partition."""
        total, ends = sum(map(len, self.written.values())), {}
        for partition, messages in self.written.items():
            ends[str(partition)] = len(messages) * events // total
        ends["0"] += events - sum(ends.values())  # The few records that rounding lost.
        return ends


def settings_for(topic: Topic, app_id: str, folder: Path) -> Settings:
    """Settings of one run: all topics but that of the events are its own."""
    return Settings(
        bootstrap_servers=topic.bootstrap_servers,
        app_id=app_id,
        events_topic=topic.name,
        scores_topic=f"{app_id}-scores",
        alerts_topic=f"{app_id}-alerts",
        dlq_topic=f"{app_id}-dlq",
        data_dir=folder / app_id / "state",
    )


def run_system(system: System, topic: Topic, events: int, folder: Path, timeout_s: float) -> dict[str, Any]:
    """Run a system from the start of the topic until ``events`` are applied. Returns its report, with users checked."""
    settings = settings_for(topic, f"{system.name}-{uuid.uuid4().hex[:8]}", folder)
    ensure_topics(settings, harness.PARTITIONS)
    environment = {**system.environment, "BENCH_ENDS": json.dumps(topic.ends(events))}
    with SystemProcess(
        system.arguments,
        settings,
        events=events,
        folder=folder / settings.app_id,
        environment=environment,
        python=system.python,
    ) as process:
        wait_for(f"{system.name} to apply {events:,} events", process.finished, timeout_s)
        measured = {"system": system.name, **process.report()}
        if system.durable_users is None:
            return {**measured, "users": 0, "users_wrong": 0, "wrong": []}
        expected = topic.expected(measured["applied"])
        _let_finish(system, process, settings, expected, timeout_s)
        if system.ours:
            measured |= {"seconds_by_stage": process.seconds_by_stage(), **_state_size(process.metrics())}
            process.stop()
    measured |= _checked(system, settings, expected)
    if "last_changelog_at" in measured:
        # Applied events become durable soon after. This is when the last of them was handed to the producer.
        measured["seconds_to_last_changelog_record"] = measured.pop("last_changelog_at") - measured["began_at"]
    return measured


def _let_finish(
    system: System, process: SystemProcess, settings: Settings, expected: Mapping[str, UserCounts], timeout_s: float
) -> None:
    """Wait until everything that the system makes of the events is in its topics or its store."""
    if system.ends_itself:
        process.wait_end(timeout_s)
        return
    if system is FAUST:
        # It sends one changelog record for each event that is no repeat. When all are there, it may be killed.
        n_accepted = sum(user.n_events for user in expected.values())
        wait_for("all of its changelog", lambda: _records(settings, changelog_topic(settings)) >= n_accepted, timeout_s)
    deadline, seen = time.monotonic() + timeout_s, -1
    while system.emits != "none" and (now := _records(settings, settings.scores_topic)) != seen:
        assert process.running()
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for the output of {system.name} to end"
        seen = now
        time.sleep(_QUIET_S)


def _state_size(metrics: Mapping[str, float]) -> dict[str, float]:
    users, size = metrics.get("valuestream_state_users", 0.0), metrics.get("valuestream_state_bytes", 0.0)
    return {"state_bytes": size, "state_bytes_per_user": round(size / users, 1)} if users else {}


def _checked(system: System, settings: Settings, expected: Mapping[str, UserCounts]) -> dict[str, Any]:
    """Compare its users and its output with what they must be."""
    assert system.durable_users is not None, "a limit keeps nothing. This is a bug."
    users, about = system.durable_users(settings)
    wrong = counts.differences(users, expected)
    outputs = harness.read_topic(settings, settings.scores_topic) if system.emits != "none" else []
    last = {r.key.decode(): json.loads(r.value)["n_events"] for r in outputs}
    for user in expected if system.emits != "none" else ():
        n_events = expected[user].n_events
        if last.get(user, 0) != n_events and (system.emits == "last" or not 0 < last.get(user, 0) <= n_events):
            wrong.append(f"{user}: last record has {last.get(user)} events, expected {n_events}")
    return {"users": len(expected), "users_wrong": len(wrong), "wrong": wrong[:3], "emitted": len(outputs), **about}


def _records(settings: Settings, topic: str) -> int:
    return sum(harness.end_offsets(settings.model_copy(update={"events_topic": topic})).values())
