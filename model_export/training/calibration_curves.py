"""Calibration curves: fits one curve from logits to probabilities to what came true on a held-out split.

:mod:`model_export.training.calibration` decides which curves a model gets. :mod:`stream.score.calibration` applies
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
import numpy as np
from scipy.optimize import brentq, isotonic_regression

from model_export.data.examples import Outcomes
from stream.arrays import Floats, Numbers, Rows, Slots
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
    "shifted",
]

#: Logits and labels ``(n,)`` → a curve.
Fit: TypeAlias = Callable[[Numbers, Outcomes], Calibrator]
_STEPS_MAX: Final = 100
_TOLERANCE: Final = 1e-10
_FOLDS: Final = 5
#: Before pooling, a step of the isotonic curve has at least this many rows, and the curve at most this many steps.
#: The first bounds the noise, the second the size of the manifest.
_BIN_ROWS_MIN: Final = 50
_BINS_MAX: Final = 100
#: The number of users behind one probability is taken to be a tenth of all users.
_TENTHS: Final = 10
#: A cohort with fewer examples of either outcome gets no curve, just its base rate.
_OUTCOMES_MIN: Final = 10
#: Precision of the prior on the slope of a cohort, per standard deviation of its logits. It halves the slope of a
#: cohort with about this many positives.
_COHORT_RIDGE: Final = 10.0
_TEMPERATURE_MAX: Final = 10.0


def fit_calibrator(
    logits: Numbers, labels: Outcomes, users: Rows | None = None, name: str = "the calibrated head"
) -> Calibrator:
    """Platt scaling or centred isotonic regression: the one that does better on users that it was not fitted on.

    ``users`` (n,) names the user of each row; without it, each row counts as another user. Raises ConfigError if the
    logits rank worse than chance.
    """
    calibrator = _chosen(logits, labels, users, fit_platt)
    if not calibrator.slope > 0:
        raise ConfigError(
            f"{name}: the trained model ranks worse than chance on the validation split "
            f"(Platt slope {calibrator.slope:.3f}, expected above 0); give more data, or raise fit.epochs"
        )
    return calibrator


def base_rate(labels: Outcomes, users: Rows, rate: float = 0.5) -> Calibrator:
    """A curve that gives everyone the share of positives, drawn towards ``rate`` with the weight of one user."""
    share = (float(labels.sum()) + rate) / (len(labels) + 1)
    return Calibrator(slope=0.0, intercept=float(np.log(share / (1 - share))), n=len(np.unique(users)) // _TENTHS)


def fit_cohort(logits: Numbers, labels: Outcomes, users: Rows, rate: float) -> Calibrator:
    """The curve of a cohort that may be small. If it is too small for a curve, everyone gets the cohort's base rate.

    A normal prior (ridge) draws the slope towards 0; a large cohort outweighs it. The base rate is drawn towards
    ``rate``, the rate of the whole split, with the weight of one user.
    """
    positives = float(labels.sum())
    if min(positives, len(labels) - positives) >= _OUTCOMES_MIN:
        curve = _chosen(logits, labels, users, lambda x, y: fit_platt(x, y, _COHORT_RIDGE))
        if curve.slope > 0:
            return curve
    return base_rate(labels, users, rate)


def fit_platt(logits: Numbers, labels: Outcomes, ridge: float = 1e-9) -> Calibrator:
    """Slope and intercept of least log-loss, by Newton steps. Targets are kept off 0 and 1 as in Platt (1999).

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


