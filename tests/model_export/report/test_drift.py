"""Drift section: what moved is named, and the rows agree with the metrics."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from model_export.evaluation.evaluation_folder import load_evaluation
from model_export.report.drift import psi
from stream.contract.tokens import FEATURES
from tests.model_export.report.small_evaluation import Reader, rows


def test_mean_of_the_snapshot_rows_is_the_measured_number(folder: Path, page: str) -> None:
    measured_auc = load_evaluation(folder).tasks["churn"]["fused"]["auc"][1]
    of_snapshots = [float(row[5]) for row in rows(page, "churn") if len(row) == 8]
    assert len(of_snapshots) == 3
    assert np.mean(of_snapshots) == pytest.approx(measured_auc, abs=1e-3)


def test_only_the_feature_that_moved_is_named_as_drift(folder: Path, page: str) -> None:
    alternative = re.findall(r'aria-label="Drift of features: ([^"]*)"', page)[0]
    assert alternative.startswith("revenue_30d ")
    assert f"Of {len(FEATURES)} features, 1 moved strongly" in Reader(page).text


def test_stability_index_of_two_classes_is_that_of_the_formula() -> None:
    before, after = np.repeat([0.0, 1.0], [50, 50]), np.repeat([0.0, 1.0], [20, 80])
    assert psi(before, after) == pytest.approx(0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5))
