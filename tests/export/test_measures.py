"""Measures: the numbers of others where they have them, ties without an order, and intervals that hold the truth."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtr
from scipy.stats import spearmanr
from sklearn import metrics as reference

from model_export import measures
from model_export.measures import METRICS, Kind, Snapshot, Tally, measure, tally

Array = npt.NDArray[Any]
SEEDS = range(8)
THEIRS: dict[Callable[[Tally], float], Callable[..., float]] = {
    measures.auc: reference.roc_auc_score,
    measures.pr_auc: reference.average_precision_score,
    measures.log_loss: reference.log_loss,
    measures.brier: reference.brier_score_loss,
}


def probabilities(rng: np.random.Generator, n: int = 400) -> tuple[Array, Array]:
    """Predictions with many ties, and outcomes that follow them in part."""
    p = rng.integers(1, 20, n) / 20
    return p, (rng.random(n) < p).astype(float)


def values(rng: np.random.Generator, n: int = 400) -> tuple[Array, Array]:
    """Predictions with ties of outcomes that are mostly 0."""
    v = np.where(rng.random(n) < 0.4, rng.lognormal(3, 1, n), 0)
    return np.round(v * rng.lognormal(0, 1, n) + rng.integers(1, 5, n)), v


SAMPLES: dict[Kind, Callable[..., tuple[Array, Array]]] = {"probability": probabilities, "value": values}
EVERY = [(kind, name) for kind, of in METRICS.items() for name in of]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", THEIRS, ids=lambda metric: metric.__name__)
def test_metric_is_that_of_scikit_learn_with_ties_and_weights(metric: Callable[[Tally], float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, y = probabilities(rng)
    weights = rng.integers(0, 4, len(y)).astype(float)
    assert metric(tally(p, y, weights)) == pytest.approx(THEIRS[metric](y, p, sample_weight=weights), rel=1e-9)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_weight_is_a_number_of_copies(kind: Kind, name: str) -> None:
    rng = np.random.default_rng(1)
    p, y = SAMPLES[kind](rng)
    times = rng.integers(0, 4, len(y))
    copied = tally(np.repeat(p, times), np.repeat(y, times))
    assert METRICS[kind][name](tally(p, y, times.astype(float))) == pytest.approx(METRICS[kind][name](copied))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_no_metric_depends_on_the_order_of_examples(kind: Kind, name: str) -> None:
    rng = np.random.default_rng(2)
    p, y = SAMPLES[kind](rng)
    shuffled = rng.permutation(len(y))
    assert METRICS[kind][name](tally(p, y)) == pytest.approx(METRICS[kind][name](tally(p[shuffled], y[shuffled])))


def test_rank_correlation_is_that_of_scipy() -> None:
    p, v = values(np.random.default_rng(3))
    assert measures.spearman(tally(p, v)) == pytest.approx(spearmanr(p, v).statistic)


def test_a_perfect_prediction_of_value_has_no_error() -> None:
    _, v = values(np.random.default_rng(4))
    perfect = tally(v, v)
    assert (measures.gini(perfect), measures.spearman(perfect)) == pytest.approx((1, 1))
    errors = (measures.decile_mape(perfect), measures.total_bias(perfect), measures.rmse(perfect))
    assert errors == pytest.approx((0, 0, 0))


def test_gini_falls_from_one_to_minus_one_as_the_order_is_reversed() -> None:
    rng = np.random.default_rng(5)
    v = rng.lognormal(3, 1, 500)
    assert measures.gini(tally(-v, v)) == pytest.approx(-1)
    assert abs(measures.gini(tally(rng.random(500), v))) < 0.2


def test_decile_error_and_bias_of_twice_the_value_are_one() -> None:
    v = np.random.default_rng(6).lognormal(3, 1, 500)
    twice = tally(2 * v, v)
    assert (measures.decile_mape(twice), measures.total_bias(twice)) == pytest.approx((1, 1))


def test_calibration_error_is_the_mean_gap_of_ten_equal_bins() -> None:
    rng = np.random.default_rng(7)
    p = rng.random(1_000)
    y = (rng.random(1_000) < p**2).astype(float)
    bins = np.array_split(np.argsort(p), 10)
    gaps = [abs(p[b].mean() - y[b].mean()) for b in bins]
    assert measures.ece(tally(p, y)) == pytest.approx(np.mean(gaps))


def test_metrics_without_positives_are_not_numbers_rather_than_errors() -> None:
    nothing = np.zeros(50)
    p = np.linspace(0.1, 0.9, 50)
    undefined = (measures.auc, measures.pr_auc, measures.gini, measures.spearman, measures.total_bias)
    assert all(isnan(metric(tally(p, nothing))) for metric in (*undefined, measures.decile_mape))


def test_predictions_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found \(3,\) predictions of \(4,\) outcomes"):
        tally(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.5, 1.1])
def test_classification_report_is_that_of_scikit_learn(threshold: float) -> None:
    p, y = probabilities(np.random.default_rng(8))
    theirs = reference.classification_report(y, p >= threshold, output_dict=True, zero_division=0)
    for name, mine in measures.classification_report(p, y, threshold).items():
        expected = theirs[f"{float(name)}"]
        keys = ("precision", "recall", "f1-score", "support")
        assert (mine.precision, mine.recall, mine.f1, mine.support) == pytest.approx([expected[k] for k in keys])


def test_tenths_gain_all_positives_and_lift_falls_with_prediction() -> None:
    rng = np.random.default_rng(9)
    p = rng.random(5_000)
    tenths = measures.lift_and_gain(p, (rng.random(5_000) < p).astype(float))
    assert (tenths[-1].gain, tenths[-1].cumulative_lift) == pytest.approx((1, 1))
    assert tenths[0].lift > 1.7 and tenths[-1].lift < 0.3
    assert sum(tenth.lift for tenth in tenths) == pytest.approx(10)


def test_reliability_bins_show_the_gap_that_the_calibration_error_sums() -> None:
    p, y = probabilities(np.random.default_rng(10))
    bins = measures.reliability(p, y)
    gap = sum(abs(b.predicted - b.observed) * b.n for b in bins) / len(y)
    assert gap == pytest.approx(measures.ece(tally(p, y)))
    assert sum(b.n for b in bins) == len(y)


# The bootstrap --------------------------------------------------------------------------------------


def separated(rng: np.random.Generator, n: int = 300, distance: float = 1.0) -> Snapshot:
    """Two normal classes, whose true AUC is known."""
    y = (np.arange(n) % 3 == 0).astype(float)
    good, poor = rng.normal(distance * y), rng.normal(0.3 * y)
    as_probability = 1 / (1 + np.exp(-np.column_stack((good, poor))))
    return Snapshot(np.arange(n), y, {"good": [as_probability[:, 0]], "poor": [as_probability[:, 1]]})


def test_the_interval_holds_the_true_value_as_often_as_it_says() -> None:
    truth = float(ndtr(1 / np.sqrt(2)))
    held = 0
    for seed in range(60):
        auc = measure([separated(np.random.default_rng(seed))], "probability", 100).metrics["good"]["auc"]
        held += auc.low <= truth <= auc.high
    assert 50 <= held <= 60  # 57 expected; fewer than 50 have odds below 1 in 1,000


@pytest.mark.parametrize("kind", ["probability", "value"])
def test_every_value_lies_within_its_interval(kind: Kind) -> None:
    p, y = SAMPLES[kind](np.random.default_rng(11), 300)
    measured = measure([Snapshot(np.arange(300), y, {"model": [p]})], kind, 60).metrics["model"]
    assert all(interval.low <= interval.value <= interval.high for interval in measured.values())
    expected = {name: metric(tally(p, y)) for name, metric in METRICS[kind].items()}
    assert {name: measured[name].value for name in expected} == pytest.approx(expected)


def test_calibration_error_is_of_all_snapshots_together_and_that_of_each_is_kept_too() -> None:
    rng = np.random.default_rng(5)
    p = [rng.uniform(0.2, 0.8, 2_000) for _ in range(2)]
    # Too high at the first instant and as much too low at the second.
    y = [(rng.random(2_000) < np.clip(q + shift, 0, 1)).astype(float) for q, shift in zip(p, (-0.2, 0.2), strict=True)]
    snapshots = [Snapshot(np.arange(2_000), yi, {"model": [q]}) for q, yi in zip(p, y, strict=True)]
    found = measure(snapshots, "probability", 20).metrics["model"]
    assert found["ece"].value < 0.05
    assert found["ece_by_snapshot"].value > 0.15


def test_a_model_differs_from_itself_by_exactly_nothing() -> None:
    snapshot = separated(np.random.default_rng(12))
    twin = Snapshot(snapshot.user, snapshot.actual, {**snapshot.predicted, "twin": snapshot.predicted["good"]})
    difference = measure([twin], "probability", 50).difference("good", "twin", "log_loss")
    assert (difference.low, difference.value, difference.high) == (0, 0, 0)


def test_pairing_makes_the_interval_of_a_difference_narrower_than_both() -> None:
    rng = np.random.default_rng(13)
    snapshot = separated(rng)
    near = snapshot.predicted["good"][0] * rng.uniform(0.95, 1.0, 300)
    both = Snapshot(snapshot.user, snapshot.actual, {"good": snapshot.predicted["good"], "near": [near]})
    measured = measure([both], "probability", 100)
    difference, alone = measured.difference("good", "near", "auc"), measured.metrics["good"]["auc"]
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)


def test_a_clear_difference_excludes_zero_in_the_right_direction() -> None:
    measured = measure([separated(np.random.default_rng(14), 900)], "probability", 100)
    assert measured.difference("good", "poor", "auc").low > 0
    assert measured.difference("poor", "good", "auc").high < 0


def test_the_same_users_in_three_snapshots_do_not_count_as_three_times_as_many() -> None:
    snapshot = separated(np.random.default_rng(15))
    once, thrice = (measure([snapshot] * n, "probability", 50).metrics["good"]["auc"] for n in (1, 3))
    assert (thrice.low, thrice.value, thrice.high) == pytest.approx((once.low, once.value, once.high))


def test_other_users_in_another_snapshot_make_the_interval_narrower() -> None:
    rng = np.random.default_rng(16)
    first, other = separated(rng), separated(rng)
    second = Snapshot(other.user + 1_000, other.actual, other.predicted)
    one, two = (measure(part, "probability", 200).metrics["good"]["auc"] for part in ([first], [first, second]))
    assert two.high - two.low < 0.85 * (one.high - one.low)


def test_seeds_and_snapshots_are_averaged() -> None:
    rng = np.random.default_rng(17)
    first, second = separated(rng), separated(rng)
    seeds = [first.predicted["good"][0], first.predicted["poor"][0]]
    value = measure([Snapshot(first.user, first.actual, {"m": seeds})], "probability", 5).metrics["m"]["auc"].value
    assert value == pytest.approx(np.mean([measures.auc(tally(p, first.actual)) for p in seeds]))
    both = measure([first, second], "probability", 5).metrics["good"]["auc"].value
    each = [measures.auc(tally(s.predicted["good"][0], s.actual)) for s in (first, second)]
    assert both == pytest.approx(np.mean(each))


def test_a_snapshot_without_positives_is_left_out_of_the_average() -> None:
    snapshot = separated(np.random.default_rng(18))
    empty = Snapshot(snapshot.user, np.zeros(300), snapshot.predicted)
    alone, beside = (measure(part, "probability", 20).metrics["good"] for part in ([snapshot], [snapshot, empty]))
    assert beside["auc"] == alone["auc"]
    assert isnan(measure([empty], "probability", 20).metrics["good"]["auc"].value)


def test_a_seed_gives_the_same_intervals_and_another_gives_others() -> None:
    snapshot = separated(np.random.default_rng(19))
    first, again, other = (measure([snapshot], "probability", 20, seed).metrics for seed in (1, 1, 2))
    assert first == again
    assert first != other
