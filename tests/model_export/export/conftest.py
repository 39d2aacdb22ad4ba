"""One run folder, its model folder, and its graphs, which all tests of this folder read and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.export.export import export, to_onnx
from model_export.export.variants import fused
from tests.model_export.small_run import CONFIG, network, sample, write_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", network(), sample())


@pytest.fixture(scope="session")
def model_folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    export(run_folder, folder)
    return folder


@pytest.fixture(scope="session")
def plain() -> bytes:
    return to_onnx(network())


@pytest.fixture(scope="session")
def graph(plain: bytes) -> bytes:
    return fused(plain, CONFIG.heads, CONFIG.hidden)
