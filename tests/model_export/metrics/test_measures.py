"""Measures: they equal those of other libraries, and the order of ties never matters."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as reference

from model_export.metrics import measures
from model_export.metrics.measures import METRICS, Kind
from model_export.metrics.ranking import WeightedRanking, rank_predictions

Array = npt.NDArray[Any]
SEEDS = range(8)
REFERENCE: dict[Callable[[WeightedRanking], float], Callable[..., float]] = {
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
    """Predictions with ties, and outcomes that are mostly 0."""
    v = np.where(rng.random(n) < 0.4, rng.lognormal(3, 1, n), 0)
    return np.round(v * rng.lognormal(0, 1, n) + rng.integers(1, 5, n)), v


SAMPLES: dict[Kind, Callable[..., tuple[Array, Array]]] = {"probability": probabilities, "value": values}
KINDS_AND_METRICS = [(kind, name) for kind, metrics in METRICS.items() for name in metrics]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", REFERENCE, ids=lambda metric: metric.__name__)
def test_metric_equals_that_of_scikit_learn_with_ties_and_weights(
    metric: Callable[[WeightedRanking], float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    p, y = probabilities(rng)
    weights = rng.integers(0, 4, len(y)).astype(float)
    assert metric(rank_predictions(p, y, weights)) == pytest.approx(
        REFERENCE[metric](y, p, sample_weight=weights), rel=1e-9
    )


@pytest.mark.parametrize(("kind", "name"), KINDS_AND_METRICS)
def test_a_weight_is_a_number_of_copies(kind: Kind, name: str) -> None:
    rng = np.random.default_rng(1)
    p, y = SAMPLES[kind](rng)
    times = rng.integers(0, 4, len(y))
    copied = rank_predictions(np.repeat(p, times), np.repeat(y, times))
    assert METRICS[kind][name](rank_predictions(p, y, times.astype(float))) == pytest.approx(
        METRICS[kind][name](copied)
    )


@pytest.mark.parametrize(("kind", "name"), KINDS_AND_METRICS)
def test_no_metric_depends_on_the_order_of_examples(kind: Kind, name: str) -> None:
    rng = np.random.default_rng(2)
    p, y = SAMPLES[kind](rng)
    shuffled = rng.permutation(len(y))
    assert METRICS[kind][name](rank_predictions(p, y)) == pytest.approx(
        METRICS[kind][name](rank_predictions(p[shuffled], y[shuffled]))
    )


def test_rank_correlation_equals_that_of_scipy() -> None:
    p, v = values(np.random.default_rng(3))
    assert measures.spearman(rank_predictions(p, v)) == pytest.approx(spearmanr(p, v).statistic)


def test_a_perfect_prediction_of_value_has_no_error() -> None:
    _, v = values(np.random.default_rng(4))
    perfect = rank_predictions(v, v)
    assert (measures.gini(perfect), measures.spearman(perfect)) == pytest.approx((1, 1))
    errors = (measures.decile_mape(perfect), measures.total_bias(perfect), measures.rmse(perfect))
    assert errors == pytest.approx((0, 0, 0))


def test_gini_falls_from_one_to_minus_one_as_the_order_is_reversed() -> None:
    rng = np.random.default_rng(5)
    v = rng.lognormal(3, 1, 500)
    assert measures.gini(rank_predictions(-v, v)) == pytest.approx(-1)
    assert abs(measures.gini(rank_predictions(rng.random(500), v))) < 0.2


def test_decile_error_and_bias_of_twice_the_value_are_one() -> None:
    v = np.random.default_rng(6).lognormal(3, 1, 500)
    twice = rank_predictions(2 * v, v)
    assert (measures.decile_mape(twice), measures.total_bias(twice)) == pytest.approx((1, 1))


def test_calibration_error_is_the_mean_gap_of_ten_equal_bins() -> None:
    rng = np.random.default_rng(7)
    p = rng.random(1_000)
    y = (rng.random(1_000) < p**2).astype(float)
    bins = np.array_split(np.argsort(p), 10)
    gaps = [abs(p[b].mean() - y[b].mean()) for b in bins]
    assert measures.ece(rank_predictions(p, y)) == pytest.approx(np.mean(gaps))


def test_metrics_without_positives_are_nan_and_raise_no_error() -> None:
    nothing = np.zeros(50)
    p = np.linspace(0.1, 0.9, 50)
    undefined = (measures.auc, measures.pr_auc, measures.gini, measures.spearman, measures.total_bias)
    assert all(isnan(metric(rank_predictions(p, nothing))) for metric in (*undefined, measures.decile_mape))


def test_predictions_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found \(3,\) predictions of \(4,\) outcomes"):
        rank_predictions(np.zeros(3), np.zeros(4))
