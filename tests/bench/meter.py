"""What is measured inside a system's own process: events applied, and the time and CPU that they took."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

__all__ = ["Meter"]


class Meter:
    """Counts applied events; when ``limit`` are applied it writes the report, and ``done`` is true.

    The clock starts when the first events have been applied, and those are not counted in the rate: what came
    before is start-up.
    """

    def __init__(self, limit: int, report: Path) -> None:
        self._limit, self._report = limit, report
        self._applied: Counter[int] = Counter()
        self._total = self._first = 0
        self._began = self._cpu_began = 0.0
        self._began_at = 0.0
        self.done = False

    @classmethod
    def from_environment(cls) -> Self:
        """The meter that the benchmark asked this process for; one without a limit in a process started by hand."""
        return cls(
            int(os.environ.get("BENCH_EVENTS", sys.maxsize)), Path(os.environ.get("BENCH_REPORT", "report.json"))
        )

    def add(self, n: int, partition: int) -> None:
        """``n`` more events of a partition are in the state."""
        self._total += n
        self._applied[partition] += n
        if not self._first:
            self._first, self._began_at = n, time.time()
            self._began, self._cpu_began = time.perf_counter(), time.process_time()
        if self._total >= self._limit and not self.done:
            self.done = True
            self._write(time.perf_counter() - self._began, time.process_time() - self._cpu_began)

    def _write(self, seconds: float, cpu_seconds: float) -> None:
        counted = self._total - self._first
        report: dict[str, Any] = {
            "events": counted,
            "seconds": seconds,
            "events_per_second": counted / seconds if seconds else 0.0,
            "cpu_seconds_per_million_events": cpu_seconds / counted * 1e6 if counted else 0.0,
            "peak_rss_bytes": _peak_rss_bytes(),
            "began_at": self._began_at,
            "applied": {str(partition): n for partition, n in sorted(self._applied.items())},
        }
        unfinished = self._report.with_suffix(".tmp")
        unfinished.write_text(json.dumps(report))
        unfinished.replace(self._report)


def _peak_rss_bytes() -> int:
    """Of this process alone (``getrusage`` begins with what the parent had at the fork); 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
