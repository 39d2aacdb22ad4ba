"""The sentiment commands: they work one after the other, and help is fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from model_export.text.cli import sentiment
from stream.errors import ConfigError
from stream.score.sentiment import MANIFEST_FILE, MODEL_FILE
from tests.score.test_sentiment import write_reviews


def test_train_export_and_evaluate_by_their_commands(tmp_path: Path, checkpoint: Path) -> None:
    texts, run, model = (str(tmp_path / name) for name in ("r.csv", "run", "model"))
    write_reviews(tmp_path / "r.csv")
    of_texts = ["--texts", texts, "--time-column", "time"]
    trained = CliRunner().invoke(
        sentiment,
        ["train", *of_texts, "--out", run, "--checkpoint", str(checkpoint), "--mode", "frozen",
         "--epochs", "30", "--max-length", "24",
         "--class-min", "5", "--no-class-weights"],
        catch_exceptions=False,
    )  # fmt: skip
    assert trained.exit_code == 0 and "sentiment export" in trained.stdout, trained.output
    exported = CliRunner().invoke(sentiment, ["export", run, "--out", model], catch_exceptions=False)
    assert exported.exit_code == 0 and "on cpu" in exported.stdout
    measured = CliRunner().invoke(sentiment, ["evaluate", model, *of_texts], catch_exceptions=False)
    assert float(measured.stdout.split("macro_f1")[1].split()[0]) > 0.9
    assert "until 2023-11-" in measured.stdout
    manifest = json.loads((tmp_path / "model" / MANIFEST_FILE).read_text())
    assert manifest["trained_on"]["source"] == "r.csv" and str(tmp_path) not in json.dumps(manifest)
    assert manifest["trained_on"]["fit.class_weights"] is False and MODEL_FILE in manifest["files"]


def test_commands_without_time_or_user_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="random split"):
        CliRunner().invoke(
            sentiment, ["train", "--texts", "r.csv", "--out", str(tmp_path / "run")], catch_exceptions=False
        )


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from model_export.text.cli import sentiment; "
        "CliRunner().invoke(sentiment, ['train', '--help']); "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
