"""Results: the results file, and the machine that the results were measured on.

The file is written after every step, so that a later failure loses nothing.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from stream.commands.broker.jars import KAFKA_VERSION
from tests.bench.systems import PEERS_PYTHON

__all__ = ["RESULTS", "Machine", "Results"]

RESULTS: Final = Path("bench-results.json")
_PACKAGES: Final = ("faust-streaming", "aiokafka", "numpy", "msgspec", "orjson", "uvloop", "rocksdict", "onnxruntime")
_PEERS: Final = ("quixstreams", "bytewax", "confluent_kafka")


class Results:
    """All results in the file. A series replaces its own part of them and leaves the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, values: Mapping[str, Any], replace: tuple[str, ...] = ()) -> None:
        """Drop the keys that begin with one of ``replace``, then merge the values in and write the file."""
        kept = {name: value for name, value in self.values.items() if not (replace and name.startswith(replace))}
        self.values = {**kept, **values}
        unfinished = self._path.with_suffix(".json.tmp")
        unfinished.write_text(json.dumps(self.values, indent=1) + "\n")
        unfinished.replace(self._path)


class Machine:
    """The machine that measures from now on, and how much of its CPU time was taken away from it."""

    def __init__(self) -> None:
        self._about, self._ticks = _about(), _ticks()

    def so_far(self) -> dict[str, Any]:
        """The machine, when it began, its load, and the share of CPU time that its host has given to others since."""
        stolen, ticks = (now - before for now, before in zip(_ticks(), self._ticks, strict=True))
        return {
            **self._about,
            "load_average_end": round(os.getloadavg()[0], 2),
            "stolen_percent": round(100 * stolen / max(1, ticks), 1),
        }


def _ticks() -> tuple[int, int]:
    """CPU time since the machine's start: the part that its host gave to others, and all of it. See proc(5)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    ticks = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def _about() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "packages": {name: version(name) for name in _PACKAGES} | _peers(),
        "load_average_begin": round(os.getloadavg()[0], 2),
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _peers() -> dict[str, str]:
    """Versions of the peers in their environment, read from the names of their folders."""
    found = PEERS_PYTHON.parents[1].glob("lib/python*/site-packages/*.dist-info")
    named = dict(folder.name.removesuffix(".dist-info").split("-", 1) for folder in found)
    return {name: named[name] for name in _PEERS if name in named}
