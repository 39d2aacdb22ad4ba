"""Meter: counts applied events inside a system's own process, with the time and CPU that they took."""

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
    """One moment: events applied until then, wall and CPU clock in seconds, and resident memory."""

    events: int
    clock: float
    cpu: float
    rss_bytes: int


class Meter:
    """Counts applied events. When ``limit`` of them are applied, it writes the report and sets ``done``.

    The clock starts when the first events have been applied, or the first ``skip`` of them. These do not count in the
    rate, because the time before them is start-up. It uses the standard library only, since it also runs in the peers'
    environment.
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
        """The meter that the benchmark asked this process for. In a process started by hand it has no limit."""
        return cls(
            int(os.environ.get("BENCH_EVENTS", sys.maxsize)),
            Path(os.environ.get("BENCH_REPORT", "report.json")),
            int(os.environ.get("BENCH_SKIP", "0")),
        )

    def add(self, n: int, partition: int) -> None:
        """Count ``n`` more events of a partition, which are in the state now."""
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
        assert first is not None, "a report without events. This is a bug."
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
    """A memory size of this process in bytes; 0 on a machine without /proc.

    ``getrusage`` would not do: its maximum begins with what the parent process had at the fork.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
