"""Diagnostics: they equal those of scikit-learn, and their tables sum to the measures."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from model_export.metrics.diagnostics import classification_report, lift_and_gain, reliability
from model_export.metrics.measures import ece
from model_export.metrics.ranking import rank_predictions
from tests.model_export.metrics.test_measures import probabilities


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.5, 1.1])
def test_classification_report_equals_that_of_scikit_learn(threshold: float) -> None:
    p, y = probabilities(np.random.default_rng(8))
    expected_report = reference.classification_report(y, p >= threshold, output_dict=True, zero_division=0)
    for name, found in classification_report(p, y, threshold).items():
        expected = expected_report[f"{float(name)}"]
        keys = ("precision", "recall", "f1-score", "support")
        assert (found.precision, found.recall, found.f1, found.support) == pytest.approx([expected[k] for k in keys])


def test_ten_tenths_gain_all_positives_and_lift_falls_with_prediction() -> None:
    rng = np.random.default_rng(9)
    p = rng.random(5_000)
    tenths = lift_and_gain(p, (rng.random(5_000) < p).astype(float))
    assert tenths[-1].gain == pytest.approx(1)
    assert tenths[0].lift > 1.7 and tenths[-1].lift < 0.3
    assert sum(tenth.lift for tenth in tenths) == pytest.approx(10)


def test_gaps_of_reliability_bins_sum_to_the_calibration_error() -> None:
    p, y = probabilities(np.random.default_rng(10))
    bins = reliability(p, y)
    gap = sum(abs(b.predicted - b.observed) * b.n for b in bins) / len(y)
    assert gap == pytest.approx(ece(rank_predictions(p, y)))
    assert sum(b.n for b in bins) == len(y)
