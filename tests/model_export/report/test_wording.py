"""Wording: verdicts follow the interval, and the summary holds every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_export.evaluation.evaluation_folder import load_evaluation
from model_export.report import summary
from model_export.report.wording import compared, verdict_of, with_interval


@pytest.mark.parametrize(
    ("metric", "difference", "word"),
    [
        ("auc", (0.01, 0.02, 0.03), "better"),
        ("auc", (-0.03, -0.02, -0.01), "worse"),
        ("auc", (-0.01, 0.02, 0.03), "not worse"),
        ("ece", (0.01, 0.02, 0.03), "worse"),
        ("rmse", (-0.03, -0.02, -0.01), "better"),
        ("auc", (None, 0.2, None), "not known"),
    ],
)
def test_verdict_follows_the_interval(metric: str, difference: Any, word: str) -> None:
    assert verdict_of(metric, difference) == word
    assert compared(metric, difference, "it").startswith("not compared" if word == "not known" else f"{word} than it")


def test_summary_holds_every_model_with_its_interval_and_the_difference_to_lightgbm(folder: Path) -> None:
    evaluation = load_evaluation(folder)
    text = summary(evaluation)
    for task, of_task in evaluation.tasks.items():
        assert f"`{task}`" in text
        metrics = {"gini", "decile_mape", "total_bias"} if task == "ltv" else {"auc", "pr_auc", "log_loss", "ece"}
        for model, of_model in of_task.items():
            row = next(line for line in text.split(f"(`{task}`")[1].splitlines() if line.startswith(f"| {model} |"))
            assert all(with_interval(metric, of_model[metric]) in row for metric in metrics)
    assert text.count("| fused − lightgbm |") == len(evaluation.tasks)
