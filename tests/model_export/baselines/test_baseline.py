"""Baseline: log-odds are the inverse of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.baselines.baseline import log_odds
from stream.score.calibration import sigmoid


def test_log_odds_and_probability_are_inverse() -> None:
    p = np.linspace(0.01, 0.99, 20)
    assert sigmoid(log_odds(p)) == pytest.approx(p)
