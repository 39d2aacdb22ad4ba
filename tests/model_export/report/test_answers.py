"""Answer sections: headlines agree with the intervals."""

from __future__ import annotations

from pathlib import Path

from model_export.evaluation.evaluation_folder import load_evaluation
from model_export.report.answers import headlines_section
from model_export.report.inputs import read_report_inputs
from model_export.report.wording import with_interval
from tests.model_export.report.small_evaluation import SMALL, Reader, make


def test_headline_says_better_where_the_interval_lies_above_zero(folder: Path, page: str) -> None:
    assert load_evaluation(folder).differences["churn"]["lightgbm"]["auc"][0] > 0
    assert page.count('<div class="verdict better">') == 4
    assert "It ranks users better than LightGBM by" in page


def test_headline_says_worse_where_the_interval_lies_below_zero(tmp_path: Path) -> None:
    folder = make(tmp_path / "worse", {"lightgbm": 0.1, "fused": 2.5}, SMALL)
    assert load_evaluation(folder).differences["churn"]["lightgbm"]["auc"][2] < 0
    found = headlines_section(read_report_inputs(folder))
    assert found.count('<div class="verdict worse">') == 4
    assert "It ranks users worse than LightGBM by" in found
    assert "ranks users better" not in found


def test_calibration_is_shown_before_and_after(folder: Path, page: str) -> None:
    evaluation = load_evaluation(folder)
    before, after = (of["churn"]["fused"]["ece"] for of in (evaluation.uncalibrated, evaluation.tasks))
    assert f"churn: ECE {before[1]:.3f} before, {with_interval('ece', after)} after calibration" in Reader(page).text
