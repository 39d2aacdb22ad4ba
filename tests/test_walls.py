"""Walls that import-linter cannot see: what a fresh process has loaded after an import."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LOADED = """
import sys, importlib
importlib.import_module({module!r})
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & set({names!r})))
"""


def _loaded(module: str, *names: str) -> list[str]:
    """Which of these packages a fresh process has loaded after it imported the module."""
    code = _LOADED.format(module=module, names=names)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("module", ["stream.pipeline", "stream.assignment"])
def test_the_rules_of_the_pipeline_load_no_kafka_client(module: str) -> None:
    assert _loaded(module, "faust", "aiokafka", "kafka") == []


def test_a_kafka_client_is_seen_where_there_is_one() -> None:
    assert _loaded("stream.kafka.app", "faust", "aiokafka", "kafka") == ["aiokafka", "faust"]


def test_the_worker_loads_nothing_of_training() -> None:
    assert _loaded("stream.service.worker", "torch", "transformers", "sklearn", "model_export") == []
