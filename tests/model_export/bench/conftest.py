"""One run folder and one bench of it, which all tests of this folder read."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.bench.bench import BenchResult, bench
from model_export.bench.workload import load_workload
from tests.model_export.small_run import network, sample, write_run

BATCHES = (1, 16)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", network(), sample())


@pytest.fixture(scope="session")
def result(run_folder: Path) -> BenchResult:
    return bench(load_workload(run_folder), batches=BATCHES, rounds=1, compiled=False, users_max=32)
