"""The results file: written after every step, so that what fails later loses nothing; and what machine it was."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from stream.service.jars import KAFKA_VERSION
from tests.bench.systems import PEERS_PYTHON

__all__ = ["RESULTS", "Results", "machine"]

RESULTS: Final = Path("bench-results.json")
_PACKAGES: Final = ("faust-streaming", "aiokafka", "numpy", "msgspec", "orjson", "uvloop", "rocksdict", "onnxruntime")
_PEERS: Final = ("quixstreams", "bytewax", "confluent_kafka")


class Results:
    """All results there are; a series replaces its own part of them and leaves the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, values: Mapping[str, Any], replace: tuple[str, ...] = ()) -> None:
        """Merge and write; before that, keys that begin with one of ``replace`` are dropped."""
        kept = {name: value for name, value in self.values.items() if not (replace and name.startswith(replace))}
        self.values = {**kept, **values}
        unfinished = self._path.with_suffix(".json.tmp")
        unfinished.write_text(json.dumps(self.values, indent=1) + "\n")
        unfinished.replace(self._path)


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and when."""
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
    """Versions in the peers' environment, by the names of their folders there."""
    found = PEERS_PYTHON.parents[1].glob("lib/python*/site-packages/*.dist-info")
    named = dict(folder.name.removesuffix(".dist-info").split("-", 1) for folder in found)
    return {name: named[name] for name in _PEERS if name in named}
