"""Sentiment training: temperature and metrics are the textbook's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model_export.text.compare import f1_interval
from model_export.text.sentiment import fit_temperature, text_metrics
from stream.score.sentiment import LABELS, softmax
from tests.score.test_sentiment import WORDS


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(4_000, 3))
    labels = np.array([rng.choice(3, p=p) for p in softmax(outputs)])
    assert fit_temperature(outputs, labels) == pytest.approx(1.0, rel=0.15)
    assert fit_temperature(outputs * 3, labels) == pytest.approx(3.0, rel=0.15)


def test_metrics_of_a_known_table() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    called = np.array([0, 0, 1, 1, 2, 0])
    found = text_metrics(np.eye(3)[called] * 0.7 + 0.1, labels)
    f1 = [2 * 2 / (3 + 3), 2 * 1 / (1 + 2), 2 * 1 / (2 + 1)]
    assert found["accuracy"] == pytest.approx(4 / 6, abs=1e-5)
    assert found["macro_f1"] == pytest.approx(sum(f1) / 3, abs=1e-5)
    assert found["log_loss"] == pytest.approx(-(4 * math.log(0.8) + 2 * math.log(0.1)) / 6, abs=1e-5)
    low, high = f1_interval(np.eye(3)[np.tile(called, 100)], np.tile(labels, 100))
    assert low < sum(f1) / 3 < high < low + 0.2


def test_labels_and_words_of_these_tests_agree() -> None:
    assert tuple(WORDS) == LABELS
