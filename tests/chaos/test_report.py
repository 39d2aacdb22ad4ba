"""Tests of the report: the page on reliability says what the results say."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.judge import Verdict
from tests.chaos.report import report
from tests.chaos.run import read_results

ROOT = Path(__file__).parents[2]


def test_committed_page_is_made_from_the_committed_results() -> None:
    page = report(read_results(ROOT / "chaos-results.json"))
    assert (ROOT / "docs" / "reliability.md").read_text() == page, (
        "run: python -m tests.chaos.report > docs/reliability.md"
    )


def test_a_run_that_failed_is_named_with_its_problem() -> None:
    bad = Verdict("soak", 7, 10, 1, 0, 0, 0, 2.0, passed=False, problem="one event\nis gone")
    page = report([bad])
    assert "- `soak` seed 7: one event is gone" in page
    assert "| 0 of 1 | 10 | 1 | 0 |" in page
