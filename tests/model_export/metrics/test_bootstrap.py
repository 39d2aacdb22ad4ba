"""Bootstrap: intervals hold the true value as often as they say, and resample users, not rows."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from scipy.special import ndtr

from model_export.metrics.bootstrap import TestSet, measure
from model_export.metrics.measures import METRICS, Kind, auc
from model_export.metrics.ranking import rank_predictions
from tests.model_export.metrics.test_measures import SAMPLES


def separated(rng: np.random.Generator, n: int = 300, distance: float = 1.0) -> TestSet:
    """Two normal classes with a known AUC."""
    y = (np.arange(n) % 3 == 0).astype(float)
    good, poor = rng.normal(distance * y), rng.normal(0.3 * y)
    as_probability = 1 / (1 + np.exp(-np.column_stack((good, poor))))
    return TestSet(np.arange(n), y, {"good": [as_probability[:, 0]], "poor": [as_probability[:, 1]]})


def test_the_interval_holds_the_true_value_as_often_as_it_says() -> None:
    true_auc = float(ndtr(1 / np.sqrt(2)))
    held = 0
    for seed in range(60):
        auc = measure([separated(np.random.default_rng(seed))], "probability", 100).metrics["good"]["auc"]
        held += auc.low <= true_auc <= auc.high
    assert 50 <= held <= 60  # 57 expected; fewer than 50 have odds below 1 in 1,000


@pytest.mark.parametrize("kind", ["probability", "value"])
def test_every_value_lies_within_its_interval(kind: Kind) -> None:
    p, y = SAMPLES[kind](np.random.default_rng(11), 300)
    measured = measure([TestSet(np.arange(300), y, {"model": [p]})], kind, 60).metrics["model"]
    assert all(interval.low <= interval.value <= interval.high for interval in measured.values())
    expected = {name: metric(rank_predictions(p, y)) for name, metric in METRICS[kind].items()}
    assert {name: measured[name].value for name in expected} == pytest.approx(expected)


def test_calibration_error_is_of_all_test_sets_together_and_the_average_is_kept_too() -> None:
    rng = np.random.default_rng(5)
    p = [rng.uniform(0.2, 0.8, 2_000) for _ in range(2)]
    # Predictions are too high at the first instant, and too low by as much at the second.
    y = [(rng.random(2_000) < np.clip(q + shift, 0, 1)).astype(float) for q, shift in zip(p, (-0.2, 0.2), strict=True)]
    snapshots = [TestSet(np.arange(2_000), yi, {"model": [q]}) for q, yi in zip(p, y, strict=True)]
    found = measure(snapshots, "probability", 20).metrics["model"]
    assert found["ece"].value < 0.05
    assert found["ece_by_snapshot"].value > 0.15


def test_a_model_differs_from_itself_by_exactly_nothing() -> None:
    snapshot = separated(np.random.default_rng(12))
    twin = TestSet(snapshot.user, snapshot.actual, {**snapshot.predicted, "twin": snapshot.predicted["good"]})
    difference = measure([twin], "probability", 50).difference("good", "twin", "log_loss")
    assert (difference.low, difference.value, difference.high) == (0, 0, 0)


def test_pairing_makes_the_interval_of_a_difference_narrower_than_both() -> None:
    rng = np.random.default_rng(13)
    snapshot = separated(rng)
    near = snapshot.predicted["good"][0] * rng.uniform(0.95, 1.0, 300)
    both = TestSet(snapshot.user, snapshot.actual, {"good": snapshot.predicted["good"], "near": [near]})
    measured = measure([both], "probability", 100)
    difference, alone = measured.difference("good", "near", "auc"), measured.metrics["good"]["auc"]
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)


def test_a_clear_difference_excludes_zero_in_the_right_direction() -> None:
    measured = measure([separated(np.random.default_rng(14), 900)], "probability", 100)
    assert measured.difference("good", "poor", "auc").low > 0
    assert measured.difference("poor", "good", "auc").high < 0


def test_the_same_users_in_three_test_sets_do_not_count_three_times() -> None:
    snapshot = separated(np.random.default_rng(15))
    once, thrice = (measure([snapshot] * n, "probability", 50).metrics["good"]["auc"] for n in (1, 3))
    assert (thrice.low, thrice.value, thrice.high) == pytest.approx((once.low, once.value, once.high))


def test_other_users_in_another_test_set_make_the_interval_narrower() -> None:
    rng = np.random.default_rng(16)
    first, other = separated(rng), separated(rng)
    second = TestSet(other.user + 1_000, other.actual, other.predicted)
    one, two = (measure(part, "probability", 200).metrics["good"]["auc"] for part in ([first], [first, second]))
    assert two.high - two.low < 0.85 * (one.high - one.low)


def test_seeds_and_test_sets_are_averaged() -> None:
    rng = np.random.default_rng(17)
    first, second = separated(rng), separated(rng)
    seeds = [first.predicted["good"][0], first.predicted["poor"][0]]
    value = measure([TestSet(first.user, first.actual, {"m": seeds})], "probability", 5).metrics["m"]["auc"].value
    assert value == pytest.approx(np.mean([auc(rank_predictions(p, first.actual)) for p in seeds]))
    both = measure([first, second], "probability", 5).metrics["good"]["auc"].value
    each = [auc(rank_predictions(s.predicted["good"][0], s.actual)) for s in (first, second)]
    assert both == pytest.approx(np.mean(each))


def test_a_test_set_without_positives_is_left_out_of_the_average() -> None:
    snapshot = separated(np.random.default_rng(18))
    empty = TestSet(snapshot.user, np.zeros(300), snapshot.predicted)
    alone, beside = (measure(part, "probability", 20).metrics["good"] for part in ([snapshot], [snapshot, empty]))
    assert beside["auc"] == alone["auc"]
    assert isnan(measure([empty], "probability", 20).metrics["good"]["auc"].value)


def test_a_seed_gives_the_same_intervals_and_another_gives_others() -> None:
    snapshot = separated(np.random.default_rng(19))
    first, again, other = (measure([snapshot], "probability", 20, seed).metrics for seed in (1, 1, 2))
    assert first == again
    assert first != other
