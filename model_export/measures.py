"""Measures: how good predictions are on given snapshots, with intervals from resampling users.

Every metric is weighted and reads a :class:`Tally`: one prediction's order, which is found once, under one set of
weights, which may be a bootstrap resample. Examples of equal prediction are one step of each curve, so no metric
depends on the order of ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from stream.contract.manifest import Labels

__all__ = [
    "METRICS", "Bin", "ClassReport", "Interval", "Measured", "Snapshot", "Tally", "Tenth", "auc", "brier",
    "classification_report", "decile_mape", "ece", "gini", "head_names", "lift_and_gain", "log_loss", "measure",
    "pr_auc", "reliability", "rmse", "spearman", "tally", "total_bias",
]  # fmt: skip

Array = npt.NDArray[Any]
Kind = Literal["probability", "value"]
_BINS: Final = 10
#: Probabilities are kept this far from 0 and 1: a certain and wrong one costs 16 nats, not infinity.
_EDGE: Final = 1e-7
#: Both ends of a 95 % interval.
_QUANTILES: Final = (0.025, 0.975)


def head_names(labels: Labels) -> list[str]:
    """Names of the probability heads, churn first.

    >>> head_names(Labels(45, 14, (7, 30), 30))
    ['churn', 'purchase_7d', 'purchase_30d']
    """
    return ["churn", *(f"purchase_{days:g}d" for days in labels.purchase_days)]


# Predictions in order, under weights ----------------------------------------------------------------


@dataclass(frozen=True)
class _Ranking:
    """``n`` examples in rising order of prediction; ``starts`` (g,) are the first of each distinct prediction."""

    order: Array
    starts: Array
    predicted: Array
    actual: Array

    @staticmethod
    def of(predicted: Array, actual: Array) -> _Ranking:
        """Order ``actual`` by ``predicted``, both ``(n,)``; raises ValueError where lengths differ or n is 0."""
        if predicted.shape != actual.shape or not len(actual):
            raise ValueError(f"found {predicted.shape} predictions of {actual.shape} outcomes, expected one for each")
        order = np.argsort(predicted, kind="stable")
        p, y = predicted[order].astype(np.float64), actual[order].astype(np.float64)
        return _Ranking(order, np.flatnonzero(np.concatenate(([True], p[1:] != p[:-1]))), p, y)

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


class Tally:
    """A ranking under weights ``(n,)``: weight and outcome of its ``g`` steps, and their sums over the steps below.

    ``best`` is the tally of the outcomes ranked by themselves, which value metrics compare with.
    """

    def __init__(self, ranking: _Ranking, weights: Array, best: Tally | None = None) -> None:
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
        return _ratio(float(self.rows @ self.ranking.squared_errors), self.total)

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
        edges = self.total * np.linspace(0, 1, _BINS + 1)
        running = _running(self.weight * self.predicted), self.cum_outcome
        predicted, outcome = (np.diff(np.interp(edges, self.cum_weight, sums)) for sums in running)
        return predicted, outcome


def tally(predicted: Array, actual: Array, weights: Array | None = None) -> Tally:
    """One prediction ``(n,)`` of outcomes ``(n,)`` under weights ``(n,)``; all 1 if not given.

    >>> auc(tally(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])))
    0.875
    """
    weights = np.ones(len(actual)) if weights is None else weights
    return Tally(_Ranking.of(predicted, actual), weights, Tally(_Ranking.of(actual, actual), weights))


def _running(rows: Array) -> Array:
    """Sums of the ``i`` first rows, for i = 0..g."""
    out = np.zeros(len(rows) + 1, rows.dtype)
    np.cumsum(rows, out=out[1:])
    return out


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


# Probabilities: outcomes are 0 or 1. A metric is nan where it is not defined ---------------------------


def auc(t: Tally) -> float:
    """Area under the ROC curve: the odds that a positive is ranked above a negative, a tie being half a win."""
    negative = t.weight - t.outcome
    below = t.cum_weight[:-1] - t.cum_outcome[:-1] + negative / 2
    return _ratio(float(t.outcome @ below), t.positive * (t.total - t.positive))


def pr_auc(t: Tally) -> float:
    """Average precision: precision at each distinct threshold, weighted by the recall gained there."""
    at_least, positive = t.total - t.cum_weight[:-1], t.positive - t.cum_outcome[:-1]
    precision = np.divide(positive, at_least, out=np.zeros_like(positive), where=at_least > 0)
    return _ratio(float(t.outcome @ precision), t.positive)


def log_loss(t: Tally) -> float:
    """Mean negative log-likelihood, in nats."""
    log_odds, of_negative = t.ranking.surprises
    return _ratio(-float(t.outcome @ log_odds + t.weight @ of_negative), t.total)


def brier(t: Tally) -> float:
    """Mean squared error of the probability."""
    return t.squared_error


def ece(t: Tally) -> float:
    """Expected calibration error over ten bins of equal size (Naeini et al. 2015)."""
    predicted, outcome = t.by_decile()
    return _ratio(float(np.abs(predicted - outcome).sum()), t.total)


# Values: outcomes are amounts, not below 0 ---------------------------------------------------------------


def gini(t: Tally) -> float:
    """Gini of value captured in order of prediction, over that of the best order (Wang, Liu & Miao 2019)."""
    return _ratio(_gini(t), _gini(t.best))


def _gini(t: Tally) -> float:
    """Half of the Gini: the area between the diagonal and the curve of value below a prediction."""
    return 0.5 - _ratio(float(t.weight @ (t.cum_outcome[:-1] + t.outcome / 2)), t.total * t.positive)


def spearman(t: Tally) -> float:
    """Correlation of mid-ranks."""
    theirs = t.ranking.steps(t.rows * t.best.rank_of_example[t.ranking.order])
    return _ratio(float(t.ranks @ theirs), math.sqrt(_spread(t) * _spread(t.best)))


def _spread(t: Tally) -> float:
    return float(t.weight @ t.ranks**2)


def decile_mape(t: Tally) -> float:
    """Mean, over tenths of the users by prediction, of |mean predicted - mean actual| / mean actual.

    A tenth without any actual value has no relative error and is left out.
    """
    predicted, actual = t.by_decile()
    spent = actual > 0
    error = np.abs(predicted[spent] - actual[spent]) / actual[spent]
    return _ratio(float(error.sum()), float(spent.sum()))


def total_bias(t: Tally) -> float:
    """Sum of the predictions over the sum of the outcomes, less 1."""
    return _ratio(float(t.weight @ t.predicted), t.positive) - 1


def rmse(t: Tally) -> float:
    """Root of the mean squared error, in the unit of the value."""
    return math.sqrt(t.squared_error)


#: Metrics by kind of prediction.
METRICS: Final[dict[Kind, dict[str, Callable[[Tally], float]]]] = {
    "probability": {"auc": auc, "pr_auc": pr_auc, "log_loss": log_loss, "brier": brier, "ece": ece},
    "value": {
        "gini": gini, "spearman": spearman, "decile_mape": decile_mape, "total_bias": total_bias, "rmse": rmse
    },
}  # fmt: skip
#: Those that can be negative; the intervals of the others end at 0.
_SIGNED: Final = {"gini", "spearman", "total_bias"}


# The bootstrap --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One task at one instant: user ids ``(n,)``, outcomes ``(n,)``, and per model one prediction ``(n,)`` a seed."""

    user: Array
    actual: Array
    predicted: dict[str, list[Array]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured number and the ends of its 95 % interval; all nan where it is not defined."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Per model and metric: the value, then that of each resample; shape ``(1 + resamples,)``."""

    draws: dict[str, dict[str, Array]]

    @property
    def metrics(self) -> dict[str, dict[str, Interval]]:
        """Per model and metric the value with its interval."""
        return {
            model: {name: _interval(draws, -np.inf if name in _SIGNED else 0.0) for name, draws in of.items()}
            for model, of in self.draws.items()
        }

    def difference(self, a: str, b: str, metric: str) -> Interval:
        """The metric of model ``a`` less that of ``b``, on the same resamples."""
        return _interval(self.draws[a][metric] - self.draws[b][metric], -np.inf)


def measure(snapshots: Sequence[Snapshot], kind: Kind, resamples: int = 300, seed: int = 0) -> Measured:
    """Metrics of every model, averaged over its seeds and over snapshots, with intervals from resampling users.

    ECE alone is of all snapshots together: of 800 users, a tenth of 80 is off by four points by chance alone, which
    an average over snapshots would keep. That average is there as ``ece_by_snapshot``.
    A resample draws as many users as there are, with replacement, and takes them with all their examples: the
    same users for every snapshot, model and seed, so that differences between models are paired.
    """
    models, metrics = list(snapshots[0].predicted), METRICS[kind]
    names, place = np.unique(np.concatenate([s.user for s in snapshots]), return_inverse=True)
    users = np.split(place, np.cumsum([len(s.user) for s in snapshots])[:-1])
    actual = [_Ranking.of(s.actual, s.actual) for s in snapshots]
    rankings = [[[_Ranking.of(p, s.actual) for p in s.predicted[model]] for model in models] for s in snapshots]
    together = [_together(snapshots, model) if kind == "probability" else [] for model in models]
    draws = np.empty((1 + resamples, len(snapshots), len(models), len(metrics)))
    pooled = np.full((1 + resamples, len(models)), np.nan)
    for r, weights in enumerate(_resampled(len(names), resamples, seed)):
        for s, user in enumerate(users):
            of_snapshot = weights[user]
            best = Tally(actual[s], of_snapshot)
            for m, seeds in enumerate(rankings[s]):
                tallies = [Tally(ranking, of_snapshot, best) for ranking in seeds]
                draws[r, s, m] = np.mean([[metric(t) for metric in metrics.values()] for t in tallies], axis=0)
        if kind == "probability":
            pooled[r] = [np.mean([ece(Tally(ranking, weights[place])) for ranking in seeds]) for seeds in together]
    average = _mean_of_defined(draws)
    out = {model: dict(zip(metrics, average[:, i].T, strict=True)) for i, model in enumerate(models)}
    if kind == "probability":
        for i, model in enumerate(models):
            out[model] |= {"ece": pooled[:, i], "ece_by_snapshot": out[model]["ece"]}
    return Measured(out)


def _together(snapshots: Sequence[Snapshot], model: str) -> list[_Ranking]:
    """One ranking a seed, of the examples of all snapshots."""
    actual = np.concatenate([s.actual for s in snapshots])
    seeds = zip(*(s.predicted[model] for s in snapshots), strict=True)
    return [_Ranking.of(np.concatenate(predictions), actual) for predictions in seeds]


def _resampled(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """Weights of ``n`` users: first all 1, then each resample's counts, in float32, whose sums are exact to 2²⁴."""
    yield np.ones(n)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float32)


def _mean_of_defined(draws: Array) -> Array:
    """Mean over snapshots (axis 1) of those numbers that are not nan."""
    defined = np.isfinite(draws)
    n = defined.sum(axis=1)
    out: Array = np.where(defined, draws, 0).sum(axis=1) / np.where(n, n, np.nan)
    return out


def _interval(draws: Array, least: float) -> Interval:
    """Value, and around it the spread of the resamples about their own median.

    Resampling adds a bias to ECE and average precision, which would push plain percentiles off the value.
    """
    value, resampled = float(draws[0]), draws[1:][np.isfinite(draws[1:])]
    if not len(resampled):
        return Interval(np.nan, value, np.nan)
    low, high = value + np.quantile(resampled, _QUANTILES) - np.median(resampled)
    return Interval(max(float(low), least), value, float(high))


# Tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Of one class at a threshold: precision, recall, F1 (0 where undefined) and number of examples."""

    precision: float
    recall: float
    f1: float
    support: int


def classification_report(p: Array, y: Array, threshold: float) -> dict[str, ClassReport]:
    """Report per class, "0" and "1", when probabilities of at least ``threshold`` are called 1.

    >>> classification_report(np.array([0.2, 0.6, 0.9]), np.array([0, 0, 1]), 0.5)["1"]
    ClassReport(precision=0.5, recall=1.0, f1=0.6666666666666666, support=1)
    """
    called, actual = p >= threshold, y > 0
    return {"0": _class_report(~called, ~actual), "1": _class_report(called, actual)}


def _class_report(called: Array, actual: Array) -> ClassReport:
    hits, n_called, support = int((called & actual).sum()), int(called.sum()), int(actual.sum())
    f1 = 2 * hits / (n_called + support) if n_called + support else 0.0
    return ClassReport(hits / n_called if n_called else 0.0, hits / support if support else 0.0, f1, support)


@dataclass(frozen=True, slots=True)
class Tenth:
    """A tenth of the users, the most likely first: their base rate over that of all, and both cumulated."""

    lift: float
    cumulative_lift: float
    #: Share of all positives in this tenth and the ones before.
    gain: float


def lift_and_gain(p: Array, y: Array) -> list[Tenth]:
    """Ten tenths by falling prediction; empty where there are no positives.

    >>> lift_and_gain(np.arange(100.0), np.arange(100) >= 90)[0]
    Tenth(lift=10.0, cumulative_lift=10.0, gain=1.0)
    """
    captured = tally(p, y).by_decile()[1][::-1]
    if not captured.sum():
        return []
    shares = captured / captured.sum()
    gains = np.cumsum(shares)
    return [
        Tenth(_BINS * float(share), _BINS * float(gain) / (tenth + 1), float(gain))
        for tenth, (share, gain) in enumerate(zip(shares, gains, strict=True))
    ]


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of a reliability diagram: mean probability, share of positives, and (fractional) number of examples."""

    predicted: float
    observed: float
    n: float


def reliability(p: Array, y: Array) -> list[Bin]:
    """Ten bins of equal size, lowest probabilities first: those of :func:`ece`.

    >>> reliability(np.full(10, 0.25), np.arange(10) < 3)[0]
    Bin(predicted=0.25, observed=0.3, n=1.0)
    """
    n = len(y) / _BINS
    predicted, observed = (sums / n for sums in tally(p, y).by_decile())
    return [Bin(float(a), float(b), n) for a, b in zip(predicted, observed, strict=True)]
