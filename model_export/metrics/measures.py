"""Measures: how good predictions are. Each is weighted and reads a :class:`Ordered`; nan where it is not defined."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from model_export.metrics.ordered import Ordered, ratio

__all__ = [
    "METRICS", "SIGNED", "Kind", "auc", "brier", "decile_mape", "ece", "gini", "log_loss", "pr_auc", "rmse",
    "spearman", "total_bias",
]  # fmt: skip

Kind = Literal["probability", "value"]

# Probabilities: outcomes are 0 or 1 ----------------------------------------------------------------------


def auc(t: Ordered) -> float:
    """Area under the ROC curve: the odds that a positive is ranked above a negative, a tie being half a win."""
    negative = t.weight - t.outcome
    below = t.cum_weight[:-1] - t.cum_outcome[:-1] + negative / 2
    return ratio(float(t.outcome @ below), t.positive * (t.total - t.positive))


def pr_auc(t: Ordered) -> float:
    """Average precision: precision at each distinct threshold, weighted by the recall gained there."""
    at_least, positive = t.total - t.cum_weight[:-1], t.positive - t.cum_outcome[:-1]
    precision = np.divide(positive, at_least, out=np.zeros_like(positive), where=at_least > 0)
    return ratio(float(t.outcome @ precision), t.positive)


def log_loss(t: Ordered) -> float:
    """Mean negative log-likelihood, in nats."""
    log_odds, of_negative = t.ranking.surprises
    return ratio(-float(t.outcome @ log_odds + t.weight @ of_negative), t.total)


def brier(t: Ordered) -> float:
    """Mean squared error of the probability."""
    return t.squared_error


def ece(t: Ordered) -> float:
    """Expected calibration error over ten bins of equal size (Naeini et al. 2015)."""
    predicted, outcome = t.by_decile()
    return ratio(float(np.abs(predicted - outcome).sum()), t.total)


# Values: outcomes are amounts, not below 0 ---------------------------------------------------------------


def gini(t: Ordered) -> float:
    """Gini of value captured in order of prediction, over that of the best order (Wang, Liu & Miao 2019)."""
    return ratio(_gini(t), _gini(t.best))


def _gini(t: Ordered) -> float:
    """Half of the Gini: the area between the diagonal and the curve of value below a prediction."""
    return 0.5 - ratio(float(t.weight @ (t.cum_outcome[:-1] + t.outcome / 2)), t.total * t.positive)


def spearman(t: Ordered) -> float:
    """Correlation of mid-ranks."""
    theirs = t.ranking.steps(t.rows * t.best.rank_of_example[t.ranking.order])
    return ratio(float(t.ranks @ theirs), math.sqrt(_spread(t) * _spread(t.best)))


def _spread(t: Ordered) -> float:
    return float(t.weight @ t.ranks**2)


def decile_mape(t: Ordered) -> float:
    """Mean, over tenths of the users by prediction, of |mean predicted - mean actual| / mean actual.

    A tenth without any actual value has no relative error and is left out.
    """
    predicted, actual = t.by_decile()
    spent = actual > 0
    error = np.abs(predicted[spent] - actual[spent]) / actual[spent]
    return ratio(float(error.sum()), float(spent.sum()))


def total_bias(t: Ordered) -> float:
    """Sum of the predictions over the sum of the outcomes, less 1."""
    return ratio(float(t.weight @ t.predicted), t.positive) - 1


def rmse(t: Ordered) -> float:
    """Root of the mean squared error, in the unit of the value."""
    return math.sqrt(t.squared_error)


#: Metrics by kind of prediction.
METRICS: Final[dict[Kind, dict[str, Callable[[Ordered], float]]]] = {
    "probability": {"auc": auc, "pr_auc": pr_auc, "log_loss": log_loss, "brier": brier, "ece": ece},
    "value": {
        "gini": gini, "spearman": spearman, "decile_mape": decile_mape, "total_bias": total_bias, "rmse": rmse
    },
}  # fmt: skip
#: Those that can be negative.
SIGNED: Final = {"gini", "spearman", "total_bias"}
