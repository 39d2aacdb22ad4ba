"""Ordered: predictions in order, beside what came out, under weights; what every measure reads.

The order of a prediction is found once, and read under any number of weights, which may be bootstrap resamples.
Examples of equal prediction are one step of each curve, so no measure depends on the order of ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "Ordered", "Ranking", "ordered", "ratio"]

Array = npt.NDArray[Any]
BINS: Final = 10
#: Probabilities are kept this far from 0 and 1: a certain and wrong one costs 16 nats, not infinity.
_EDGE: Final = 1e-7


@dataclass(frozen=True)
class Ranking:
    """``n`` examples in rising order of prediction; ``starts`` (g,) are the first of each distinct prediction."""

    order: Array
    starts: Array
    predicted: Array
    actual: Array

    @staticmethod
    def of(predicted: Array, actual: Array) -> Ranking:
        """Order ``actual`` by ``predicted``, both ``(n,)``; raises ValueError where lengths differ or n is 0."""
        if predicted.shape != actual.shape or not len(actual):
            raise ValueError(f"found {predicted.shape} predictions of {actual.shape} outcomes, expected one for each")
        order = np.argsort(predicted, kind="stable")
        p, y = predicted[order].astype(np.float64), actual[order].astype(np.float64)
        return Ranking(order, np.flatnonzero(np.concatenate(([True], p[1:] != p[:-1]))), p, y)

    @cached_property
    def squared_errors(self) -> Array:
        """Squared error ``(n,)`` of each example."""
        return (self.predicted - self.actual) ** 2

    @cached_property
    def surprises(self) -> tuple[Array, Array]:
        """Log-odds, and log-probability of a negative, of each distinct probability ``(g,)``."""
        p = np.clip(self.predicted[self.starts], _EDGE, 1 - _EDGE)
        return np.log(p / (1 - p)), np.log1p(-p)

    def steps(self, rows: Array) -> Array:
        """Sums ``(g,)`` of ordered numbers ``(n,)`` over examples of equal prediction."""
        return rows if len(self.starts) == len(rows) else np.add.reduceat(rows, self.starts)


class Ordered:
    """A ranking under weights ``(n,)``: weight and outcome of its ``g`` steps, and their sums over the steps below.

    ``best`` is the tally of the outcomes ranked by themselves, which value metrics compare with.
    """

    def __init__(self, ranking: Ranking, weights: Array, best: Ordered | None = None) -> None:
        self.ranking, self.best = ranking, best or self
        self.rows = weights[ranking.order]
        self.predicted = ranking.predicted[ranking.starts].astype(weights.dtype)
        self.weight = ranking.steps(self.rows)
        self.outcome = ranking.steps(self.rows * ranking.actual.astype(weights.dtype))
        self.cum_weight, self.cum_outcome = _running(self.weight), _running(self.outcome)
        self.total, self.positive = float(self.cum_weight[-1]), float(self.cum_outcome[-1])

    @cached_property
    def squared_error(self) -> float:
        """Mean squared error."""
        return ratio(float(self.rows @ self.ranking.squared_errors), self.total)

    @cached_property
    def ranks(self) -> Array:
        """Weighted mid-ranks of the steps ``(g,)``, less their mean."""
        out: Array = self.cum_weight[:-1] + self.weight / 2 - self.total / 2
        return out

    @cached_property
    def rank_of_example(self) -> Array:
        """:attr:`ranks` by example ``(n,)``, in the order in which they were given."""
        sizes = np.diff(self.ranking.starts, append=len(self.rows))
        out = np.empty_like(self.rows)
        out[self.ranking.order] = np.repeat(self.ranks, sizes)
        return out

    def by_decile(self) -> tuple[Array, Array]:
        """Sums of prediction and of outcome ``(10,)`` over tenths of the weight, lowest predictions first.

        A step that a boundary cuts is shared between both tenths.
        """
        edges = self.total * np.linspace(0, 1, BINS + 1)
        running = _running(self.weight * self.predicted), self.cum_outcome
        predicted, outcome = (np.diff(np.interp(edges, self.cum_weight, sums)) for sums in running)
        return predicted, outcome


def ordered(predicted: Array, actual: Array, weights: Array | None = None) -> Ordered:
    """One prediction ``(n,)`` of outcomes ``(n,)`` under weights ``(n,)``; all 1 if not given.

    >>> ordered(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])).outcome
    array([0., 1., 1.])
    """
    weights = np.ones(len(actual)) if weights is None else weights
    return Ordered(Ranking.of(predicted, actual), weights, Ordered(Ranking.of(actual, actual), weights))


def _running(rows: Array) -> Array:
    """Sums of the ``i`` first rows, for i = 0..g."""
    out = np.zeros(len(rows) + 1, rows.dtype)
    np.cumsum(rows, out=out[1:])
    return out


def ratio(numerator: float, denominator: float) -> float:
    """A quotient; nan where its denominator is 0."""
    return numerator / denominator if denominator else float("nan")
