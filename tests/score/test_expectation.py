"""Expectation: value and its interval, the day of the next order, the next category."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.score.expectation import days_to_purchase, expected_value, top_categories, value_interval

# Value ------------------------------------------------------------------------------------------------


def simulated_spend(p_buy: float, mu: float, sigma: float, n: int = 400_000) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.exp(rng.normal(mu, sigma, n)) * (rng.random(n) < p_buy)


def test_expected_value_is_the_mean_spend_of_buyers_and_others() -> None:
    value = expected_value(np.array([0.25]), np.array([[3.0, np.log(0.5)]], np.float32))
    assert value[0] == pytest.approx(simulated_spend(0.25, 3.0, 0.5).mean(), rel=0.02)


def test_expected_value_is_bounded_and_grows_with_mu_and_sigma() -> None:
    huge = expected_value(np.array([1.0]), np.array([[np.inf, np.inf], [3e38, 3e38], [-3e38, 3e38]], np.float32))
    assert huge.tolist() == [pytest.approx(1e7), pytest.approx(1e7), 0.0]
    by_mu = expected_value(np.ones(50), np.column_stack((np.linspace(-20, 30, 50), np.zeros(50))))
    by_sigma = expected_value(np.ones(50), np.column_stack((np.ones(50), np.linspace(-20, 20, 50))))
    for values in (by_mu, by_sigma):
        assert (np.diff(values) >= 0).all()
        assert np.isfinite(values).all()


@pytest.mark.parametrize("p_buy", [0.0, 0.05, 0.11, 0.4, 0.899, 0.95, 1.0])
def test_value_interval_ends_at_the_quantiles_of_spend(p_buy: float) -> None:
    interval = value_interval(np.array([p_buy]), np.array([[3.0, np.log(0.5)]], np.float32), 1.0, 0.0)[0]
    assert interval == pytest.approx(np.quantile(simulated_spend(p_buy, 3.0, 0.5), [0.1, 0.9]), rel=0.03)


WIDE = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), WIDE, WIDE, st.floats(0.5, 2), st.floats(-2, 2))
def test_value_interval_is_in_order_and_bounded(
    p_buy: float, mu: float, log_sigma: float, factor: float, shift: float
) -> None:
    low, high = value_interval(np.array([p_buy]), np.array([[mu, log_sigma]], np.float32), factor, shift)[0]
    assert 0 <= low <= high <= 1e7 * (1 + 1e-9)


# The next order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [0.5, 3.0, 20.0, 45.0, 300.0])
def test_median_of_a_constant_hazard_is_found_from_its_probabilities(days: float) -> None:
    horizons = (30.0, 7.0)
    p_buy = 1 - 0.5 ** (np.array(horizons) / days)
    assert days_to_purchase(p_buy[None], horizons)[0] == pytest.approx(days)


#: Probabilities as they are published, rounded to six places.
PROBABILITY = st.integers(0, 10**6).map(lambda i: i / 10**6)
PROBABILITIES = st.lists(PROBABILITY, min_size=3, max_size=3)


@settings(max_examples=200, deadline=None)
@given(PROBABILITIES, PROBABILITY)
def test_next_order_comes_no_later_if_it_is_more_likely(p_buy: list[float], more: float) -> None:
    rising = np.sort(p_buy)
    # The same hazard per day is added in every piece.
    likelier = 1 - (1 - rising) * (1 - more) ** np.array([7.0, 30.0, 90.0])
    first, second = days_to_purchase(np.array([rising, likelier]), (7, 30, 90))
    assert second <= first * (1 + 1e-9)
    assert first > 0


@settings(max_examples=200, deadline=None)
@given(PROBABILITIES)
def test_next_order_lies_in_the_piece_in_which_the_odds_become_even(p_buy: list[float]) -> None:
    horizons = np.array([7.0, 30.0, 90.0])
    days = days_to_purchase(np.array([p_buy]), horizons.tolist())[0]
    even = np.maximum.accumulate(p_buy) >= 0.5
    if even.any():
        last = int(even.argmax())
        assert np.append(0, horizons)[last] <= days * (1 + 1e-9)
        assert days <= horizons[last] * (1 + 1e-6)
    else:
        assert days > 90 * (1 - 1e-9)


def test_user_who_never_buys_has_no_next_order() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert np.isinf(days_to_purchase(np.array([[0.0, 0.0], [0.2, 0.2]]), (7, 30))).all()


# The next category ------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6).flatmap(lambda k: st.lists(st.floats(-1e4, 1e4), min_size=k, max_size=k)), st.integers(1, 4))
def test_top_categories_are_the_most_probable_each_once(logits: list[float], k: int) -> None:
    classes, share = top_categories(np.array([logits]), 1.5, k)
    assert classes.shape == share.shape == (1, min(k, len(logits)))
    assert len(set(classes[0])) == classes.shape[1]
    assert np.array(logits)[classes[0]].tolist() == sorted(logits, reverse=True)[:k]
    assert share.sum() <= 1 + 1e-9


def test_temperature_evens_out_and_no_class_means_none() -> None:
    logits = np.log([[0.7, 0.2, 0.1]])
    assert top_categories(logits, 2.0, 1)[1][0, 0] < top_categories(logits, 1.0, 1)[1][0, 0] == pytest.approx(0.7)
    assert top_categories(np.zeros((4, 0)), 1.0, 3)[0].shape == (4, 0)
