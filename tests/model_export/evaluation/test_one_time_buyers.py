"""One-time buyers: drawn by BG/NBD (Fader, Hardie & Lee 2005) with the CDNOW parameters, so the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.data.examples import Examples
from model_export.evaluation.one_time_buyers import one_time_buyers
from model_export.training.calibration import calibrate, predicted_probabilities
from model_export.training.calibration_curves import fit_calibrator
from stream.contract.manifest import Calibration, HeadCalibration
from stream.contract.tokens import FEATURES
from stream.errors import ConfigError
from stream.score.calibration import calibrated
from stream.score.scorer import RawScores
from tests.model_export.training.test_calibration import LABELS, examples

ALPHA_WEEKS, R, A, B = 4.414, 0.243, 0.793, 2.426
HORIZON_DAYS = 90.0


def bgnbd(n: int, seed: int) -> Examples:
    """Customers with a first order in the last 39 weeks: their orders so far, and whether they order in 90 days."""
    rng = np.random.default_rng(seed)
    rate, drop = rng.gamma(R, 1 / ALPHA_WEEKS, n) / 7, rng.beta(A, B, n)
    seen = rng.uniform(1, 39 * 7, n)
    time, alive = np.zeros(n), np.ones(n, bool)
    orders, last, buys = np.ones(n), np.zeros(n), np.zeros(n, bool)
    while alive.any():
        time = np.where(alive, time + rng.exponential(1 / rate), np.inf)
        past, future = time <= seen, (time > seen) & (time <= seen + HORIZON_DAYS)
        orders, last, buys = orders + past, np.where(past, time, last), buys | future
        alive &= (time <= seen + HORIZON_DAYS) & (rng.random(n) >= drop)
    features = np.zeros((n, len(FEATURES)), np.float32)
    for name, column in (("orders", orders), ("n_events", orders), ("order_recency", seen - last)):
        features[:, FEATURES.index(name)] = np.log1p(column)
    purchase = np.column_stack((buys, buys)).astype(np.float32)
    return examples(features, 1 - purchase[:, 0], purchase, np.zeros(n), np.zeros(n, bool))


def scores(rows: Examples) -> RawScores:
    """A model that knows recency and frequency, but not their scale."""
    recency, orders = (rows.features[:, FEATURES.index(name)] for name in ("order_recency", "orders"))
    logit = 3 * orders - 2 * recency
    return RawScores(
        -logit, np.column_stack((logit, logit)), np.zeros((len(rows), 2), np.float32), category=np.zeros((len(rows), 0))
    )


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    rows = bgnbd(30_000, 1)
    return calibrate(scores(rows), rows, LABELS, 2)


def test_predictions_for_one_time_buyers_fall_with_time_and_match_the_truth(calibration: Calibration) -> None:
    later = bgnbd(30_000, 2)
    tenths = one_time_buyers(later, predicted_probabilities(scores(later), later, calibration, 2)[:, 2])
    assert len(tenths) == 10
    assert (np.diff([t.days for t in tenths]) > 0).all()
    assert (np.diff([t.predicted for t in tenths]) < 0).all()
    # BG/NBD: P(an order in t | no second order in T) = 1 - ((α + T) / (α + T + t))^r, because nobody drops out before
    # a second order.
    for tenth in tenths:
        weeks = ALPHA_WEEKS + tenth.days / 7
        truth = 1 - (weeks / (weeks + HORIZON_DAYS / 7)) ** R
        assert tenth.predicted == pytest.approx(truth, abs=0.05)
        assert tenth.interval[0] - 0.02 <= truth <= tenth.interval[1] + 0.02
        assert tenth.interval[0] <= tenth.observed <= tenth.interval[1]


def test_model_that_scores_one_time_buyers_higher_the_longer_they_stay_away_is_refused() -> None:
    rows = bgnbd(10_000, 3)
    once = rows.take(np.flatnonzero(np.rint(np.expm1(rows.features[:, FEATURES.index("orders")])) == 1))
    recency = once.features[:, FEATURES.index("order_recency")]
    with pytest.raises(ConfigError, match="ranks worse than chance"):
        fit_calibrator(recency, once.purchase[:, 1])
    found = one_time_buyers(once, calibrated(-recency, fit_calibrator(-recency, once.purchase[:, 1])))
    assert found[0].predicted > found[-1].predicted


def test_only_buyers_with_one_order_count_and_fewer_than_ten_give_no_tenths() -> None:
    rows = bgnbd(1_000, 4)
    once = np.rint(np.expm1(rows.features[:, FEATURES.index("orders")])) == 1
    assert sum(t.n for t in one_time_buyers(rows, np.where(once, 0.5, np.nan))) == once.sum()
    few = rows.take(np.flatnonzero(once)[:9])
    assert one_time_buyers(few, np.zeros(9)) == []


def test_head_chooses_the_horizon_of_the_observed_orders() -> None:
    rows = bgnbd(500, 5)
    rows.purchase[:, 0] = 1
    assert {t.observed for t in one_time_buyers(rows, np.zeros(500), head=0)} == {1.0}
    assert {t.observed for t in one_time_buyers(rows, np.zeros(500))} != {1.0}


def test_users_with_few_events_have_a_calibration_of_their_own(calibration: Calibration) -> None:
    assert isinstance(calibration.purchase[1], HeadCalibration)
    assert calibration.purchase[1].few.n > calibration.purchase[1].enough.n > 0
