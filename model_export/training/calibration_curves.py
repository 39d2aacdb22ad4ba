"""Calibrators: one curve from logits to probabilities, fitted to what came true on a held-out window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from stream.contract.manifest import Calibrator
from stream.errors import ConfigError
from stream.score.calibration import calibrated, log_odds, sigmoid

__all__ = [
    "base_rate",
    "fit_calibrator",
    "fit_cohort",
    "fit_isotonic",
    "fit_platt",
    "fit_temperature",
    "level_gap",
    "moved",
]

Array = npt.NDArray[Any]
Fit = Callable[[Array, Array], Calibrator]
_STEPS_MAX: Final = 100
_TOLERANCE: Final = 1e-10
_FOLDS: Final = 5
#: Rows of a step of the isotonic curve before pooling, at least, and steps at most: bounds noise and the manifest.
_BIN_ROWS_MIN: Final = 50
_BINS_MAX: Final = 100
#: A tenth of the users stands behind one probability.
_TENTHS: Final = 10
#: Fewest of each outcome for which a cohort gets a curve, not just its base rate.
_OUTCOMES_MIN: Final = 10
#: Prior on a cohort's slope, per standard deviation of its logits: halves it at about this many positives.
_COHORT_RIDGE: Final = 10.0
_TEMPERATURE_MAX: Final = 10.0


def fit_calibrator(
    logits: Array, labels: Array, users: Array | None = None, name: str = "the calibrated head"
) -> Calibrator:
    """Platt scaling or centred isotonic regression, whichever does better on users that it was not fitted on.

    ``users`` (n,) says which rows are the same user's; none: every row is another's. Raises ConfigError where the
    logits rank worse than chance.
    """
    calibrator = _chosen(logits, labels, users, fit_platt)
    if not calibrator.slope > 0:
        raise ConfigError(
            f"{name}: the trained model ranks worse than chance on the validation window "
            f"(Platt slope {calibrator.slope:.3f}, expected above 0); give more data, or raise fit.epochs"
        )
    return calibrator


def base_rate(labels: Array, users: Array, rate: float = 0.5) -> Calibrator:
    """The share of positives for everyone, drawn towards ``rate`` with the weight of one user."""
    share = (float(labels.sum()) + rate) / (len(labels) + 1)
    return Calibrator(slope=0.0, intercept=float(np.log(share / (1 - share))), n=len(np.unique(users)) // _TENTHS)


def fit_cohort(logits: Array, labels: Array, users: Array, rate: float) -> Calibrator:
    """Curve of a cohort that may be small, and constant at the cohort's rate where that is all that can be known.

    The slope is drawn towards 0 by a normal prior (ridge), which a large cohort outweighs; the rate is drawn towards
    ``rate``, that of the whole window, with the weight of one user.
    """
    positives = float(labels.sum())
    if min(positives, len(labels) - positives) >= _OUTCOMES_MIN:
        curve = _chosen(logits, labels, users, lambda x, y: fit_platt(x, y, _COHORT_RIDGE))
        if curve.slope > 0:
            return curve
    return base_rate(labels, users, rate)


def fit_platt(logits: Array, labels: Array, ridge: float = 1e-9) -> Calibrator:
    """Slope and intercept of least log-loss, by Newton steps; targets are drawn in as in Platt (1999).

    ``ridge`` is the precision of a normal prior on the slope per standard deviation of the logits.

    >>> logits = np.array([-2.0, -1.0, 1.0, 2.0] * 100)
    >>> fit_platt(logits, (np.arange(400) % 4 > 1).astype(float)).slope > 1
    True
    """
    positive = labels > 0
    n1, n0 = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    centre, spread = float(logits.mean(dtype=np.float64)), float(logits.std(dtype=np.float64)) or 1.0
    design = np.column_stack(((logits.astype(np.float64) - centre) / spread, np.ones(len(logits))))
    penalty = np.array([ridge, 1e-9])
    weights = np.zeros(2)
    for _ in range(_STEPS_MAX):
        p = 1.0 / (1.0 + np.exp(-design @ weights))
        gradient = design.T @ (p - target) + penalty * weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 4.0 / float(np.abs(step).max(initial=1e-300)))
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    slope = float(weights[0]) / spread
    return Calibrator(slope=slope, intercept=float(weights[1]) - slope * centre)


def fit_isotonic(logits: Array, labels: Array, platt: Calibrator) -> Calibrator:
    """Centred isotonic regression (Oron & Flournoy 2017): pooled steps, each put at the mean logit of its rows.

    A row more at the probability of ``platt`` in each step keeps 0 and 1 out; beyond the steps, its slope goes on.
    """
    x = logits.astype(np.float64)
    n_bins = int(np.clip(len(x) // _BIN_ROWS_MIN, 1, _BINS_MAX))
    edges = np.quantile(x, np.linspace(0, 1, n_bins + 1)[1:-1])
    # Rows of equal logit fall into the same bin: they must get the same probability.
    _, bins, n = np.unique(np.searchsorted(edges, x, side="right"), return_inverse=True, return_counts=True)
    centre = np.bincount(bins, x) / n
    rate = (np.bincount(bins, labels > 0) + calibrated(centre, platt)) / (n + 1)
    knots = _pooled(np.column_stack((n + 1.0, centre, rate)))
    return msgspec.structs.replace(
        platt, method="isotonic", logits=tuple(knots[:, 1].tolist()), probabilities=tuple(knots[:, 2].tolist())
    )


def fit_temperature(logits: Array, classes: Array) -> float:
    """Temperature of least log-loss (Guo et al. 2017) of logits ``(n, K)`` whose true class is ``classes`` (n,).

    >>> logits = np.tile(np.log([[0.8, 0.2]]), (10, 1))
    >>> fit_temperature(2 * logits, np.array([0] * 8 + [1] * 2)).__round__(6)
    2.0
    """
    x, rows, inverse = logits.astype(np.float64), np.arange(len(classes)), 1.0
    for _ in range(_STEPS_MAX):
        share = np.exp(inverse * (x - x.max(axis=1, keepdims=True)))
        share /= share.sum(axis=1, keepdims=True)
        mean = (share * x).sum(axis=1)
        curvature = (share * x**2).sum() - (mean**2).sum()
        step = float(np.clip((mean - x[rows, classes]).sum() / (curvature + 1e-12), -1.0, 1.0))
        moved = float(np.clip(inverse - step, 1 / _TEMPERATURE_MAX, _TEMPERATURE_MAX))
        if abs(moved - inverse) < _TOLERANCE:
            break
        inverse = moved
    return 1 / inverse


def moved(curve: Calibrator, by: float) -> Calibrator:
    """The same curve with all log-odds ``by`` higher.

    >>> moved(Calibrator(slope=2.0), 0.5).intercept
    0.5
    """
    p = np.array(curve.probabilities)
    odds = np.log(p / (1 - p)) + by
    return msgspec.structs.replace(
        curve, intercept=curve.intercept + by, probabilities=tuple((1 / (1 + np.exp(-odds))).tolist())
    )


def level_gap(odds: Array, labels: Array) -> float:
    """What must be added to log-odds ``(n,)`` for their mean probability to be the share of positives.

    >>> round(level_gap(np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0])), 4)
    1.0986
    """
    share = np.clip(labels.mean(), 0.5 / len(labels), 1 - 0.5 / len(labels))
    return float(brentq(lambda by: sigmoid(odds + by).mean() - share, -20.0, 20.0))


def _chosen(logits: Array, labels: Array, users: Array | None, fit: Callable[[Array, Array], Calibrator]) -> Calibrator:
    """The sigmoid, unless the isotonic curve beats it by more than a standard error in cross-validation.

    Folds are of users, not of time: calibration asks how often what the model says in this window comes true, the
    model itself has seen none of it, and a curve for later windows can only be tested on those. One standard error,
    counted by users: Breiman et al. (1984).
    """
    users = np.arange(len(labels)) if users is None else np.unique(users, return_inverse=True)[1]
    n_users = int(users.max()) + 1
    gain = _losses(logits, labels, users, fit) - _losses(logits, labels, users, _stepped(fit))
    by_user = np.bincount(users, gain)
    better = by_user.sum() > np.sqrt(((by_user - by_user.mean()) ** 2).sum())
    curve = (_stepped(fit) if better else fit)(logits, labels)
    return msgspec.structs.replace(curve, n=n_users // _TENTHS)


def _stepped(fit: Fit) -> Fit:
    return lambda logits, labels: fit_isotonic(logits, labels, fit(logits, labels))


def _losses(logits: Array, labels: Array, users: Array, fit: Fit) -> Array:
    """Log-loss of each row under a curve fitted on the other folds' users."""
    fold = np.random.default_rng(0).permutation(int(users.max()) + 1)[users] % _FOLDS
    out = np.zeros(len(labels))
    for held_out in (fold == f for f in range(_FOLDS)):
        if held_out.any() and not held_out.all():
            z = log_odds(logits[held_out], fit(logits[~held_out], labels[~held_out]))
            out[held_out] = np.logaddexp(0, np.where(labels[held_out] > 0, -z, z))
    return out


def _pooled(steps: Array) -> Array:
    """Pool neighbours (rows of weight, logit, rate) until the rate strictly ascends (Ayer et al. 1955)."""
    out: list[Array] = []
    for step in steps:
        out.append(step)
        while len(out) > 1 and out[-2][2] >= out[-1][2]:
            last, before = out.pop(), out.pop()
            weight = last[0] + before[0]
            out.append(np.append(weight, (last[0] * last[1:] + before[0] * before[1:]) / weight))
    return np.array(out)
