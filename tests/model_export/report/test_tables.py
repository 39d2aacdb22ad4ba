"""Table sections: ablations are compared, and the page says how to repeat it."""

from __future__ import annotations

from pathlib import Path

from model_export.evaluation.evaluation_folder import load_evaluation
from model_export.report.wording import with_interval
from tests.model_export.report.small_evaluation import Reader, rows


def test_ablations_are_compared_with_the_fused_model(folder: Path, page: str) -> None:
    difference = load_evaluation(folder).differences["churn"]["fused_without_time"]["auc"]
    found = [row for row in rows(page, "churn") if row[1] == "fused_without_time"]
    assert found[0][2] == with_interval("auc", difference, difference=True)


def test_page_says_what_was_left_out_and_how_to_repeat_it(page: str) -> None:
    assert rows(page, "snapshot 0, censored") == [["snapshot 0, censored", "1,234"]]
    assert "resamples = 40" in Reader(page).text
    assert "valuestream-model evaluate settings.toml" in page
