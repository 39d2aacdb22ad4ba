"""Tests of telemetry: that of onnxruntime is off before onnxruntime is first imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_LOAD_THE_MODEL = "from stream.score.scorer import DEMO_MODEL, Scorer; Scorer(DEMO_MODEL, provider='cpu', threads=1)"


def _run(code: str, home: Path) -> None:
    """Run this code in a process of its own, with an environment of its own.

    The switch is not in it, nor anything that says that this is CI: there onnxruntime sends nothing by itself.
    """
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=Path(__file__).parents[2], check=True)


def test_a_session_leaves_no_telemetry_id_in_the_home_folder(tmp_path: Path) -> None:
    _run(_LOAD_THE_MODEL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_switch_a_session_leaves_a_telemetry_id(tmp_path: Path) -> None:
    """The test above looks for such a file. If onnxruntime stops writing it, that test needs another sign."""
    _run("import onnxruntime; onnxruntime.get_available_providers()", tmp_path)
    assert list(tmp_path.rglob("*onnxruntime*"))


@pytest.mark.parametrize("package", ["stream", "model_export"])
def test_importing_the_package_sets_the_switch(package: str, tmp_path: Path) -> None:
    _run(f"import {package}, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'", tmp_path)
