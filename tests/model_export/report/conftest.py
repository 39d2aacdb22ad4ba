"""One evaluation folder and its page, which all tests of this folder read and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.report import write_report
from tests.model_export.report.small_evaluation import make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="session")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")
