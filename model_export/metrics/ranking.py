"""Ranking: puts examples in the order of their predictions, which every measure reads.

Predictions are sorted once. The ranking can then be read under any weights, such as those of bootstrap resamples.
Examples of equal prediction are one step of each curve, so no measure depends on the order of ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from stream.arrays import Floats, Numbers, Slots

__all__ = ["BINS", "Ranking", "WeightedRanking", "rank_predictions", "ratio"]

BINS: Final = 10
#: Probabilities are kept this far from 0 and 1, so that one that is certain and wrong costs 16 nats, not infinity.
_EDGE: Final = 1e-7


@dataclass(frozen=True)
class Ranking:
    """``n`` examples in rising order of prediction. Each of the ``g`` distinct predictions is one step.

    ``order`` (n,) sorts the examples. ``starts`` (g,) says where each step begins among the sorted examples.
    ``predicted`` and ``actual`` (n,) are sorted.
    """

    order: Slots
    starts: Slots
    predicted: Floats
    actual: Floats

    @staticmethod
    def by_prediction(predicted: Numbers, actual: Numbers) -> Ranking:
        """Order ``actual`` by ``predicted``, both ``(n,)``. Raises ValueError if their lengths differ or n is 0."""
        if predicted.shape != actual.shape or not len(actual):
            raise ValueError(f"found {predicted.shape} predictions of {actual.shape} outcomes, expected one for each")
        order = np.argsort(predicted, kind="stable")
        p, y = predicted[order].astype(np.float64), actual[order].astype(np.float64)
        return Ranking(order, np.flatnonzero(np.concatenate(([True], p[1:] != p[:-1]))), p, y)

    @cached_property
    def squared_errors(self) -> Floats:
        """The squared error of each example, ``(n,)``."""
        errors: Floats = (self.predicted - self.actual) ** 2
        return errors

    @cached_property
    def log_likelihoods(self) -> tuple[Floats, Floats]:
        """The log-odds of each distinct probability, and the log-likelihood that it gives a negative: both ``(g,)``."""
        p = np.clip(self.predicted[self.starts], _EDGE, 1 - _EDGE)
        return np.log(p / (1 - p)), np.log1p(-p)

    def step_sums(self, numbers: Numbers) -> Numbers:
        """Sum numbers ``(n,)`` in the order of the ranking over each step: ``(g,)``."""
        return numbers if len(self.starts) == len(numbers) else np.add.reduceat(numbers, self.starts)


class WeightedRanking:
    """A ranking of examples that have weights ``(n,)``.

    ``weight`` and ``outcome`` (g,) are the sums over each step, ``cum_weight`` and ``cum_outcome`` (g + 1,) those over
    all steps below. ``total`` is the sum of all weights, ``positive`` that of all weighted outcomes. ``best`` is the
    ranking of the outcomes by themselves, with which measures of value compare.
    """

    def __init__(self, ranking: Ranking, weights: Numbers, best: WeightedRanking | None = None) -> None:
        self.ranking, self.best = ranking, best or self
        self.example_weight = weights[ranking.order]
        self.predicted = ranking.predicted[ranking.starts].astype(weights.dtype)
        self.weight = ranking.step_sums(self.example_weight)
        self.outcome = ranking.step_sums(self.example_weight * ranking.actual.astype(weights.dtype))
        self.cum_weight, self.cum_outcome = _running_sums(self.weight), _running_sums(self.outcome)
        self.total, self.positive = float(self.cum_weight[-1]), float(self.cum_outcome[-1])

    @cached_property
    def squared_error(self) -> float:
        """The weighted mean squared error."""
        return ratio(float(self.example_weight @ self.ranking.squared_errors), self.total)

    @cached_property
    def ranks(self) -> Numbers:
        """The weighted mid-rank of each step, less their mean: ``(g,)``."""
        out: Numbers = self.cum_weight[:-1] + self.weight / 2 - self.total / 2
        return out

    @cached_property
    def rank_of_example(self) -> Numbers:
        """:attr:`ranks` of the examples ``(n,)``, in the order in which the examples were given."""
        sizes = np.diff(self.ranking.starts, append=len(self.example_weight))
        out = np.empty_like(self.example_weight)
        out[self.ranking.order] = np.repeat(self.ranks, sizes)
        return out

    def by_decile(self) -> tuple[Floats, Floats]:
        """Sums of predictions and of outcomes ``(10,)`` over tenths of the weight, lowest predictions first.

        A step that lies across a boundary is shared between both tenths.
        """
        edges = self.total * np.linspace(0, 1, BINS + 1)
        running = _running_sums(self.weight * self.predicted), self.cum_outcome
        predicted, outcome = (np.diff(np.interp(edges, self.cum_weight, sums)) for sums in running)
        return predicted, outcome


def rank_predictions(predicted: Numbers, actual: Numbers, weights: Numbers | None = None) -> WeightedRanking:
    """Rank predictions ``(n,)`` of outcomes ``(n,)`` under weights ``(n,)``; without weights, each is 1.

    >>> rank_predictions(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])).outcome
    array([0., 1., 1.])
    """
    weights = np.ones(len(actual)) if weights is None else weights
    best = WeightedRanking(Ranking.by_prediction(actual, actual), weights)
    return WeightedRanking(Ranking.by_prediction(predicted, actual), weights, best)


def _running_sums(numbers: Numbers) -> Numbers:
    """Sums of the first i numbers, for i from 0 to g: ``(g + 1,)``."""
    out = np.zeros(len(numbers) + 1, numbers.dtype)
    np.cumsum(numbers, out=out[1:])
    return out


def ratio(numerator: float, denominator: float) -> float:
    """A quotient; nan if the denominator is 0."""
    return numerator / denominator if denominator else float("nan")
