"""Bootstrap: measures of several models on the same snapshots, with intervals from resampling users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model_export.metrics.measures import METRICS, SIGNED, Kind, ece
from model_export.metrics.ordered import Ordered, Ranking

__all__ = ["Interval", "Measured", "TestSet", "measure"]

Array = npt.NDArray[Any]
#: Both ends of a 95 % interval.
_QUANTILES: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class TestSet:
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
        """Per model and metric the value with its interval, which ends at 0 where no value can be below."""
        return {
            model: {name: _interval(draws, -np.inf if name in SIGNED else 0.0) for name, draws in of.items()}
            for model, of in self.draws.items()
        }

    def difference(self, a: str, b: str, metric: str) -> Interval:
        """The metric of model ``a`` less that of ``b``, on the same resamples."""
        return _interval(self.draws[a][metric] - self.draws[b][metric], -np.inf)


def measure(snapshots: Sequence[TestSet], kind: Kind, resamples: int = 300, seed: int = 0) -> Measured:
    """Metrics of every model, averaged over its seeds and over snapshots, with intervals from resampling users.

    ECE alone is of all snapshots together: of 800 users, a tenth of 80 is off by four points by chance alone, which
    an average over snapshots would keep. That average is there as ``ece_by_snapshot``.
    A resample draws as many users as there are, with replacement, and takes them with all their examples: the
    same users for every snapshot, model and seed, so that differences between models are paired.
    """
    models, metrics = list(snapshots[0].predicted), METRICS[kind]
    names, place = np.unique(np.concatenate([s.user for s in snapshots]), return_inverse=True)
    users = np.split(place, np.cumsum([len(s.user) for s in snapshots])[:-1])
    actual = [Ranking.of(s.actual, s.actual) for s in snapshots]
    rankings = [[[Ranking.of(p, s.actual) for p in s.predicted[model]] for model in models] for s in snapshots]
    together = [_together(snapshots, model) if kind == "probability" else [] for model in models]
    draws = np.empty((1 + resamples, len(snapshots), len(models), len(metrics)))
    pooled = np.full((1 + resamples, len(models)), np.nan)
    for r, weights in enumerate(_resampled(len(names), resamples, seed)):
        for s, user in enumerate(users):
            of_snapshot = weights[user]
            best = Ordered(actual[s], of_snapshot)
            for m, seeds in enumerate(rankings[s]):
                tallies = [Ordered(ranking, of_snapshot, best) for ranking in seeds]
                draws[r, s, m] = np.mean([[metric(t) for metric in metrics.values()] for t in tallies], axis=0)
        if kind == "probability":
            pooled[r] = [np.mean([ece(Ordered(ranking, weights[place])) for ranking in seeds]) for seeds in together]
    average = _mean_of_defined(draws)
    out = {model: dict(zip(metrics, average[:, i].T, strict=True)) for i, model in enumerate(models)}
    if kind == "probability":
        for i, model in enumerate(models):
            out[model] |= {"ece": pooled[:, i], "ece_by_snapshot": out[model]["ece"]}
    return Measured(out)


def _together(snapshots: Sequence[TestSet], model: str) -> list[Ranking]:
    """One ranking a seed, of the examples of all snapshots."""
    actual = np.concatenate([s.actual for s in snapshots])
    seeds = zip(*(s.predicted[model] for s in snapshots), strict=True)
    return [Ranking.of(np.concatenate(predictions), actual) for predictions in seeds]


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
