"""What is measured inside a system's own process: events applied, and the time and CPU that they took."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Self

__all__ = ["Meter"]


class _Mark(NamedTuple):
    """A moment: events applied until then, both clocks in seconds, and memory."""

    events: int
    clock: float
    cpu: float
    rss_bytes: int


class Meter:
    """Counts applied events; when ``limit`` are applied it writes the report, and ``done`` is true.

    The clock starts when the first events have been applied (or the first ``skip`` of them), and those are not
    counted in the rate: what came before is start-up. Standard library only: it runs in the peers' environment.
    """

    def __init__(self, limit: int, report: Path, skip: int = 0) -> None:
        self.limit, self._report, self._skip = limit, report, skip
        self._applied: Counter[int] = Counter()
        self._total = 0
        self._first: _Mark | None = None
        self._start: _Mark | None = None
        self._began_at = 0.0
        self.done = False

    @classmethod
    def from_environment(cls) -> Self:
        """The meter that the benchmark asked this process for; one without a limit in a process started by hand."""
        return cls(
            int(os.environ.get("BENCH_EVENTS", sys.maxsize)),
            Path(os.environ.get("BENCH_REPORT", "report.json")),
            int(os.environ.get("BENCH_SKIP", "0")),
        )

    def add(self, n: int, partition: int) -> None:
        """``n`` more events of a partition are in the state."""
        self._total += n
        self._applied[partition] += n
        if self._start is None:
            self._begin()
        if self._total >= self.limit and not self.done:
            self.done = True
            self._write()

    def _begin(self) -> None:
        if self._first is None:
            self._first, self._began_at = self._mark(), time.time()
        if self._total >= self._skip:
            self._start = self._first if self._total == self._first.events else self._mark()

    def _mark(self) -> _Mark:
        return _Mark(self._total, time.perf_counter(), time.process_time(), _status_bytes("VmRSS:"))

    def _write(self) -> None:
        end, first = self._mark(), self._first
        start = self._start or end
        assert first is not None, "a report without events; this is a bug"
        report: dict[str, Any] = {
            **_rate(start, end),
            "peak_rss_bytes": _status_bytes("VmHWM:"),
            "rss_bytes": end.rss_bytes,
            "rss_grown_bytes": end.rss_bytes - first.rss_bytes,
            "began_at": self._began_at,
            "applied": {str(partition): n for partition, n in sorted(self._applied.items())},
        }
        if self._skip:
            report["before"] = _rate(first, start)
        unfinished = self._report.with_suffix(".tmp")
        unfinished.write_text(json.dumps(report))
        unfinished.replace(self._report)


def _rate(start: _Mark, end: _Mark) -> dict[str, float]:
    events, seconds = end.events - start.events, end.clock - start.clock
    return {
        "events": events,
        "seconds": seconds,
        "events_per_second": events / seconds if seconds else 0.0,
        "cpu_seconds_per_million_events": (end.cpu - start.cpu) / events * 1e6 if events else 0.0,
    }


def _status_bytes(name: str) -> int:
    """Of this process alone (``getrusage`` begins with what the parent had at the fork); 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
