"""Evaluate: what the model's scores are worth on a window it has not seen, beside simple baselines.

Baselines are fitted on the training examples and calibrated on the validation examples of the kind they are
measured on (snapshots, or states at events), while the model is one for both:
**recency** (logistic regression on log days since the last event alone) and **logistic** (on all features). For
value they predict the probability of an order times the mean value of a buyer.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from model_export.calibrate import calibrated, fit_platt, predicted_value
from model_export.dataset import Dataset, Examples
from stream.contract.manifest import Calibration, Labels
from stream.contract.tokens import FEATURES
from stream.score import RawScores

__all__ = ["baselines", "calibration_error", "evaluate", "head_names", "normalised_gini"]

Array = npt.NDArray[Any]
Metrics = dict[str, float]
_BINS: Final = 10
_BASELINES: Final = {"recency": [FEATURES.index("recency")], "logistic": list(range(len(FEATURES)))}


def head_names(labels: Labels) -> list[str]:
    """Names of the probability heads, churn first.

    >>> head_names(Labels(45, 14, (7, 30), 30))
    ['churn', 'purchase_7d', 'purchase_30d']
    """
    return ["churn", *(f"purchase_{days:g}d" for days in labels.purchase_days)]


def evaluate(raw: RawScores, examples: Examples, calibration: Calibration, labels: Labels) -> Metrics:
    """Metrics of the model on ``examples``, named ``head.metric``."""
    logits = np.column_stack((raw.churn, raw.purchase))
    platts = (calibration.churn, *calibration.purchase)
    probabilities = np.column_stack([calibrated(logits[:, h], p) for h, p in enumerate(platts)])
    return _metrics(probabilities, predicted_value(raw, calibration, labels), examples, labels)


def baselines(data: Dataset, at_event: bool, labels: Labels) -> dict[str, Metrics]:
    """Metrics of each baseline on the test examples of one kind."""
    out = {}
    train, held_out, test = (part.take(part.at_event == at_event) for part in (data.train, data.validation, data.test))
    for name, columns in _BASELINES.items():
        heads = [_baseline(train, held_out, test, columns, h) for h in range(1 + len(labels.purchase_days))]
        buys = heads[1 + labels.purchase_days.index(labels.value_days)]
        worth = train.value[train.value > 0]
        value = buys * (worth.mean() if len(worth) else 0.0)
        out[name] = _metrics(np.column_stack(heads), value, test, labels)
    return out


def _baseline(train: Examples, held_out: Examples, test: Examples, columns: list[int], head: int) -> Array:
    y, later = _targets(train)[:, head], _targets(held_out)[:, head]
    if len(np.unique(y)) < 2 or len(np.unique(later)) < 2:
        return np.full(len(test), y.mean() if len(y) else 0.5)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(train.features[:, columns], y)
    platt = fit_platt(model.decision_function(held_out.features[:, columns]), later)
    return calibrated(model.decision_function(test.features[:, columns]), platt)


def _targets(examples: Examples) -> Array:
    return np.column_stack((examples.churn, examples.purchase))


def _metrics(probabilities: Array, value: Array, examples: Examples, labels: Labels) -> Metrics:
    out: Metrics = {}
    for h, name in enumerate(head_names(labels)):
        p, y = np.clip(probabilities[:, h], 1e-7, 1 - 1e-7), _targets(examples)[:, h]
        out[f"{name}.base_rate"] = float(y.mean())
        if 0 < y.sum() < len(y):
            out[f"{name}.auc"] = float(roc_auc_score(y, p))
        out[f"{name}.log_loss"] = float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())
        out[f"{name}.brier"] = float(((p - y) ** 2).mean())
        out[f"{name}.ece"] = calibration_error(p, y)
    if examples.value.sum() > 0:
        out["value.gini"] = normalised_gini(value, examples.value)
        out["value.total_bias"] = float(value.sum() / examples.value.sum() - 1)
    return {name: round(number, 5) for name, number in out.items()}


def calibration_error(p: Array, y: Array) -> float:
    """Expected calibration error over ten bins of equal size (Naeini et al. 2015).

    >>> calibration_error(np.full(100, 0.3), np.tile([1] * 3 + [0] * 7, 10)) < 1e-9
    True
    """
    bins = np.array_split(np.argsort(p, kind="stable"), _BINS)
    return float(sum(abs(p[b].mean() - y[b].mean()) * len(b) for b in bins if len(b)) / len(p))


def normalised_gini(predicted: Array, actual: Array) -> float:
    """Gini of value captured in order of prediction, over that of the best order (Wang, Liu & Miao 2019).

    >>> normalised_gini(np.array([1, 2, 3]), np.array([0, 5, 9]))
    1.0
    """
    return _gini(predicted, actual) / _gini(actual, actual)


def _gini(order_by: Array, actual: Array) -> float:
    ranked = actual[np.argsort(-order_by, kind="stable")]
    captured = np.cumsum(ranked) / ranked.sum()
    return float(captured.sum() / len(ranked) - (len(ranked) + 1) / (2 * len(ranked)))
