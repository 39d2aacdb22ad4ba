"""Bootstrap: measures several models on the same test sets, with intervals from resampled users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from model_export.metrics.measures import METRICS, SIGNED, Kind, ece
from model_export.metrics.ranking import Ranking, WeightedRanking
from stream.arrays import Floats, Numbers

__all__ = ["Interval", "Measured", "TestSet", "measure"]

#: The quantiles at the ends of a 95 % interval.
_QUANTILES: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class TestSet:
    """The examples of one instant: users and outcomes ``(n,)``, and the predictions of each seed of each model."""

    user: Numbers
    actual: Numbers
    predicted: dict[str, list[Numbers]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured number and the ends of its 95 % interval. All are nan if the number is not defined."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """For each model and metric, the value and then the value of each resample: ``(1 + resamples,)``."""

    draws: dict[str, dict[str, Floats]]

    @property
    def metrics(self) -> dict[str, dict[str, Interval]]:
        """The value of each model and metric, with its interval. It does not go below 0 if the metric cannot."""
        return {
            model: {name: _interval(draws, -np.inf if name in SIGNED else 0.0) for name, draws in metrics.items()}
            for model, metrics in self.draws.items()
        }

    def difference(self, a: str, b: str, metric: str) -> Interval:
        """The metric of model ``a`` less that of ``b``, on the same resamples."""
        return _interval(self.draws[a][metric] - self.draws[b][metric], -np.inf)


def measure(snapshots: Sequence[TestSet], kind: Kind, resamples: int = 300, seed: int = 0) -> Measured:
    """Metrics of every model, averaged over its seeds and over the test sets, with intervals from resampled users.

    Only ECE is computed on all test sets together. With 800 users, a tenth has 80 users and is off by four points by
    chance alone; an average over test sets would keep this error. That average is there as ``ece_by_snapshot``.

    A resample draws as many users as there are, with replacement, and takes all examples of each drawn user. It draws
    the same users for every test set, model and seed, so that differences between models are paired.
    """
    models, metrics = list(snapshots[0].predicted), METRICS[kind]
    names, user_index = np.unique(np.concatenate([s.user for s in snapshots]), return_inverse=True)
    users = np.split(user_index, np.cumsum([len(s.user) for s in snapshots])[:-1])
    best = [Ranking.by_prediction(s.actual, s.actual) for s in snapshots]
    rankings = [
        [[Ranking.by_prediction(p, s.actual) for p in s.predicted[model]] for model in models] for s in snapshots
    ]
    together = [_together(snapshots, model) if kind == "probability" else [] for model in models]
    draws = np.empty((1 + resamples, len(snapshots), len(models), len(metrics)))
    pooled = np.full((1 + resamples, len(models)), np.nan)
    for r, weights in enumerate(_resampled(len(names), resamples, seed)):
        for s, user in enumerate(users):
            example_weights = weights[user]
            weighted_best = WeightedRanking(best[s], example_weights)
            for m, seeds in enumerate(rankings[s]):
                ranked = [WeightedRanking(ranking, example_weights, weighted_best) for ranking in seeds]
                draws[r, s, m] = np.mean([[metric(seed) for metric in metrics.values()] for seed in ranked], axis=0)
        if kind == "probability":
            pooled[r] = [
                np.mean([ece(WeightedRanking(ranking, weights[user_index])) for ranking in seeds]) for seeds in together
            ]
    average = _mean_of_defined(draws)
    out = {model: dict(zip(metrics, average[:, i].T, strict=True)) for i, model in enumerate(models)}
    if kind == "probability":
        for i, model in enumerate(models):
            out[model] |= {"ece": pooled[:, i], "ece_by_snapshot": out[model]["ece"]}
    return Measured(out)


def _together(snapshots: Sequence[TestSet], model: str) -> list[Ranking]:
    """For each seed, one ranking of the examples of all test sets."""
    actual = np.concatenate([s.actual for s in snapshots])
    seeds = zip(*(s.predicted[model] for s in snapshots), strict=True)
    return [Ranking.by_prediction(np.concatenate(predictions), actual) for predictions in seeds]


def _resampled(n: int, resamples: int, seed: int) -> Iterator[Numbers]:
    """Weights of ``n`` users: first 1 for each, then the counts of each resample.

    Counts are float32: sums of them are exact up to 2²⁴.
    """
    yield np.ones(n)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float32)


def _mean_of_defined(draws: Floats) -> Floats:
    """The mean over test sets (axis 1) of all numbers that are not nan."""
    defined = np.isfinite(draws)
    n = defined.sum(axis=1)
    out: Floats = np.where(defined, draws, 0).sum(axis=1) / np.where(n, n, np.nan)
    return out


def _interval(draws: Floats, low_min: float) -> Interval:
    """The value, and around it the spread of the resamples around their own median; not below ``low_min``.

    Resampling adds a bias to ECE and average precision. Plain percentiles of the resamples would be off by that bias.
    """
    value, resampled = float(draws[0]), draws[1:][np.isfinite(draws[1:])]
    if not len(resampled):
        return Interval(np.nan, value, np.nan)
    low, high = value + np.quantile(resampled, _QUANTILES) - np.median(resampled)
    return Interval(max(float(low), low_min), value, float(high))
