"""System process: runs one system in a process of its own, and reads the report that its meter writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from stream.commands.broker.processes import free_port
from stream.settings import Settings
from tests.broker.harness import PARTITIONS

__all__ = ["SystemProcess"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_STOP_TIMEOUT_S: Final = 30.0
_TIMED: Final = ("valuestream_stage_seconds", "valuestream_checkpoint_seconds")


class SystemProcess:
    """Runs ``python -m`` with these arguments until the context ends. Its log and its report lie in ``folder``."""

    def __init__(
        self,
        arguments: Sequence[str],
        settings: Settings,
        *,
        events: int,
        folder: Path,
        environment: Mapping[str, str],
        python: Path = Path(sys.executable),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        self._report, self._recovery, self._log = (folder / name for name in ("report.json", "recovery.json", "log"))
        for old in (self._report, self._recovery):
            old.unlink(missing_ok=True)
        self._name = arguments[0]
        names = ("bootstrap_servers", "app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic", "data_dir")
        environment_variables = {
            **{f"VALUESTREAM_{name.upper()}": str(getattr(settings, name)) for name in names},
            "VALUESTREAM_HTTP_PORT": str(self._port),
            "BENCH_EVENTS": str(events),
            "BENCH_REPORT": str(self._report),
            "BENCH_BROKER": settings.bootstrap_servers,
            "BENCH_TOPIC": settings.events_topic,
            "BENCH_OUTPUT": settings.scores_topic,
            "BENCH_APP_ID": settings.app_id,
            "BENCH_DATA_DIR": str(settings.data_dir),
            "BENCH_PARTITIONS": str(PARTITIONS),
            **environment,
        }
        with self._log.open("wb") as out:
            # The folder has no .env file, so nothing but these settings counts.
            self._process = subprocess.Popen(
                [str(python), "-m", *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(_ROOT), **environment_variables},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> SystemProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def finished(self) -> bool:
        """Whether the report is there. Fails if the process ended without a report or with an error."""
        ended, reported = self._process.poll(), self._report.exists()
        assert ended is None or (ended == 0 and reported), f"{self._name} ended with {ended}:\n{self._log_tail()}"
        return reported

    def running(self) -> bool:
        """Always true. Fails if the process has ended."""
        ended = self._process.poll()
        assert ended is None, f"{self._name} ended with {ended}:\n{self._log_tail()}"
        return True

    def recovered(self) -> dict[str, Any] | None:
        """How long our worker's last recovery took; None before the first has ended."""
        found: dict[str, Any] | None = json.loads(self._recovery.read_text()) if self._recovery.exists() else None
        return found

    def report(self) -> dict[str, Any]:
        """The report of its meter."""
        report: dict[str, Any] = json.loads(self._report.read_text())
        return report

    def metrics(self) -> dict[str, float]:
        """Our worker's metrics, each summed over its labels; empty before the worker listens."""
        return {name: sum(value for _, value in series) for name, series in self._samples().items()}

    def seconds_by_stage(self) -> dict[str, float]:
        """Seconds spent in each stage of our worker since its start, from its metrics."""
        samples = self._samples()
        return {
            labels.get("stage", "checkpoint"): round(value, 3)
            for name in _TIMED
            for labels, value in samples.get(f"{name}_sum", ())
        }

    def _samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return samples
        for family in text_string_to_metric_families(text):
            for s in family.samples:
                samples.setdefault(s.name, []).append((s.labels, s.value))
        return samples

    def pause(self) -> None:
        """Stop the process until :meth:`go_on`."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end. A worker then makes everything that it took in durable."""
        self._process.terminate()
        self.wait_end()

    def wait_end(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Wait until it has ended. It must end without an error."""
        ended = self._process.wait(timeout_s)
        assert ended == 0, f"{self._name} ended with {ended}:\n{self._log_tail()}"

    def _log_tail(self) -> str:
        return self._log.read_text()[-4_000:]
