"""World: what a scenario has to work with: a real broker, topics of its own, workers as processes, and a size."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np

from stream.commands.broker.embedded import EmbeddedBroker
from stream.contract.columns import USER
from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings
from stream.state.erasure import Erasures
from tests.broker import harness
from tests.broker.harness import PARTITIONS, WorkerProcess, wait_for
from tests.chaos.judge import Verdict, newest_values

__all__ = ["BROKER_PROPERTIES", "SCENARIOS", "Scenario", "World", "scenario", "wait_settled"]

#: Kafka refuses sessions of less than 6 s by default; scenarios that wait for one to end would take as much longer.
#: A topic is compacted when a scenario asks for it, not up to 15 s later.
BROKER_PROPERTIES: Final = {"group.min.session.timeout.ms": "1000", "log.cleaner.backoff.ms": "500"}


@dataclass(frozen=True)
class World:
    """One run of one scenario. ``short`` asks for the form that is part of ``make test``: a few seconds.

    Used as a context, it ends the workers that the scenario left.
    """

    broker: EmbeddedBroker
    folder: Path
    seed: int
    short: bool
    _names: dict[str, str] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)
    _workers: list[WorkerProcess] = field(default_factory=list)

    def settings(self, *, replication: int = 1, **overrides: Any) -> Settings:
        """Settings of one worker: all of a run share topics and app id, each has a data directory of its own."""
        if not self._names:
            unique = uuid.uuid4().hex[:10]
            topics = {
                name: f"{name}-{unique}" for name in ("events_topic", "scores_topic", "alerts_topic", "dlq_topic")
            }
            self._names.update(app_id=f"app-{unique}", **topics)
        values = {
            "bootstrap_servers": self.broker.bootstrap_servers,
            "data_dir": self.folder / f"state-{next(self._numbers)}",
            "http_port": 0,
            **self._names,
            **overrides,
        }
        settings = Settings(**values)
        ensure_topics(settings, PARTITIONS, replication)
        return settings

    def worker(self, settings: Settings, module: str = "stream.commands.cli", **env: str) -> WorkerProcess:
        """Start a worker with a log of its own; use it as a context where it is to end before the scenario does."""
        log = self.folder / f"worker-{len(self._workers)}.log"
        self._workers.append(WorkerProcess(settings, log, module=module, **env))
        return self._workers[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to go wrong. ``play`` does it and judges; ``own_broker`` where it harms the broker.

    A run that takes longer than ``bound_s`` has failed; ``seeds_max`` bounds how often a long one is run.
    """

    name: str
    play: Callable[[World], Verdict]
    own_broker: bool
    bound_s: float
    seeds_max: int


#: Name → scenario, in the order of their table; filled by :func:`scenario`.
SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, own_broker: bool = False, bound_s: float = 300.0, seeds_max: int = 1_000
) -> Callable[[Callable[[World], Verdict]], Callable[[World], Verdict]]:
    """Register a function as the scenario of this name; see :class:`Scenario`."""

    def register(play: Callable[[World], Verdict]) -> Callable[[World], Verdict]:
        SCENARIOS[name] = Scenario(name, play, own_broker, bound_s, seeds_max)
        return play

    return register


class Living(Protocol):
    """A worker, or what stands for one."""

    def alive(self) -> bool:
        """Whether it runs; AssertionError where it does not and should."""


def wait_settled(settings: Settings, *workers: Living, timeout_s: float = harness.WAIT_S) -> None:
    """Until all events are committed and the changelog says of every user that the broker has their score."""

    def settled() -> bool:
        alive = all(worker.alive() for worker in workers)
        return alive and harness.committed(settings) == harness.end_offsets(settings) and _all_scored(settings)

    wait_for("all events to be committed and all users to be scored", settled, timeout_s)


def _all_scored(settings: Settings) -> bool:
    by_partition = newest_values(settings).values()
    packed = [value for users in by_partition for key, value in users.items() if not Erasures.is_marker(key)]
    users = np.frombuffer(b"".join(value[1 : 1 + USER.itemsize] for value in packed), USER)
    return bool((users["scored_offset"] >= users["applied_offset"]).all())
