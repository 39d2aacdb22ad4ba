"""Diagnostics: shows what is behind the metrics of a classifier: by class, by tenth of the users, by probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_export.metrics.ranking import BINS, rank_predictions
from stream.arrays import Mask, Numbers, Probabilities

__all__ = ["Bin", "ClassReport", "Tenth", "classification_report", "lift_and_gain", "reliability"]


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Precision, recall, F1 (0 if undefined) and number of examples of one class at a threshold."""

    precision: float
    recall: float
    f1: float
    support: int


def classification_report(p: Probabilities, y: Numbers, threshold: float) -> dict[str, ClassReport]:
    """A report for each class, "0" and "1", if probabilities of at least ``threshold`` are called 1.

    >>> classification_report(np.array([0.2, 0.6, 0.9]), np.array([0, 0, 1]), 0.5)["1"]
    ClassReport(precision=0.5, recall=1.0, f1=0.6666666666666666, support=1)
    """
    called, actual = p >= threshold, y > 0
    return {"0": _class_report(~called, ~actual), "1": _class_report(called, actual)}


def _class_report(called: Mask, actual: Mask) -> ClassReport:
    hits, n_called, support = int((called & actual).sum()), int(called.sum()), int(actual.sum())
    f1 = 2 * hits / (n_called + support) if n_called + support else 0.0
    return ClassReport(hits / n_called if n_called else 0.0, hits / support if support else 0.0, f1, support)


@dataclass(frozen=True, slots=True)
class Tenth:
    """A tenth of the users, sorted by falling prediction. ``lift`` is their base rate over that of all users."""

    lift: float
    #: Share of all positives that are in this tenth or in those before.
    gain: float


def lift_and_gain(p: Probabilities, y: Numbers) -> list[Tenth]:
    """Ten tenths by falling prediction; empty if there are no positives.

    >>> lift_and_gain(np.arange(100.0), np.arange(100) >= 90)[0]
    Tenth(lift=10.0, gain=1.0)
    """
    captured = rank_predictions(p, y).by_decile()[1][::-1]
    if not captured.sum():
        return []
    shares = captured / captured.sum()
    return [Tenth(BINS * float(share), float(gain)) for share, gain in zip(shares, np.cumsum(shares), strict=True)]


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of a reliability diagram: mean probability, share of positives, and number of examples (fractional)."""

    predicted: float
    observed: float
    n: float


def reliability(p: Probabilities, y: Numbers) -> list[Bin]:
    """Ten bins of equal size, lowest probabilities first. :func:`model_export.metrics.measures.ece` uses the same bins.

    >>> reliability(np.full(10, 0.25), np.arange(10) < 3)[0]
    Bin(predicted=0.25, observed=0.3, n=1.0)
    """
    n = len(y) / BINS
    predicted, observed = (sums / n for sums in rank_predictions(p, y).by_decile())
    return [Bin(float(a), float(b), n) for a, b in zip(predicted, observed, strict=True)]
