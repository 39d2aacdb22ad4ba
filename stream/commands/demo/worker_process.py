"""The worker of the demo: ``valuestream worker`` in a process of its own, with its log in a file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from stream.commands.broker.processes import POLL_S
from stream.commands.demo.scrape import Reading, ready, scrape
from stream.errors import ValuestreamError

__all__ = ["WorkerProcess"]

_READY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 15.0
_LOG_LINES: Final = 4


class WorkerProcess:
    """A running ``valuestream worker``. ``flags`` are its settings, by name."""

    def __init__(self, flags: dict[str, object], log: Path) -> None:
        self.log = log
        self.port = int(str(flags["http_port"]))
        arguments = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        with log.open("wb") as out:
            # The worker has a session of its own, so that Ctrl-C in the terminal does not end it before the last event.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream.commands.cli", "worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return once it serves. Raises ValuestreamError with the end of its log if it does not."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not ready(self.port):
            self._require_alive()
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {_READY_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)

    def reading(self, at: float) -> Reading:
        """What its metrics say. Raises ValuestreamError with the end of its log if it does not answer."""
        self._require_alive()
        reading = scrape(self.port, at)
        if reading is None:
            self._require_alive()
            raise self._failure("does not answer at its metrics port")
        return reading

    def _require_alive(self) -> None:
        status = self._process.poll()
        if status is not None:
            raise self._failure(f"ended with exit status {status}")

    def stop(self) -> None:
        """End it in order. Raises ValuestreamError if it takes too long, or if its exit status is not 0."""
        self._process.terminate()
        try:
            status = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failure(f"did not stop within {_STOP_TIMEOUT_S:.0f} s") from None
        if status:
            raise self._failure(f"ended with exit status {status}")

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._process.kill()
        self._process.wait()

    def _failure(self, problem: str) -> ValuestreamError:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        last_words = "\n  ".join(lines[-_LOG_LINES:]) or "(nothing)"
        return ValuestreamError(
            f"the worker {problem}; expected it to serve until the demo ends; its last words are below, all of them in"
            f" {self.log}\n  {last_words}"
        )
