"""Report inputs: an incomplete folder is refused, and the threshold has the best F1."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_export.evaluation.evaluation_folder import METRICS_FILE
from model_export.metrics.ranking import rank_predictions
from model_export.report import write_report
from model_export.report.inputs import best_f1_threshold
from stream.errors import ConfigError


def test_no_threshold_has_a_better_f1_than_the_chosen_one() -> None:
    rng = np.random.default_rng(1)
    p = rng.integers(0, 50, 400) / 50
    y = (rng.random(400) < p**2).astype(float)

    def f1(threshold: float) -> float:
        return 2 * float(((p >= threshold) & (y > 0)).sum()) / float((p >= threshold).sum() + y.sum())

    assert f1(best_f1_threshold(rank_predictions(p, y))) == max(f1(threshold) for threshold in np.unique(p))


def forget_metrics(folder: Path) -> None:
    (folder / METRICS_FILE).unlink()


def forget_scores(folder: Path) -> None:
    for path in folder.glob("1-fused-*"):
        path.unlink()


def forget_examples(folder: Path) -> None:
    (folder / "0.safetensors").unlink()


@pytest.mark.parametrize("forget", [forget_metrics, forget_scores, forget_examples])
def test_incomplete_folder_is_refused_with_the_next_step(
    folder: Path, tmp_path: Path, forget: Callable[[Path], None]
) -> None:
    shutil.copytree(folder, tmp_path / "part")
    forget(tmp_path / "part")
    with pytest.raises(ConfigError, match="run `valuestream-model evaluate`"):
        write_report(tmp_path / "part")
