"""Supervised: keeps shoppers sending and restarts the worker while faults happen."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final, Self

from aiokafka.errors import KafkaError as ProducerError
from kafka.errors import KafkaError

from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import WorkerProcess, wait_for
from tests.broker.undisturbed import shoppers
from tests.chaos.world import World

__all__ = ["Supervised", "Traffic"]

#: At most 400 events a second are sent. A fault lasts seconds, and afterwards everything is read back and compared.
_CHUNK: Final = 100
_CHUNK_EVERY_S: Final = 0.25
_EVENTS_MAX: Final = 40_000

#: A worker tells the reason of its end twice: at once in its log, and in the last line of the command.
_ENDS: Final = "this worker ends: "
_LAST_LINE: Final = "valuestream: "


class Traffic:
    """Shoppers who send from a thread of their own while the context is open. Events that fail are sent again.

    Events that are sent again may be in the topic twice. The oracle reads the topic itself, so such repeats are part of
    the test.
    """

    def __init__(self, settings: Settings, seed: int, users: int = 300) -> None:
        self._settings, self._messages = settings, shoppers(_EVENTS_MAX, users, seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait until the broker has everything that was sent."""
        self._ended.set()
        self._thread.join(harness.WAIT_S)
        assert not self._thread.is_alive(), f"the shoppers did not end within {harness.WAIT_S:.0f} s"

    def _send(self) -> None:
        chunks = (self._messages[at : at + _CHUNK] for at in range(0, len(self._messages), _CHUNK))
        for chunk in chunks:
            while not self._ended.wait(_CHUNK_EVERY_S):
                try:
                    harness.produce(self._settings, chunk)
                    break
                except (ProducerError, OSError):
                    continue


class Supervised:
    """A worker that is started again whenever it fails, as systemd and Kubernetes do; the context ends it."""

    def __init__(self, world: World, settings: Settings, **env: str) -> None:
        self._world, self._settings, self._env = world, settings, env
        self._worker = world.worker(settings, **env)
        #: The reason that each failed worker gave.
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.__exit__(kind, error, trace)

    @property
    def worker(self) -> WorkerProcess:
        """The worker that runs now. A failed worker is replaced first."""
        if self._failed():
            self.failures.append(self._reason())
            self._worker = self._world.worker(self._settings, **self._env)
        return self._worker

    @property
    def measures(self) -> dict[str, float]:
        """For the verdict: how often the worker was started again."""
        return {"restarts": float(len(self.failures))}

    def alive(self) -> bool:
        """Whether the worker still runs. If it has failed, it is replaced."""
        before = self._worker
        return self.worker is before

    def wait_failure(self) -> str:
        """Wait until the worker has failed, and return its reason. The next use of ``worker`` replaces it."""
        wait_for("the worker to fail", self._failed)
        return self._reason()

    def _failed(self) -> bool:
        status = self._worker.process.poll()
        assert status is None or status > 0, f"a worker may fail, but not end with {status}:\n{self._worker.log()}"
        return status is not None

    def _reason(self) -> str:
        """The reason that the worker gave for its end."""
        lines = self._worker.log().splitlines()
        return next((line for line in reversed(lines) if line.startswith(_LAST_LINE) or _ENDS in line), "nothing")

    def wait_ready(self) -> None:
        """Wait until a worker is ready, be it this one or its replacement."""
        wait_for("a worker to be ready", lambda: self.worker.get("/health/ready")[0] == 200)

    def wait_more(self) -> float:
        """Wait until everything that the broker has now is committed. Returns the seconds that it took."""
        started, ends = time.monotonic(), harness.end_offsets(self._settings)
        wait_for(f"commits up to {ends}", lambda: self.alive() and _committed(self._settings, ends))
        return time.monotonic() - started


def _committed(settings: Settings, ends: dict[int, int]) -> bool:
    """Whether these offsets are committed. A broker that has just come back does not know its groups yet."""
    try:
        found = harness.committed(settings)
    except KafkaError:
        return False
    return all(found.get(partition, 0) >= end for partition, end in ends.items())
