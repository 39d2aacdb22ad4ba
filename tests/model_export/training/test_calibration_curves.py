"""Calibration curves: they find the world that made the labels, keep the ranking, and pool as the textbook does."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from model_export.training.calibration_curves import fit_calibrator, fit_cohort, fit_platt, fit_temperature, pooled
from stream.contract.manifest import Calibrator
from stream.errors import ConfigError
from stream.score.calibration import calibrated, log_odds, sigmoid
from tests.model_export.training.test_calibration import toss

Array = np.ndarray


def log_loss(p: Array, labels: Array) -> float:
    return float(-np.log(np.where(labels > 0, p, 1 - p)).mean())


STEP: dict[str, Callable[[Array], Array]] = {
    "floor and ceiling": lambda x: 0.2 + 0.5 * sigmoid(8 * x),
    "two steps": lambda x: 0.05 + 0.3 * (x > -1) + 0.5 * (x > 1),
}


def test_platt_scaling_finds_the_slope_and_intercept_that_made_the_labels() -> None:
    logits = np.random.default_rng(0).normal(0, 2, 50_000)
    found = fit_platt(logits, toss(calibrated(logits, Calibrator(slope=0.6, intercept=-0.8)), 1))
    assert found.slope == pytest.approx(0.6, abs=0.03)
    assert found.intercept == pytest.approx(-0.8, abs=0.05)


def test_platt_scaling_depends_on_neither_scale_nor_offset_of_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 1, 2_000)
    labels = toss(sigmoid(logits), 1)
    plain, far = fit_platt(logits, labels), fit_platt(1e6 + 1e3 * logits, labels)
    assert calibrated(1e6 + 1e3 * logits, far) == pytest.approx(calibrated(logits, plain), abs=1e-6)


def test_platt_is_kept_in_a_world_of_sigmoids() -> None:
    chosen = []
    for seed in range(10):
        logits = np.random.default_rng(seed).normal(0, 1.5, 4_000)
        chosen.append(fit_calibrator(logits, toss(sigmoid(1.3 * logits - 1), seed + 100)).method)
    assert chosen.count("platt") >= 8


@pytest.mark.parametrize("name", STEP)
def test_isotonic_curve_is_chosen_and_does_better_if_the_world_is_no_sigmoid(name: str) -> None:
    x = np.random.default_rng(0).normal(0, 1.5, 20_000)
    labels = toss(STEP[name](x), 1)
    found = fit_calibrator(x, labels)
    assert found.method == "isotonic"
    assert len(found.logits) <= 100
    later = np.random.default_rng(2).normal(0, 1.5, 50_000)
    came_true = toss(STEP[name](later), 3)
    best = log_loss(STEP[name](later), came_true)
    assert log_loss(calibrated(later, found), came_true) < best + 0.005
    assert log_loss(calibrated(later, fit_platt(x, labels)), came_true) > best + 0.01
    assert np.abs(calibrated(later, found) - STEP[name](later)).mean() < 0.03


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 1_500), st.sampled_from([0.0, 0.5, 4.0]))
def test_any_fit_keeps_the_ranking_and_survives_json(seed: int, n: int, decimals: float) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 2, n), int(decimals))
    labels = toss(STEP["two steps"](logits), seed)
    users = rng.integers(0, n, n)
    try:
        found = fit_calibrator(logits, labels, users)
    except ConfigError:
        return
    again = msgspec.json.decode(msgspec.json.encode(found), type=Calibrator)
    grid = np.linspace(-8, 8, 500)
    assert (np.diff(log_odds(grid, again)) > 0).all()
    assert calibrated(grid, again).tolist() == calibrated(grid, found).tolist()
    assert found.n == len(np.unique(users)) // 10


def test_logits_that_rank_worse_than_chance_are_refused_with_the_name_of_their_head() -> None:
    logits = np.random.default_rng(0).normal(0, 1, 2_000)
    labels = toss(sigmoid(logits), 1)
    with pytest.raises(
        ConfigError, match=r"churn: the trained model ranks worse than chance .*slope -0\.99\d, expected"
    ):
        fit_calibrator(-logits, labels, name="churn")


def test_the_same_labels_give_the_same_curve() -> None:
    x = np.random.default_rng(0).normal(0, 1.5, 5_000)
    labels = toss(STEP["two steps"](x), 1)
    assert msgspec.json.encode(fit_calibrator(x, labels)) == msgspec.json.encode(fit_calibrator(x, labels))


def test_temperature_is_the_one_that_the_logits_were_multiplied_by() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (20_000, 5))
    classes = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(2.5 * logits, classes) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(logits / 2, classes) == pytest.approx(0.5, rel=0.05)


def test_temperature_is_bounded_if_logits_are_all_wrong_or_all_right() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (1_000, 3))
    assert fit_temperature(logits, logits.argmin(axis=1)) == pytest.approx(10.0)
    assert fit_temperature(logits, logits.argmax(axis=1)) == pytest.approx(0.1)


# A cohort that may be small ---------------------------------------------------------------------------


def test_small_cohort_is_drawn_to_its_base_rate_and_a_large_one_is_not() -> None:
    x = np.random.default_rng(0).normal(0, 1, 40_000)
    labels = toss(sigmoid(x - 1), 1)
    slopes = [fit_cohort(x[:n], labels[:n], np.arange(n), 0.3).slope for n in (20, 100, 40_000)]
    assert slopes[0] == 0.0
    assert 0.2 < slopes[1] < 0.9
    assert slopes[2] == pytest.approx(1.0, abs=0.05)


def test_empty_cohort_gets_the_base_rate_of_the_split_with_nobody_behind_it() -> None:
    none = np.zeros(0, np.float32)
    found = fit_cohort(none, none, none.astype(np.int64), 0.3)
    assert calibrated(np.array([-5.0, 5.0]), found) == pytest.approx([0.3, 0.3])
    assert found.n == 0


def test_cohort_that_the_model_ranks_the_wrong_way_round_gets_its_base_rate() -> None:
    x = np.random.default_rng(0).normal(0, 1, 5_000)
    labels = toss(sigmoid(-x), 1)
    found = fit_cohort(x, labels, np.arange(5_000), 0.1)
    assert calibrated(x, found) == pytest.approx(np.full(5_000, labels.mean()), abs=1e-3)


# Pooling ----------------------------------------------------------------------------------------------


def pooled_one_by_one(logits: Array, rates: Array, weights: Array) -> tuple[Array, Array]:
    """Pool adjacent violators by the textbook, slowly: rows of logit and rate, and how many steps each row pools."""
    out: list[Array] = []
    for step in np.column_stack((weights, logits, rates, np.ones(len(rates)))):
        out.append(step)
        while len(out) > 1 and out[-2][2] >= out[-1][2]:
            last, before = out.pop(), out.pop()
            weight = last[0] + before[0]
            means = (last[0] * last[1:3] + before[0] * before[1:3]) / weight
            out.append(np.concatenate(([weight], means, [last[3] + before[3]])))
    table = np.array(out)
    return table[:, 1:3], table[:, 3].astype(int)


#: Rates of a few rows have many ties; a last digit more or less makes them near-ties.
RATES = st.builds(
    lambda positives, rows, more: positives / rows + more,
    st.integers(0, 6),
    st.sampled_from([6, 7]),
    st.sampled_from([0.0, 0.0, 1e-16, -1e-16, 1e-12, 1e-9]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(RATES, st.integers(1, 60)), min_size=1, max_size=60), st.integers(0, 10_000))
def test_steps_equal_those_that_are_pooled_one_by_one(steps: list[tuple[float, int]], seed: int) -> None:
    rates, weights = np.array([rate for rate, _ in steps]), np.array([float(weight) for _, weight in steps])
    logits = np.sort(np.random.default_rng(seed).normal(size=len(steps)))
    expected, sizes = pooled_one_by_one(logits, rates, weights)
    # Any two ways of adding agree on the rate of each row.
    assert isotonic_regression(rates, weights=weights).x == pytest.approx(np.repeat(expected[:, 1], sizes), abs=1e-12)
    found = np.column_stack(pooled(logits, rates, weights))
    assert (np.diff(found, axis=0) > 0).all()
    if found.shape == expected.shape:
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:
        # Steps whose rates are equal but for rounding may be pooled in one order of adding and not in the other.
        assert min(np.diff(knots[:, 1]).min(initial=1.0) for knots in (found, expected)) < 1e-12
