"""Calibration: logits → probabilities, how well each is known, and where it stands among the users.

Training fits calibrators, and evaluation measures them, with these same functions
(:mod:`model_export.training.calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from stream.arrays import Counts, Floats, Mask, Numbers, Probabilities
from stream.contract.manifest import Calibrator, HeadCalibration

__all__ = [
    "Curves",
    "PercentileTables",
    "calibrated",
    "head_log_odds",
    "log_odds",
    "percentile",
    "probabilities",
    "sigmoid",
    "wilson",
]

#: Two-sided 95 % of the standard normal.
_Z_95: Final = 1.959964


class Curves:
    """The calibrators of all heads as arrays. Batches are small, so reading the manifest each time would cost more.

    Logits and log-odds are ``(heads, n)``. ``enough`` (n,) says which users have sufficient events; the others get the
    calibrators for few events.
    """

    def __init__(self, heads: Sequence[HeadCalibration]) -> None:
        # Each array has two rows: one for users with few events, and one for users with enough.
        cohorts = [[(head.few, head.enough)[enough] for head in heads] for enough in (False, True)]
        self._slope = np.array([[c.slope for c in cohort] for cohort in cohorts])
        self._intercept = np.array([[c.intercept for c in cohort] for cohort in cohorts])
        self._n_users = np.array([[c.n for c in cohort] for cohort in cohorts])
        self._isotonic = [
            (bool(enough), head, calibrator.slope, *_knots(calibrator))
            for enough, cohort in enumerate(cohorts)
            for head, calibrator in enumerate(cohort)
            if calibrator.method == "isotonic"
        ]

    def log_odds(self, logits: Numbers, enough: Mask) -> Floats:
        """Calibrated log-odds of logits."""
        cohort, x = enough.astype(np.intp), logits.astype(np.float64)
        out: Floats = self._slope.take(cohort, axis=0).T * x + self._intercept.take(cohort, axis=0).T
        for cohort_enough, head, slope, knots, odds in self._isotonic:
            (users,) = (enough == cohort_enough).nonzero()
            if len(users):
                out[head, users] = _isotonic(x[head, users], slope, knots, odds)
        return out

    def n_users(self, enough: Mask) -> Counts:
        """How many held-out users are behind each probability, ``(heads, n)``."""
        return np.asarray(self._n_users.take(enough.astype(np.intp), axis=0).T)


def probabilities(logits: Numbers, heads: Sequence[HeadCalibration], enough: Mask) -> Probabilities:
    """Probabilities ``(n, heads)`` of logits ``(n, heads)``; ``enough`` (n,) says who has sufficient events."""
    return sigmoid(head_log_odds(logits, heads, enough))


def head_log_odds(logits: Numbers, heads: Sequence[HeadCalibration], enough: Mask) -> Floats:
    """Calibrated log-odds ``(n, heads)`` of logits ``(n, heads)``."""
    return np.ascontiguousarray(Curves(heads).log_odds(logits.T, enough).T)


def calibrated(logits: Numbers, calibrator: Calibrator) -> Probabilities:
    """Probabilities of logits of any shape. A higher logit never gets a lower probability.

    >>> calibrated(np.array([-1.0, 0.0, 1.0]), Calibrator(slope=2.0)).round(3).tolist()
    [0.119, 0.5, 0.881]
    """
    return sigmoid(log_odds(logits, calibrator))


def log_odds(logits: Numbers, calibrator: Calibrator) -> Floats:
    """Calibrated log-odds of logits of any shape; see :class:`~stream.contract.manifest.Calibrator`."""
    x = logits.astype(np.float64)
    if calibrator.method == "platt":
        return np.asarray(calibrator.slope * x + calibrator.intercept)
    return _isotonic(x, calibrator.slope, *_knots(calibrator))


def _knots(calibrator: Calibrator) -> tuple[Floats, Floats]:
    """Logits and calibrated log-odds at the knots of an isotonic curve."""
    p = np.array(calibrator.probabilities)
    return np.array(calibrator.logits), np.log(p / (1 - p))


def _isotonic(x: Floats, slope: float, knots: Floats, odds: Floats) -> Floats:
    """Log-odds on an isotonic curve: interpolated between the knots, a line of this slope beyond them."""
    inside = np.minimum(np.maximum(x, knots[0]), knots[-1])
    return np.asarray(np.interp(inside, knots, odds) + slope * (x - inside))


def sigmoid(z: Numbers) -> Probabilities:
    """The logistic function, computed with tanh because that does not overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def wilson(p: Probabilities, n: Numbers) -> tuple[Probabilities, Probabilities]:
    """Lower and upper bound of the 95 % score interval of a share ``p`` among ``n`` (Wilson 1927).

    For ``n`` = 0 nothing is known, and the interval is 0 to 1.

    >>> [round(float(bound), 3) for bound in wilson(np.array(0.5), np.array(100))]
    [0.404, 0.596]
    """
    squared = _Z_95**2
    centre = n * p + squared / 2
    half = _Z_95 * np.sqrt(n * p * (1 - p) + squared / 4)
    return np.maximum((centre - half) / (n + squared), 0), np.minimum((centre + half) / (n + squared), 1)


class PercentileTables:
    """Tables of percentiles, prepared once for many look-ups. An empty table ranks nobody."""

    def __init__(self, tables: Sequence[Sequence[float]]) -> None:
        self._tables = [_Table(np.asarray(t), -np.asarray(t)[::-1], np.linspace(0, 100, len(t))) for t in tables]

    def ranks(self, values: Floats) -> Floats:
        """Where values ``(tables, n)`` stand, each row in its own table; see :func:`percentile`."""
        mirrored, below, above = -values, np.zeros(values.shape), np.zeros(values.shape)
        for i, (points, points_mirrored, rank) in enumerate(self._tables):
            if len(points):
                # Of several equal points np.interp takes the last. In the mirrored table that is the first.
                below[i] = np.interp(values[i], points, rank)
                above[i] = np.interp(mirrored[i], points_mirrored, rank)
        middle = (below + 100 - above) / 2
        # Rounding may put the middle outside of 0 to 100, by its last bit.
        return np.asarray(np.minimum(np.maximum(middle, 0), 100))


class _Table(NamedTuple):
    points: Floats
    points_mirrored: Floats
    rank: Floats


def percentile(values: Floats, percentiles: Sequence[float]) -> Floats:
    """Where ``values`` (n,) stand from 0 to 100 among ascending ``percentiles``.

    Between percentiles the rank is linear, and ties count half.

    >>> percentile(np.array([-1.0, 0.0, 5.0, 20.0]), [0.0, 0.0, 10.0]).tolist()
    [0.0, 25.0, 75.0, 100.0]
    """
    return np.asarray(PercentileTables([percentiles]).ranks(values[None])[0])
