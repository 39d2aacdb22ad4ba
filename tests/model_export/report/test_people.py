"""People sections: groups are shown with their own numbers, and small groups are not shown."""

from __future__ import annotations

from pathlib import Path

from model_export.metrics.ranking import rank_predictions
from model_export.report.inputs import best_f1_threshold, read_report_inputs
from tests.model_export.report.small_evaluation import Reader, rows


def test_group_of_few_users_is_not_shown(page: str) -> None:
    assert "secret" not in page
    assert len(rows(page, "old")) == 3
    assert "Groups not shown, as they have fewer than 30 users: 1 of 4." in Reader(page).text


def test_group_rows_show_the_newest_snapshot(folder: Path, page: str) -> None:
    inputs = read_report_inputs(folder)
    inside = inputs.newest.group == 1
    p, y = inputs.probability("churn")[inside], inputs.actual("churn")[inside]
    called = p >= best_f1_threshold(rank_predictions(inputs.probability("churn"), inputs.actual("churn")))
    row = rows(page, "old")[0]
    assert row[1] == "180"
    assert row[2].startswith(f"{y.mean():.3f} [")
    assert row[3] == f"{p.mean():.3f}"
    assert row[6:] == [f"{100 * called[y == 0].mean():.1f} %", f"{100 * (~called)[y == 1].mean():.1f} %"]
