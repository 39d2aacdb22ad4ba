"""Calibration: probabilities come true as often as they say, also for users with few events."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from model_export.data.examples import Examples
from model_export.training.calibration import (
    calibrate,
    has_enough,
    predicted_probabilities,
    predicted_value,
    recalibrate,
)
from stream.contract.manifest import Calibration, Labels
from stream.contract.tokens import FEATURES
from stream.errors import ConfigError
from stream.score.calibration import log_odds, sigmoid
from stream.score.expectation import value_interval
from stream.score.scorer import RawScores

Array = np.ndarray
LABELS = Labels(eligible_days=45, churn_days=14, purchase_days=(7, 30), value_days=30)
ENOUGH = 5


def toss(p: Array, seed: int) -> Array:
    return (np.random.default_rng(seed).random(p.shape) < p).astype(np.float32)


def world(n: int = 20_000, seed: int = 0, few: float = 0.3) -> tuple[RawScores, Examples]:
    """Raw scores with a known distortion, and the outcomes. A share ``few`` of the users has two events."""
    rng = np.random.default_rng(seed)
    churn, buys = rng.normal(-1, 1.2, n), np.sort(rng.normal(-1, 1.2, (n, 2)), axis=1)
    is_few = rng.random(n) < few
    # The model knows little of new users: their logits are overconfident by half, and all too low.
    churn_odds = np.where(is_few, 0.5 * churn + 1, churn)
    bought = toss(sigmoid(buys), seed + 1)
    mu, sigma = rng.normal(3, 0.8, n), 0.6
    value = np.where(bought[:, 1] > 0, rng.lognormal(mu + 0.3, 1.5 * sigma), 0.0)
    features = np.zeros((n, len(FEATURES)), np.float32)
    features[:, FEATURES.index("n_events")] = np.log1p(np.where(is_few, 2, 10))
    raw = RawScores(
        churn.astype(np.float32),
        (buys / 2 + 1).astype(np.float32),
        np.column_stack((mu, np.full(n, np.log(sigma)))).astype(np.float32),
        category=np.zeros((n, 0), np.float32),
    )
    return raw, examples(features, toss(sigmoid(churn_odds), seed + 2), bought, value, at_event=rng.random(n) < 0.5)


def examples(features: Array, churn: Array, purchase: Array, value: Array, at_event: Array) -> Examples:
    n = len(churn)
    named: dict[str, Any] = {name: np.zeros(n, np.int64) for name in Examples.__dataclass_fields__}
    named |= {"features": features, "churn": churn, "purchase": purchase, "value": value, "at_event": at_event}
    return Examples(**named | {"user": np.arange(n), "tokens": np.zeros((n, 1, 7), np.uint16)})


def log_loss(p: Array, labels: Array) -> float:
    return float(-np.log(np.where(labels > 0, p, 1 - p)).mean())


# A model ----------------------------------------------------------------------------------------------


def test_predictions_come_true_in_both_cohorts_on_users_not_seen() -> None:
    calibration = calibrate(*world(), LABELS, ENOUGH)
    raw, later = world(seed=50)
    p = predicted_probabilities(raw, later, calibration, ENOUGH)
    came_true = np.column_stack((later.churn, later.purchase))
    for cohort in (has_enough(later, ENOUGH), ~has_enough(later, ENOUGH)):
        for h in range(3):
            for tenth in np.array_split(np.flatnonzero(cohort)[np.argsort(p[cohort, h])], 10):
                assert p[tenth, h].mean() == pytest.approx(came_true[tenth, h].mean(), abs=0.06)


def test_number_of_events_is_read_from_the_features_as_it_was() -> None:
    counts = np.array([1, 4, 5, 6, 63, 100_000, 10_000_001])
    features = np.zeros((len(counts), len(FEATURES)), np.float32)
    features[:, FEATURES.index("n_events")] = np.log1p(counts)
    rows = examples(features, counts * 0, counts * 0, counts * 0, counts > 0)
    assert has_enough(rows, 5).tolist() == (counts >= 5).tolist()


def test_percentiles_are_those_of_snapshots_only() -> None:
    raw, rows = world()
    calibration = calibrate(raw, rows, LABELS, ENOUGH)
    p = predicted_probabilities(raw, rows, calibration, ENOUGH)[~rows.at_event]
    for h, head in enumerate((calibration.churn, *calibration.purchase)):
        assert head.percentiles == tuple(np.quantile(p[:, h], np.linspace(0, 1, 101)).tolist())
    assert len(calibration.value_percentiles) == 101


def test_calibration_read_from_json_gives_the_same_numbers() -> None:
    raw, rows = world(3_000)
    calibration = calibrate(raw, rows, LABELS, ENOUGH)
    again = msgspec.json.decode(msgspec.json.encode(calibration), type=Calibration)
    assert again == calibration
    assert (
        predicted_probabilities(raw, rows, again, ENOUGH) == predicted_probabilities(raw, rows, calibration, ENOUGH)
    ).all()


def test_head_that_ranks_worse_than_chance_is_refused_by_name() -> None:
    raw, rows = world(3_000)
    spoiled = RawScores(raw.churn, -raw.purchase, raw.value, category=raw.category)
    with pytest.raises(ConfigError, match="purchase_7d: the trained model ranks worse than chance"):
        calibrate(spoiled, rows, LABELS, ENOUGH)


@pytest.mark.parametrize("few", [0.0, 1.0])
def test_split_in_which_all_users_or_none_have_sufficient_events_is_calibrated(few: float) -> None:
    raw, rows = world(3_000, few=few)
    calibration = calibrate(raw, rows, LABELS, ENOUGH)
    assert predicted_probabilities(raw, rows, calibration, ENOUGH).mean(axis=0) == pytest.approx(
        [rows.churn.mean(), *rows.purchase.mean(axis=0)], abs=0.01
    )
    assert (calibration.churn.few.n == 0) == (few == 0)


# Value ------------------------------------------------------------------------------------------------


def test_value_factor_removes_the_total_bias_on_the_split_it_was_fitted_on() -> None:
    raw, rows = world()
    calibration = calibrate(raw, rows, LABELS, ENOUGH)
    found = predicted_value(raw, rows, calibration, labels=LABELS, sufficient_events=ENOUGH)
    assert found.sum() == pytest.approx(rows.value.sum(), rel=1e-4)


def test_value_interval_covers_what_it_says_on_users_not_seen() -> None:
    calibration = calibrate(*world(), LABELS, ENOUGH)
    raw, later = world(seed=50)
    buys = predicted_probabilities(raw, later, calibration, ENOUGH)[:, 2]
    fitted, unscaled = (calibration.value_sigma_factor, calibration.value_shift), (1.0, 0.0)

    def outside(p: Array, rows: Array, sigma_factor: float, shift: float) -> tuple[float, float]:
        bounds = calibration.value_factor * value_interval(p, raw.value, sigma_factor, shift)[rows]
        value = later.value[rows]
        return float((value < bounds[:, 0]).mean()), float((value > bounds[:, 1]).mean())

    everyone, buyers = np.arange(len(later)), np.flatnonzero(later.value)
    assert outside(np.ones(len(later)), buyers, *fitted) == pytest.approx((0.1, 0.1), abs=0.015)
    assert outside(buys, everyone, *fitted)[1] == pytest.approx(0.1, abs=0.015)
    assert sum(outside(np.ones(len(later)), buyers, *unscaled)) > 0.3


def test_split_without_value_gives_no_value() -> None:
    raw, rows = world(3_000)
    nothing = examples(rows.features, rows.churn, rows.purchase, np.zeros(3_000), rows.at_event)
    calibration = calibrate(raw, nothing, LABELS, ENOUGH)
    assert (calibration.value_factor, calibration.value_sigma_factor) == (0.0, 1.0)
    assert not predicted_value(raw, nothing, calibration, labels=LABELS, sufficient_events=ENOUGH).any()


def drifted(by: float) -> tuple[Calibration, RawScores, Examples]:
    """A calibration, and raw scores of a later model on newer users: all its logits are higher by ``by``."""
    raw, held_out = world()
    calibration = calibrate(raw, held_out, LABELS, ENOUGH)
    new, newest = world(seed=50)
    return calibration, RawScores(new.churn + by, new.purchase + by, new.value, new.category), newest


def test_without_drift_the_level_of_the_newest_labels_is_met() -> None:
    calibration, raw, newest = drifted(1.0)
    recalibrated = recalibrate(calibration, raw, newest, labels=LABELS, sufficient_events=ENOUGH, drift=0.0)
    p = predicted_probabilities(raw, newest, recalibrated, ENOUGH)
    assert p[:, 0].mean() == pytest.approx(newest.churn.mean(), abs=1e-4)
    assert p[:, 1:].mean(axis=0) == pytest.approx(newest.purchase.mean(axis=0), abs=1e-4)
    value = predicted_value(raw, newest, recalibrated, labels=LABELS, sufficient_events=ENOUGH)
    assert value.sum() == pytest.approx(newest.value.sum(), rel=1e-4)


def test_drift_that_is_expected_again_leaves_the_curves_as_they_were_fitted() -> None:
    calibration, raw, newest = drifted(1.0)
    recalibrated = recalibrate(calibration, raw, newest, labels=LABELS, sufficient_events=ENOUGH, drift=1.0)
    assert predicted_probabilities(raw, newest, recalibrated, ENOUGH) == pytest.approx(
        predicted_probabilities(raw, newest, calibration, ENOUGH)
    )
    assert recalibrated.value_factor == pytest.approx(calibration.value_factor)


def test_half_of_the_drift_lies_half_way_in_log_odds() -> None:
    calibration, raw, newest = drifted(1.0)
    odds = [
        log_odds(
            raw.churn,
            recalibrate(calibration, raw, newest, labels=LABELS, sufficient_events=ENOUGH, drift=d).churn.enough,
        )
        for d in (0.0, 0.5, 1.0)
    ]
    assert odds[1] == pytest.approx((odds[0] + odds[2]) / 2)
    assert abs(odds[2] - odds[0]).min() > 0.1
