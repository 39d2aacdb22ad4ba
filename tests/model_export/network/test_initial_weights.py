"""Initial weights: a new network scores as a logistic regression does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from model_export.run_folder import predict
from model_export.training.fit import refit
from tests.model_export.small import QUICK, examples, same_weights, task


def test_network_without_an_epoch_scores_as_logistic_regression_does() -> None:
    rows = examples(400, longest=8)
    rows = replace(rows, churn=(rows.features[:, 0] + rows.features[:, 1] > 0.3).astype(np.float32))
    start = refit(task(QUICK), rows, 0)
    assert same_weights(start, refit(task(QUICK), rows, 0))
    x = rows.features.astype(np.float64)
    x = np.clip(x, *np.quantile(x, (0.001, 0.999), axis=0))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    linear = LogisticRegression(C=0.1, max_iter=500).fit(z, rows.churn).decision_function(z)
    assert predict(start, rows.tokens, rows.features).churn == pytest.approx(linear, abs=1e-3)