def fit_isotonic(logits: Numbers, labels: Outcomes, platt: Calibrator) -> Calibrator:
    """Centred isotonic regression (Oron & Flournoy 2017): steps are pooled, and each is put at its rows' mean logit.

    Each step gets one more row, at the probability that ``platt`` gives it. This keeps probabilities off 0 and 1.
    Beyond the outer steps the curve goes on with the slope of ``platt``.
    """
    x = logits.astype(np.float64)
    n_bins = int(np.clip(len(x) // _BIN_ROWS_MIN, 1, _BINS_MAX))
    edges = np.quantile(x, np.linspace(0, 1, n_bins + 1)[1:-1])
    # Rows of equal logit fall into the same bin: they must get the same probability.
    _, bins, n = np.unique(np.searchsorted(edges, x, side="right"), return_inverse=True, return_counts=True)
    centre = np.bincount(bins, x) / n
    rate = (np.bincount(bins, labels > 0) + calibrated(centre, platt)) / (n + 1)
    knots, probabilities = pooled(centre, rate, n.astype(np.float64) + 1)
    return msgspec.structs.replace(
        platt, method="isotonic", logits=tuple(knots.tolist()), probabilities=tuple(probabilities.tolist())
    )


def pooled(logits: Floats, rates: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Pool neighbouring steps ``(n,)`` until the rates ascend strictly (Ayer et al. 1955).

    Returns the weighted mean logit and the rate of each pooled step.

    >>> logits, rates = pooled(np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.6, 0.4]), np.array([5.0, 1.0, 1.0]))
    >>> logits.tolist(), rates.tolist()
    ([0.0, 1.5], [0.1, 0.5])
    """
    steps = isotonic_regression(rates, weights=weights)
    starts = steps.blocks[:-1]
    return np.add.reduceat(weights * logits, starts) / steps.weights, steps.x[starts]


def fit_temperature(logits: Numbers, classes: Slots) -> float:
    """The temperature of least log-loss (Guo et al. 2017), for logits ``(n, K)`` and true classes ``(n,)``.

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
        following = float(np.clip(inverse - step, 1 / _TEMPERATURE_MAX, _TEMPERATURE_MAX))
        if abs(following - inverse) < _TOLERANCE:
            break
        inverse = following
    return 1 / inverse


def shifted(curve: Calibrator, by: float) -> Calibrator:
    """The same curve with all log-odds ``by`` higher.

    >>> shifted(Calibrator(slope=2.0), 0.5).intercept
    0.5
    """
    p = np.array(curve.probabilities)
    odds = np.log(p / (1 - p)) + by
    return msgspec.structs.replace(
        curve, intercept=curve.intercept + by, probabilities=tuple((1 / (1 + np.exp(-odds))).tolist())
    )


def level_gap(odds: Floats, labels: Outcomes) -> float:
    """What must be added to log-odds ``(n,)`` so that their mean probability is the share of positives.

    >>> round(level_gap(np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0])), 4)
    1.0986
    """
    share = np.clip(labels.mean(), 0.5 / len(labels), 1 - 0.5 / len(labels))
    return float(brentq(lambda by: sigmoid(odds + by).mean() - share, -20.0, 20.0))


def _chosen(logits: Numbers, labels: Outcomes, users: Rows | None, fit: Fit) -> Calibrator:
    """The sigmoid, unless the isotonic curve beats it by more than one standard error in cross-validation.

    Folds are of users, not of time. Calibration asks how often the model is right in this split, and the model has
    seen nothing of it. A curve for later splits could only be tested on those. The rule of one standard error, here
    counted by users, is from Breiman et al. (1984).
    """
    users = np.arange(len(labels)) if users is None else np.unique(users, return_inverse=True)[1]
    n_users = int(users.max()) + 1
    gain = _losses(logits, labels, users, fit) - _losses(logits, labels, users, _stepped(fit))
    by_user = np.bincount(users, gain)
    better = by_user.sum() > np.sqrt(((by_user - by_user.mean()) ** 2).sum())
    curve = (_stepped(fit) if better else fit)(logits, labels)
    return msgspec.structs.replace(curve, n=n_users // _TENTHS)


def _stepped(fit: Fit) -> Fit:
    """Fit an isotonic curve around the sigmoid of ``fit``."""
    return lambda logits, labels: fit_isotonic(logits, labels, fit(logits, labels))


def _losses(logits: Numbers, labels: Outcomes, users: Rows, fit: Fit) -> Floats:
    """The log-loss of each row under a curve that was fitted on the users of the other folds."""
    fold = np.random.default_rng(0).permutation(int(users.max()) + 1)[users] % _FOLDS
    out = np.zeros(len(labels))
    for held_out in (fold == f for f in range(_FOLDS)):
        if held_out.any() and not held_out.all():
            z = log_odds(logits[held_out], fit(logits[~held_out], labels[~held_out]))
            out[held_out] = np.logaddexp(0, np.where(labels[held_out] > 0, -z, z))
    return out
