"""World: gives a scenario a real broker, topics of its own, workers as processes, and a size."""

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

#: By default Kafka refuses sessions of less than 6 s, and scenarios would have to wait so long for one to end.
#: With the short back-off a topic is compacted when a scenario asks for it, not up to 15 s later.
BROKER_PROPERTIES: Final = {"group.min.session.timeout.ms": "1000", "log.cleaner.backoff.ms": "500"}


@dataclass(frozen=True)
class World:
    """One run of one scenario. ``short`` asks for the form in ``make test``, which takes a few seconds.

    As a context it ends the workers that the scenario left running.
    """

    broker: EmbeddedBroker
    folder: Path
    seed: int
    short: bool
    _names: dict[str, str] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)
    _workers: list[WorkerProcess] = field(default_factory=list)

    def settings(self, *, replication: int = 1, **overrides: Any) -> Settings:
        """Settings of one worker. Workers of a run share topics and app id, but each has its own data directory."""
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
        """Start a worker with its own log. Use it as a context if it is to end before the scenario does."""
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
    """One kind of fault. ``play`` causes it and judges. ``own_broker`` is set if it harms the broker.

    A run that takes longer than ``timeout_s`` has failed. ``seeds_max`` limits how often a long scenario is played.
    """

    name: str
    play: Callable[[World], Verdict]
    own_broker: bool
    timeout_s: float
    seeds_max: int


#: Name → scenario, in the order of the table. :func:`scenario` fills it.
SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, own_broker: bool = False, timeout_s: float = 300.0, seeds_max: int = 1_000
) -> Callable[[Callable[[World], Verdict]], Callable[[World], Verdict]]:
    """Register a function as the scenario with this name; see :class:`Scenario`."""

    def register(play: Callable[[World], Verdict]) -> Callable[[World], Verdict]:
        SCENARIOS[name] = Scenario(name, play, own_broker, timeout_s, seeds_max)
        return play

    return register


class Living(Protocol):
    """A worker, or an object that stands for one."""

    def alive(self) -> bool:
        """Whether it runs. Raises AssertionError if it should run and does not."""


def wait_settled(settings: Settings, *workers: Living, timeout_s: float = harness.WAIT_S) -> None:
    """Wait until all events are committed and, by the changelog, the broker has the score of every user."""

    def settled() -> bool:
        alive = all(worker.alive() for worker in workers)
        return alive and harness.committed(settings) == harness.end_offsets(settings) and _all_scored(settings)

    wait_for("all events to be committed and all users to be scored", settled, timeout_s)


def _all_scored(settings: Settings) -> bool:
    by_partition = newest_values(settings).values()
    packed = [value for users in by_partition for key, value in users.items() if not Erasures.is_marker(key)]
    users = np.frombuffer(b"".join(value[1 : 1 + USER.itemsize] for value in packed), USER)
    return bool((users["scored_offset"] >= users["applied_offset"]).all())
