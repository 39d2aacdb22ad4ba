"""Calibration keeps the ranking, its intervals hold the true share, and it is the same after a trip through JSON."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.manifest import Calibrator, HeadCalibration
from stream.score.calibration import calibrated, log_odds, percentile, probabilities, sigmoid, wilson


@st.composite
def calibrators(draw: st.DrawFn, slope_min: float = 0.01) -> Calibrator:
    """Any calibrator that a manifest may hold."""
    slope, intercept = draw(st.floats(slope_min, 5)), draw(st.floats(-5, 5))
    n = draw(st.integers(0, 10_000))
    knots = draw(st.lists(st.integers(-900, 900), max_size=12, unique=True).map(sorted))
    if not knots:
        return Calibrator("platt", slope, intercept, n=n)
    p = draw(st.lists(st.integers(1, 999), min_size=len(knots), max_size=len(knots), unique=True).map(sorted))
    return Calibrator("isotonic", slope, intercept, tuple(k / 100 for k in knots), tuple(i / 1000 for i in p), n)


LOGITS = st.lists(st.integers(-2_000, 2_000), min_size=2, max_size=30, unique=True).map(
    lambda numbers: np.array(sorted(numbers), np.float32) / np.float32(64)
)


@settings(max_examples=200, deadline=None)
@given(LOGITS, calibrators())
def test_higher_logit_gets_higher_calibrated_log_odds(logits: np.ndarray, calibrator: Calibrator) -> None:
    assert (np.diff(log_odds(logits, calibrator)) > 0).all()
    p = calibrated(logits, calibrator)
    assert (np.diff(p) >= 0).all()
    assert ((p >= 0) & (p <= 1)).all()


@settings(max_examples=100, deadline=None)
@given(LOGITS, calibrators(slope_min=0.0))
def test_calibrator_read_from_json_gives_the_same_numbers(logits: np.ndarray, calibrator: Calibrator) -> None:
    again = msgspec.json.decode(msgspec.json.encode(calibrator), type=Calibrator)
    assert again == calibrator
    assert calibrated(logits, again).tolist() == calibrated(logits, calibrator).tolist()


def test_isotonic_curve_goes_through_its_knots_and_on_by_its_slope() -> None:
    curve = Calibrator("isotonic", 0.5, 99.0, (-1.0, 2.0), (0.2, 0.9))
    assert calibrated(np.array([-1.0, 2.0]), curve) == pytest.approx([0.2, 0.9])
    beyond = log_odds(np.array([-3.0, -1.0, 2.0, 6.0]), curve)
    assert np.diff(beyond)[[0, 2]] == pytest.approx([1.0, 2.0])


def test_each_head_has_a_curve_for_users_with_enough_events_and_one_for_the_others() -> None:
    plain, half = Calibrator(), Calibrator(slope=0.0)
    heads = (HeadCalibration(plain, half), HeadCalibration(half, plain))
    p = probabilities(np.full((2, 2), 2.0), heads, np.array([True, False]))
    uncurved = float(sigmoid(np.array(2.0)))
    assert p.ravel() == pytest.approx([uncurved, 0.5, 0.5, uncurved])


def test_no_logit_overflows() -> None:
    with np.errstate(all="raise", under="ignore"):
        p = calibrated(np.array([-3e38, -1e4, 1e4, 3e38], np.float32), Calibrator(slope=5.0))
    assert p.tolist() == [0, 0, 1, 1]


# Intervals --------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.integers(0, 10**7))
def test_interval_holds_the_probability_and_narrows_with_users(p: float, n: int) -> None:
    low, high = wilson(np.array(p), np.array(n))
    assert 0 <= low <= p + 1e-12
    assert p - 1e-12 <= high <= 1
    low_of_more, high_of_more = wilson(np.array(p), np.array(4 * n + 10))
    assert high_of_more - low_of_more < high - low


def test_interval_of_no_users_says_that_nothing_is_known() -> None:
    low, high = wilson(np.array([0.0, 0.3, 1.0]), np.array(0))
    assert low == pytest.approx([0, 0, 0], abs=1e-12)
    assert high == pytest.approx([1, 1, 1])


def test_interval_holds_the_true_share_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    for share, n in ((0.02, 400), (0.1, 50), (0.5, 30)):
        low, high = wilson(rng.binomial(n, share, 20_000) / n, np.array(n))
        assert ((low <= share) & (share <= high)).mean() == pytest.approx(0.95, abs=0.025)


# Percentiles ------------------------------------------------------------------------------------------

TABLE = st.lists(st.integers(0, 20), min_size=2, max_size=101).map(
    lambda numbers: tuple(i / 20 for i in sorted(numbers))
)


@settings(max_examples=200, deadline=None)
@given(TABLE, st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20))
def test_percentile_is_between_0_and_100_and_rises_with_the_number(
    table: tuple[float, ...], values: list[float]
) -> None:
    with np.errstate(all="raise", under="ignore"):
        ranks = percentile(np.array(sorted(values)), table)
    assert ((ranks >= 0) & (ranks <= 100)).all()
    assert (np.diff(ranks) >= -1e-9).all()


def test_percentile_is_the_share_of_users_below_with_ties_counted_half() -> None:
    users = np.random.default_rng(0).choice([0.1, 0.2, 0.7], 100_000, p=[0.5, 0.3, 0.2])
    table = np.quantile(users, np.linspace(0, 1, 101)).tolist()
    assert percentile(np.array([0.0, 0.1, 0.2, 0.7, 0.8]), table) == pytest.approx([0, 25, 65, 90, 100], abs=1.1)
