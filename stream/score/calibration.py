"""Calibration: logits → probabilities, how well each is known, and where it stands among users.

Training fits with, and evaluation measures, these same functions (:mod:`model_export.training.calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.contract.manifest import Calibrator, HeadCalibration

__all__ = [
    "Curves",
    "Ranking",
    "calibrated",
    "log_odds",
    "log_odds_of",
    "percentile",
    "probabilities",
    "sigmoid",
    "wilson",
]

Array = npt.NDArray[Any]
#: Two-sided 95 % of the standard normal.
_Z_95: Final = 1.959964


class Curves:
    """The calibrators of all heads, prepared once: batches are small, and reading the knots would cost more than them.

    Logits and what becomes of them are ``(heads, n)``; ``enough`` (n,) tells who has sufficient events.
    """

    def __init__(self, heads: Sequence[HeadCalibration]) -> None:
        by_cohort = [[(head.few, head.enough)[enough] for head in heads] for enough in (False, True)]
        self._slope = np.array([[c.slope for c in cohort] for cohort in by_cohort])
        self._intercept = np.array([[c.intercept for c in cohort] for cohort in by_cohort])
        self._people = np.array([[c.n for c in cohort] for cohort in by_cohort])
        self._isotonic = [
            (bool(enough), h, calibrator.slope, *_knots(calibrator))
            for enough, cohort in enumerate(by_cohort)
            for h, calibrator in enumerate(cohort)
            if calibrator.method == "isotonic"
        ]

    def log_odds(self, logits: Array, enough: Array) -> Array:
        """Calibrated log-odds of logits."""
        cohort, x = enough.astype(np.intp), logits.astype(np.float64)
        out = np.asarray(self._slope.take(cohort, axis=0).T * x + self._intercept.take(cohort, axis=0).T)
        for enough_here, h, slope, knots, odds in self._isotonic:
            (users,) = (enough == enough_here).nonzero()
            if len(users):
                out[h, users] = _isotonic(x[h, users], slope, knots, odds)
        return out

    def people(self, enough: Array) -> Array:
        """How many held-out users are behind each probability."""
        return np.asarray(self._people.take(enough.astype(np.intp), axis=0).T)


def probabilities(logits: Array, heads: Sequence[HeadCalibration], enough: Array) -> Array:
    """Probabilities ``(n, heads)`` of logits ``(n, heads)``; ``enough`` (n,) tells who has sufficient events."""
    return sigmoid(log_odds_of(logits, heads, enough))


def log_odds_of(logits: Array, heads: Sequence[HeadCalibration], enough: Array) -> Array:
    """Calibrated log-odds ``(n, heads)`` of logits ``(n, heads)``."""
    return np.ascontiguousarray(Curves(heads).log_odds(logits.T, enough).T)


def calibrated(logits: Array, calibrator: Calibrator) -> Array:
    """Probabilities of logits, both of any shape; a higher logit never has a lower one.

    >>> calibrated(np.array([-1.0, 0.0, 1.0]), Calibrator(slope=2.0)).round(3).tolist()
    [0.119, 0.5, 0.881]
    """
    return sigmoid(log_odds(logits, calibrator))


def log_odds(logits: Array, calibrator: Calibrator) -> Array:
    """Calibrated log-odds of logits, see :class:`~stream.contract.manifest.Calibrator`."""
    x = logits.astype(np.float64)
    if calibrator.method == "platt":
        return np.asarray(calibrator.slope * x + calibrator.intercept)
    return _isotonic(x, calibrator.slope, *_knots(calibrator))


def _knots(calibrator: Calibrator) -> tuple[Array, Array]:
    """Logits and calibrated log-odds at the knots of an isotonic curve."""
    p = np.array(calibrator.probabilities)
    return np.array(calibrator.logits), np.log(p / (1 - p))


def _isotonic(x: Array, slope: float, knots: Array, odds: Array) -> Array:
    inside = np.minimum(np.maximum(x, knots[0]), knots[-1])
    return np.asarray(np.interp(inside, knots, odds) + slope * (x - inside))


def sigmoid(z: Array) -> Array:
    """The logistic function as tanh, which does not overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def wilson(p: Array, n: Array) -> tuple[Array, Array]:
    """Bounds of the 95 % score interval of a share ``p`` among ``n`` (Wilson 1927); 0 to 1 where ``n`` is 0.

    >>> [round(float(bound), 3) for bound in wilson(np.array(0.5), np.array(100))]
    [0.404, 0.596]
    """
    squared = _Z_95**2
    centre = n * p + squared / 2
    half = _Z_95 * np.sqrt(n * p * (1 - p) + squared / 4)
    return np.maximum((centre - half) / (n + squared), 0), np.minimum((centre + half) / (n + squared), 1)


class Ranking:
    """Tables of percentiles, prepared once; an empty one ranks nobody."""

    def __init__(self, tables: Sequence[Sequence[float]]) -> None:
        self._tables = [_Table(np.asarray(t), -np.asarray(t)[::-1], np.linspace(0, 100, len(t))) for t in tables]

    def percentiles_of(self, values: Array) -> Array:
        """Where values ``(tables, n)`` stand, each row in its own table: see :func:`percentile`."""
        mirrored, below, above = -values, np.zeros(values.shape), np.zeros(values.shape)
        for i, (at, at_mirrored, rank) in enumerate(self._tables):
            if len(at):
                # np.interp takes the last of several equal points; mirrored, the first.
                below[i] = np.interp(values[i], at, rank)
                above[i] = np.interp(mirrored[i], at_mirrored, rank)
        middle = (below + 100 - above) / 2
        return np.asarray(np.minimum(np.maximum(middle, 0), 100))  # which it passes by its last bit


class _Table(NamedTuple):
    at: Array
    at_mirrored: Array
    rank: Array


def percentile(values: Array, percentiles: Sequence[float]) -> Array:
    """Where ``values`` (n,) stand among ``percentiles`` (0 to 100, ascending), linear between them; ties count half.

    >>> percentile(np.array([-1.0, 0.0, 5.0, 20.0]), [0.0, 0.0, 10.0]).tolist()
    [0.0, 25.0, 75.0, 100.0]
    """
    return np.asarray(Ranking([percentiles]).percentiles_of(values[None])[0])
