"""Calibrate: all that turns the raw outputs of a model into probabilities and values, from a held-out window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from model_export.data.examples import Examples
from model_export.data.labels import head_names
from model_export.training.calibration_curves import base_rate, fit_calibrator, fit_cohort, level_gap, moved
from stream.contract.manifest import Calibration, HeadCalibration, Labels
from stream.contract.tokens import FEATURES
from stream.errors import ConfigError
from stream.score.calibration import log_odds_of, probabilities
from stream.score.expectation import expected_value, log_normal
from stream.score.scorer import RawScores

__all__ = [
    "calibrate", "calibrate_heads", "follow", "follow_factor", "follow_heads", "has_enough", "predicted",
    "predicted_value",
]  # fmt: skip

Array = npt.NDArray[Any]
_N_EVENTS: Final = FEATURES.index("n_events")
#: 90 % quantile of the standard normal: its central 80 % end there.
_Z_80: Final = 1.281552
#: Beyond these, scaling and moving do not put the spread of value right.
_SIGMA_FACTORS: Final = (0.5, 2.0)
_SHIFT_MAX: Final = 2.0
#: Where fewer of either outcome have sufficient events, all users stand in for those who have.
_OUTCOMES_MIN: Final = 10


def calibrate(
    raw: RawScores, examples: Examples, labels: Labels, sufficient_events: int, *, strict: bool = True
) -> Calibration:
    """Fit all heads and the value on ``examples``, the held-out window; percentiles are of its snapshots.

    A head that ranks worse than chance there raises ConfigError, or, if not ``strict``, says the base rate.
    """
    logits = raw.logits
    enough, snapshot = has_enough(examples, sufficient_events), ~examples.at_event
    heads = calibrate_heads(logits, examples, labels, sufficient_events, strict=strict)
    p = probabilities(logits, heads, enough)
    heads = [msgspec.structs.replace(head, percentiles=_hundredths(p[snapshot, h])) for h, head in enumerate(heads)]
    expected = expected_value(p[:, labels.value_head], raw.value)
    factor = round(float(examples.value.sum() / expected.sum()), 6) if examples.value.any() else 0.0
    sigma_factor, shift = _spread(raw, examples.value, factor)
    return Calibration(
        churn=heads[0],
        purchase=tuple(heads[1:]),
        value_factor=factor,
        value_percentiles=_hundredths(factor * expected[snapshot]),
        value_sigma_factor=sigma_factor,
        value_shift=shift,
    )


def follow(
    calibration: Calibration, raw: RawScores, examples: Examples, labels: Labels, sufficient_events: int, drift: float
) -> Calibration:
    """The calibration of a model trained anew on labels up to those of ``examples``, on which its outputs are ``raw``.

    As found, it tells how far a model is off one horizon after its labels. With ``drift`` 1 that is taken to happen
    again, with 0 the level of the newest labels is taken to stay, and between them part of the way.
    """
    enough, snapshot = has_enough(examples, sufficient_events), ~examples.at_event
    heads = follow_heads(calibration.heads, raw.logits, examples, sufficient_events, drift)
    p = probabilities(raw.logits, heads, enough)
    heads = [msgspec.structs.replace(head, percentiles=_hundredths(p[snapshot, h])) for h, head in enumerate(heads)]
    expected = expected_value(p[:, labels.value_head], raw.value)
    factor = round(follow_factor(calibration.value_factor, expected, examples, drift), 6)
    return msgspec.structs.replace(
        calibration,
        churn=heads[0],
        purchase=tuple(heads[1:]),
        value_factor=factor,
        value_percentiles=_hundredths(factor * expected[snapshot]),
    )


def follow_heads(
    heads: Sequence[HeadCalibration], logits: Array, examples: Examples, sufficient_events: int, drift: float
) -> list[HeadCalibration]:
    """Heads moved towards the level of the newest labels, see :func:`follow`; ``logits`` are of the new model."""
    enough = has_enough(examples, sufficient_events)
    odds = log_odds_of(logits, heads, enough)
    out = []
    for head, z, y in zip(heads, odds.T, examples.outcomes.T, strict=True):
        by = (1 - drift) * level_gap(z, y)
        out.append(HeadCalibration(moved(head.enough, by), moved(head.few, by)))
    return out


def follow_factor(factor: float, expected: Array, examples: Examples, drift: float) -> float:
    """Factor of value between that of the newest labels and that found a horizon after older ones."""
    actual, total = float(examples.value.sum()), float(expected.sum())
    if not (actual > 0 and total > 0 and factor > 0):
        return factor
    return float((actual / total) ** (1 - drift) * factor**drift)


def calibrate_heads(
    logits: Array, examples: Examples, labels: Labels, sufficient_events: int, *, strict: bool = True
) -> list[HeadCalibration]:
    """The probability heads, churn first, of logits ``(n, heads)``; without percentiles.

    A head that ranks worse than chance raises ConfigError, or, if not ``strict``, says the base rate of everyone.
    """
    enough = has_enough(examples, sufficient_events)
    columns = zip(head_names(labels), logits.T, examples.outcomes.T, strict=True)
    return [_fit_head(name, z, y, examples.user, enough, strict) for name, z, y in columns]


def predicted(raw: RawScores, examples: Examples, calibration: Calibration, sufficient_events: int) -> Array:
    """Probabilities ``(n, heads)``, churn first, as they are served but for rounding."""
    return probabilities(raw.logits, calibration.heads, has_enough(examples, sufficient_events))


def predicted_value(
    raw: RawScores, examples: Examples, calibration: Calibration, labels: Labels, sufficient_events: int
) -> Array:
    """Expected value ``(n,)`` in currency units, as it is served but for rounding."""
    p = predicted(raw, examples, calibration, sufficient_events)
    return expected_value(p[:, labels.value_head], raw.value) * calibration.value_factor


def has_enough(examples: Examples, sufficient_events: int) -> Array:
    """Who ``(n,)`` has sufficient events; their number is among the features, as log1p."""
    return np.asarray(np.rint(np.expm1(examples.features[:, _N_EVENTS].astype(np.float64))) >= sufficient_events)


def _fit_head(name: str, logits: Array, labels: Array, users: Array, enough: Array, strict: bool) -> HeadCalibration:
    positives = labels[enough].sum()
    known = enough if min(positives, enough.sum() - positives) >= _OUTCOMES_MIN else np.ones_like(enough)
    try:
        curve = fit_calibrator(logits[known], labels[known], users[known], name)
    except ConfigError:
        if strict:
            raise
        curve = base_rate(labels, users)
    return HeadCalibration(
        enough=curve,
        few=fit_cohort(logits[~enough], labels[~enough], users[~enough], float(labels.mean())),
    )


def _spread(raw: RawScores, value: Array, factor: float) -> tuple[float, float]:
    """Scale and shift of sigma that put a tenth of the buyers below the central 80 % of value, and a tenth above.

    The quantiles of normalised residuals are matched to the normal's, as in split conformal prediction (Papadopoulos
    et al. 2002). Buyers alone tell: zero is covered as often as the purchase head is right.
    """
    buyers = value > 0
    if not buyers.any():
        return 1.0, 0.0
    mu, sigma = log_normal(raw.value[buyers])
    low, high = np.quantile((np.log(value[buyers] / factor) - mu) / sigma, [0.1, 0.9])
    scale = np.clip((high - low) / (2 * _Z_80), *_SIGMA_FACTORS)
    return round(float(scale), 6), round(float(np.clip((low + high) / 2, -_SHIFT_MAX, _SHIFT_MAX)), 6)


def _hundredths(values: Array) -> tuple[float, ...]:
    """Percentiles 0 to 100; none of no values."""
    return tuple(np.quantile(values, np.linspace(0, 1, 101)).tolist()) if len(values) else ()
