"""Diagnostics: what stands behind one number of a classifier: by class, by tenth of the users, by probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.metrics.ordered import BINS, ordered

__all__ = ["Bin", "ClassReport", "Tenth", "classification_report", "lift_and_gain", "reliability"]

Array = npt.NDArray[Any]


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
    """A tenth of the users, the most likely first: their base rate over that of all."""

    lift: float
    #: Share of all positives in this tenth and the ones before.
    gain: float


def lift_and_gain(p: Array, y: Array) -> list[Tenth]:
    """Ten tenths by falling prediction; empty where there are no positives.

    >>> lift_and_gain(np.arange(100.0), np.arange(100) >= 90)[0]
    Tenth(lift=10.0, gain=1.0)
    """
    captured = ordered(p, y).by_decile()[1][::-1]
    if not captured.sum():
        return []
    shares = captured / captured.sum()
    return [Tenth(BINS * float(share), float(gain)) for share, gain in zip(shares, np.cumsum(shares), strict=True)]


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of a reliability diagram: mean probability, share of positives, and (fractional) number of examples."""

    predicted: float
    observed: float
    n: float


def reliability(p: Array, y: Array) -> list[Bin]:
    """Ten bins of equal size, lowest probabilities first: those of :func:`model_export.metrics.measures.ece`.

    >>> reliability(np.full(10, 0.25), np.arange(10) < 3)[0]
    Bin(predicted=0.25, observed=0.3, n=1.0)
    """
    n = len(y) / BINS
    predicted, observed = (sums / n for sums in ordered(p, y).by_decile())
    return [Bin(float(a), float(b), n) for a, b in zip(predicted, observed, strict=True)]
