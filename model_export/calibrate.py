"""Calibrate: Platt scaling of logits, and the factor that removes the total bias of value, on a held-out window."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model_export.dataset import Examples
from stream.contract.manifest import Calibration, Labels, Platt
from stream.decide import expected_value
from stream.errors import ConfigError
from stream.score import RawScores

__all__ = ["calibrate", "calibrated", "fit_platt", "predicted_value"]

Array = npt.NDArray[Any]
_STEPS_MAX: Final = 100
_TOLERANCE: Final = 1e-10


def calibrate(raw: RawScores, examples: Examples, labels: Labels) -> Calibration:
    """Fit all heads on ``examples``; raises ConfigError for a head that ranks worse than chance there."""
    churn = _fit_head("churn", raw.churn, examples.churn)
    purchase = tuple(
        _fit_head(f"purchase in {days:g} days", raw.purchase[:, h], examples.purchase[:, h])
        for h, days in enumerate(labels.purchase_days)
    )
    unscaled = Calibration(churn, purchase)
    predicted = float(predicted_value(raw, unscaled, labels).sum())
    actual = float(examples.value.sum())
    return Calibration(churn, purchase, round(actual / predicted, 6) if actual > 0 else 0.0)


def predicted_value(raw: RawScores, calibration: Calibration, labels: Labels) -> Array:
    """Expected value in currency units, as :mod:`stream.decide` gives it before rounding."""
    head = labels.purchase_days.index(labels.value_days)
    buys = calibrated(raw.purchase[:, head], calibration.purchase[head])
    return expected_value(buys, raw.value) * calibration.value_factor


def calibrated(logits: Array, platt: Platt) -> Array:
    """Probabilities of logits."""
    out: Array = 1.0 / (1.0 + np.exp(-(platt.slope * logits.astype(np.float64) + platt.intercept)))
    return out


def fit_platt(logits: Array, labels: Array) -> Platt:
    """Slope and intercept of least log-loss, by Newton steps; targets are drawn in as in Platt (1999).

    >>> logits = np.array([-2.0, -1.0, 1.0, 2.0] * 100)
    >>> fit_platt(logits, (np.arange(400) % 4 > 1).astype(float)).slope > 1
    True
    """
    positive = labels > 0
    n1, n0 = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    design = np.column_stack((logits.astype(np.float64), np.ones(len(logits))))
    weights = np.array([1.0, 0.0])
    for _ in range(_STEPS_MAX):
        p = 1.0 / (1.0 + np.exp(-design @ weights))
        gradient = design.T @ (p - target)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 4.0 / float(np.abs(step).max(initial=1e-300)))
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return Platt(round(float(weights[0]), 6), round(float(weights[1]), 6))


def _fit_head(name: str, logits: Array, labels: Array) -> Platt:
    platt = fit_platt(logits, labels)
    if platt.slope <= 0:
        raise ConfigError(
            f"{name}: the trained model ranks worse than chance on the validation window "
            f"(Platt slope {platt.slope:.3f}, expected above 0); give more data or more --epochs"
        )
    return platt
