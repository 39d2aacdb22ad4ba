"""Calibration: fits on a held-out split what turns the raw scores of a model into probabilities and values.

One curve for each head and each cohort (users with sufficient events, and users with fewer) comes from
:mod:`model_export.training.calibration_curves`. :mod:`stream.score.calibration` applies them, here and when serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from model_export.data.examples import Examples, Outcomes
from model_export.data.labels import head_names
from model_export.training.calibration_curves import base_rate, fit_calibrator, fit_cohort, level_gap, shifted
from stream.arrays import Floats, Mask, Numbers, Probabilities, Rows
from stream.contract.manifest import Calibration, HeadCalibration, Labels
from stream.contract.tokens import FEATURES
from stream.errors import ConfigError
from stream.score.calibration import head_log_odds, probabilities
from stream.score.expectation import expected_value, log_normal
from stream.score.scorer import RawScores

__all__ = [
    "calibrate", "calibrate_heads", "has_enough", "predicted_probabilities", "predicted_value", "recalibrate",
    "recalibrated_heads", "recalibrated_value_factor",
]  # fmt: skip

_N_EVENTS: Final = FEATURES.index("n_events")
#: The 90 % quantile of the standard normal distribution, where its central 80 % end.
_Z_80: Final = 1.281552
#: Bounds of the scale and the shift of sigma. Something beyond them would not put the spread of value right.
_SIGMA_FACTORS: Final = (0.5, 2.0)
_SHIFT_MAX: Final = 2.0
#: Fewest users of each outcome with sufficient events; with fewer, their curve is fitted on all users.
_OUTCOMES_MIN: Final = 10


def calibrate(
    raw: RawScores, examples: Examples, labels: Labels, sufficient_events: int, *, strict: bool = True
) -> Calibration:
    """Fit all heads and the value on ``examples``, the held-out split. Percentiles are those of its snapshots.

    A head that ranks worse than chance there raises ConfigError or, without ``strict``, gets the base rate.
    """
    logits = raw.logits
    enough, snapshot = has_enough(examples, sufficient_events), ~examples.at_event
    heads = calibrate_heads(logits, examples, labels, sufficient_events, strict=strict)
    p = probabilities(logits, heads, enough)
    heads = [msgspec.structs.replace(head, percentiles=_percentiles(p[snapshot, h])) for h, head in enumerate(heads)]
    expected = expected_value(p[:, labels.value_head], raw.value)
    factor = round(float(examples.value.sum() / expected.sum()), 6) if examples.value.any() else 0.0
    sigma_factor, shift = _spread(raw, examples.value, factor)
    return Calibration(
        churn=heads[0],
        purchase=tuple(heads[1:]),
        value_factor=factor,
        value_percentiles=_percentiles(factor * expected[snapshot]),
        value_sigma_factor=sigma_factor,
        value_shift=shift,
    )


def recalibrate(
    calibration: Calibration,
    raw: RawScores,
    examples: Examples,
    *,
    labels: Labels,
    sufficient_events: int,
    drift: float,
) -> Calibration:
    """The calibration of a refitted model that was trained on labels up to those of ``examples``.

    ``raw`` are its raw scores on ``examples``. The first ``calibration`` tells how far a model is off one horizon after
    its labels. With ``drift`` 1 we expect the same error again. With 0 we expect the level of the newest labels to
    stay. Between them, the level moves part of the way.
    """
    enough, snapshot = has_enough(examples, sufficient_events), ~examples.at_event
    heads = recalibrated_heads(
        calibration.heads, raw.logits, examples, sufficient_events=sufficient_events, drift=drift
    )
    p = probabilities(raw.logits, heads, enough)
    heads = [msgspec.structs.replace(head, percentiles=_percentiles(p[snapshot, h])) for h, head in enumerate(heads)]
    expected = expected_value(p[:, labels.value_head], raw.value)
    factor = round(recalibrated_value_factor(calibration.value_factor, expected, examples, drift), 6)
    return msgspec.structs.replace(
        calibration,
        churn=heads[0],
        purchase=tuple(heads[1:]),
        value_factor=factor,
        value_percentiles=_percentiles(factor * expected[snapshot]),
    )


def recalibrated_heads(
    heads: Sequence[HeadCalibration], logits: Numbers, examples: Examples, *, sufficient_events: int, drift: float
) -> list[HeadCalibration]:
    """Heads moved towards the level of the newest labels, see :func:`recalibrate`.

    ``logits`` (n, heads) are those of the refitted model.
    """
    enough = has_enough(examples, sufficient_events)
    odds = head_log_odds(logits, heads, enough)
    out = []
    for head, z, y in zip(heads, odds.T, examples.outcomes.T, strict=True):
        by = (1 - drift) * level_gap(z, y)
        out.append(HeadCalibration(shifted(head.enough, by), shifted(head.few, by)))
    return out


def recalibrated_value_factor(factor: float, expected: Floats, examples: Examples, drift: float) -> float:
    """The value factor, between that of the newest labels and ``factor``, found one horizon after older labels."""
    actual, total = float(examples.value.sum()), float(expected.sum())
    if not (actual > 0 and total > 0 and factor > 0):
        return factor
    return float((actual / total) ** (1 - drift) * factor**drift)


def calibrate_heads(
    logits: Numbers, examples: Examples, labels: Labels, sufficient_events: int, *, strict: bool = True
) -> list[HeadCalibration]:
    """Calibrate the probability heads, churn first, from logits ``(n, heads)``; without percentiles.

    A head that ranks worse than chance raises ConfigError or, without ``strict``, gets the base rate of everyone.
    """
    enough = has_enough(examples, sufficient_events)
    columns = zip(head_names(labels), logits.T, examples.outcomes.T, strict=True)
    return [_fit_head(name, z, y, examples.user, enough=enough, strict=strict) for name, z, y in columns]


def predicted_probabilities(
    raw: RawScores, examples: Examples, calibration: Calibration, sufficient_events: int
) -> Probabilities:
    """Probabilities ``(n, heads)``, churn first: those that are served, before rounding."""
    return probabilities(raw.logits, calibration.heads, has_enough(examples, sufficient_events))


def predicted_value(
    raw: RawScores, examples: Examples, calibration: Calibration, *, labels: Labels, sufficient_events: int
) -> Floats:
    """Expected value ``(n,)`` in currency units, as it is served, before rounding."""
    p = predicted_probabilities(raw, examples, calibration, sufficient_events)
    return expected_value(p[:, labels.value_head], raw.value) * calibration.value_factor


def has_enough(examples: Examples, sufficient_events: int) -> Mask:
    """Which users ``(n,)`` have sufficient events. The number of events is one of the features, as log1p."""
    return np.asarray(np.rint(np.expm1(examples.features[:, _N_EVENTS].astype(np.float64))) >= sufficient_events)


def _fit_head(
    name: str, logits: Numbers, labels: Outcomes, users: Rows, *, enough: Mask, strict: bool
) -> HeadCalibration:
    """One curve for the users with ``enough`` events, and one for the others."""
    positives = labels[enough].sum()
    rows = enough if min(positives, enough.sum() - positives) >= _OUTCOMES_MIN else np.ones_like(enough)
    try:
        curve = fit_calibrator(logits[rows], labels[rows], users[rows], name)
    except ConfigError:
        if strict:
            raise
        curve = base_rate(labels, users)
    return HeadCalibration(
        enough=curve,
        few=fit_cohort(logits[~enough], labels[~enough], users[~enough], float(labels.mean())),
    )


def _spread(raw: RawScores, value: Floats, factor: float) -> tuple[float, float]:
    """Scale and shift of sigma, so that a tenth of the buyers lies below the central 80 % of value and a tenth above.

    The quantiles of normalised residuals are matched to those of the normal distribution, as in split conformal
    prediction (Papadopoulos et al. 2002). Only buyers are looked at: a value of zero is covered as often as the
    purchase head is right.
    """
    buyers = value > 0
    if not buyers.any():
        return 1.0, 0.0
    mu, sigma = log_normal(raw.value[buyers])
    low, high = np.quantile((np.log(value[buyers] / factor) - mu) / sigma, [0.1, 0.9])
    scale = np.clip((high - low) / (2 * _Z_80), *_SIGMA_FACTORS)
    return round(float(scale), 6), round(float(np.clip((low + high) / 2, -_SHIFT_MAX, _SHIFT_MAX)), 6)


def _percentiles(values: Floats) -> tuple[float, ...]:
    """Percentiles 0 to 100; empty if there are no values."""
    return tuple(np.quantile(values, np.linspace(0, 1, 101)).tolist()) if len(values) else ()
