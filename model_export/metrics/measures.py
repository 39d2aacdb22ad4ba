"""Measures: say how good predictions are. Each reads a :class:`WeightedRanking`, and is nan if it is not defined."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from model_export.metrics.ranking import WeightedRanking, ratio

__all__ = [
    "METRICS", "SIGNED", "Kind", "auc", "brier", "decile_mape", "ece", "gini", "log_loss", "pr_auc", "rmse",
    "spearman", "total_bias",
]  # fmt: skip

Kind = Literal["probability", "value"]

# Probabilities: outcomes are 0 or 1 ----------------------------------------------------------------------


def auc(ranked: WeightedRanking) -> float:
    """Area under the ROC curve: the probability that a positive ranks above a negative. A tie counts half."""
    negative = ranked.weight - ranked.outcome
    below = ranked.cum_weight[:-1] - ranked.cum_outcome[:-1] + negative / 2
    return ratio(float(ranked.outcome @ below), ranked.positive * (ranked.total - ranked.positive))


def pr_auc(ranked: WeightedRanking) -> float:
    """Average precision: the precision at each distinct threshold, weighted by the recall that is gained there."""
    at_least, positive = ranked.total - ranked.cum_weight[:-1], ranked.positive - ranked.cum_outcome[:-1]
    precision = np.divide(positive, at_least, out=np.zeros_like(positive), where=at_least > 0)
    return ratio(float(ranked.outcome @ precision), ranked.positive)


def log_loss(ranked: WeightedRanking) -> float:
    """Mean negative log-likelihood, in nats."""
    log_odds, of_negative = ranked.ranking.log_likelihoods
    return ratio(-float(ranked.outcome @ log_odds + ranked.weight @ of_negative), ranked.total)


def brier(ranked: WeightedRanking) -> float:
    """Mean squared error of the probability."""
    return ranked.squared_error


def ece(ranked: WeightedRanking) -> float:
    """Expected calibration error over ten bins of equal size (Naeini et al. 2015)."""
    predicted, outcome = ranked.by_decile()
    return ratio(float(np.abs(predicted - outcome).sum()), ranked.total)


# Values: outcomes are amounts, not below 0 ---------------------------------------------------------------


def gini(ranked: WeightedRanking) -> float:
    """The Gini of value captured in the order of prediction, over that of the best order (Wang, Liu & Miao 2019)."""
    return ratio(_gini(ranked), _gini(ranked.best))


def _gini(ranked: WeightedRanking) -> float:
    """Half of the Gini: the area between the diagonal and the curve of the value below each prediction."""
    return 0.5 - ratio(
        float(ranked.weight @ (ranked.cum_outcome[:-1] + ranked.outcome / 2)), ranked.total * ranked.positive
    )


def spearman(ranked: WeightedRanking) -> float:
    """The correlation of mid-ranks of predictions and outcomes."""
    outcome_ranks = ranked.ranking.step_sums(ranked.example_weight * ranked.best.rank_of_example[ranked.ranking.order])
    return ratio(float(ranked.ranks @ outcome_ranks), math.sqrt(_spread(ranked) * _spread(ranked.best)))


def _spread(ranked: WeightedRanking) -> float:
    return float(ranked.weight @ ranked.ranks**2)


def decile_mape(ranked: WeightedRanking) -> float:
    """Mean, over tenths of the users by prediction, of |mean predicted - mean actual| / mean actual.

    A tenth in which nobody spent anything has no relative error, and is left out.
    """
    predicted, actual = ranked.by_decile()
    spent = actual > 0
    error = np.abs(predicted[spent] - actual[spent]) / actual[spent]
    return ratio(float(error.sum()), float(spent.sum()))


def total_bias(ranked: WeightedRanking) -> float:
    """The sum of the predictions over the sum of the outcomes, less 1."""
    return ratio(float(ranked.weight @ ranked.predicted), ranked.positive) - 1


def rmse(ranked: WeightedRanking) -> float:
    """The root of the mean squared error, in the unit of the value."""
    return math.sqrt(ranked.squared_error)


#: The metrics of each kind of prediction.
METRICS: Final[dict[Kind, dict[str, Callable[[WeightedRanking], float]]]] = {
    "probability": {"auc": auc, "pr_auc": pr_auc, "log_loss": log_loss, "brier": brier, "ece": ece},
    "value": {
        "gini": gini, "spearman": spearman, "decile_mape": decile_mape, "total_bias": total_bias, "rmse": rmse
    },
}  # fmt: skip
#: Metrics that can be negative.
SIGNED: Final = {"gini", "spearman", "total_bias"}
