"""Calibration: logits → probabilities, how well each is known, and where it stands among users.

Training fits with, and evaluation measures, these same functions (:mod:`model_export.calibrate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.manifest import Calibrator, HeadCalibration

__all__ = ["calibrated", "log_odds", "log_odds_of", "percentile", "probabilities", "sigmoid", "wilson"]

Array = npt.NDArray[Any]
#: Two-sided 95 % of the standard normal.
_Z_95: Final = 1.959964


def probabilities(logits: Array, heads: Sequence[HeadCalibration], enough: Array) -> Array:
    """Probabilities ``(n, heads)`` of logits ``(n, heads)``; ``enough`` (n,) tells who has sufficient events."""
    return sigmoid(log_odds_of(logits, heads, enough))


def log_odds_of(logits: Array, heads: Sequence[HeadCalibration], enough: Array) -> Array:
    """Calibrated log-odds ``(n, heads)`` of logits ``(n, heads)``."""
    columns = [
        np.where(enough, log_odds(logits[:, h], head.enough), log_odds(logits[:, h], head.few))
        for h, head in enumerate(heads)
    ]
    return np.column_stack(columns)


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
    knots, p = np.array(calibrator.logits), np.array(calibrator.probabilities)
    inside = np.clip(x, knots[0], knots[-1])
    return np.asarray(np.interp(inside, knots, np.log(p / (1 - p))) + calibrator.slope * (x - inside))


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


def percentile(values: Array, percentiles: Sequence[float]) -> Array:
    """Where ``values`` stand among ``percentiles`` (0 to 100, ascending), linear between them; ties count half.

    >>> percentile(np.array([-1.0, 0.0, 5.0, 20.0]), [0.0, 0.0, 10.0]).tolist()
    [0.0, 25.0, 75.0, 100.0]
    """
    at, rank = np.asarray(percentiles), np.linspace(0, 100, len(percentiles))
    # np.interp takes the last of several equal points; mirrored, the first.
    middle = (np.interp(values, at, rank) + 100 - np.interp(-values, -at[::-1], rank)) / 2
    return np.clip(middle, 0, 100)  # which it passes by its last bit
