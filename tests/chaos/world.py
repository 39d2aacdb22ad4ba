"""World: what a scenario has to work with: a real broker, topics of its own, workers as processes, and a size."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream.service.broker import EmbeddedBroker
from stream.service.settings import Settings
from stream.service.topics import ensure_topics
from tests.broker.harness import PARTITIONS, WorkerProcess
from tests.chaos.judge import Verdict

__all__ = ["SCENARIOS", "Scenario", "World", "scenario"]


@dataclass(frozen=True)
class World:
    """One run of one scenario. ``short`` asks for the form that is part of ``make test``: a few seconds."""

    broker: EmbeddedBroker
    folder: Path
    seed: int
    short: bool
    _names: dict[str, str] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    def settings(self, **overrides: Any) -> Settings:
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
        ensure_topics(settings, partitions=PARTITIONS)
        return settings

    def worker(self, settings: Settings, **env: str) -> WorkerProcess:
        """Start a worker; use it as a context, so that it ends with the scenario."""
        return WorkerProcess(settings, self.folder / "worker.log", **env)


Scenario = Callable[[World], Verdict]
#: Name → scenario, in the order of their table; filled by :func:`scenario`.
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Register a function as the scenario of this name."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return register
