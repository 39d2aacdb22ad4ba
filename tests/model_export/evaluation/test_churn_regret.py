"""Churn regret: the oracle's probability of churn is right for shoppers that are drawn by the same law."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.evaluation.churn_regret import true_churn

SHOPPERS = 400_000


@pytest.mark.parametrize(("rate", "hazard", "silent", "horizon"), [(0.3, 0.02, 5.0, 14.0), (0.1, 0.05, 20.0, 7.0)])
def test_probability_is_the_share_of_drawn_shoppers_who_stay_away(
    rate: float, hazard: float, silent: float, horizon: float
) -> None:
    rng = np.random.default_rng(7)
    leaves, next_session = rng.exponential(1 / hazard, SHOPPERS), rng.exponential(1 / rate, SHOPPERS)
    was_silent = (next_session > silent) | (leaves < next_session)
    comes_back = (next_session <= silent + horizon) & (next_session <= leaves)
    share = 1 - comes_back[was_silent].mean()
    one = np.ones(1)
    found = true_churn(rate * one, hazard * one, silent * one, horizon)[0]
    assert found == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / was_silent.sum()))


def test_longer_silence_never_lowers_churn_and_centuries_do_not_overflow() -> None:
    silent = np.array([0.0, 1.0, 10.0, 100.0, 1e6])
    with np.errstate(all="raise", under="ignore"):
        found = true_churn(np.full(5, 0.5), np.full(5, 0.01), silent, 14.0)
    assert (np.diff(found) >= 0).all()
    assert found[-1] == pytest.approx(1.0)
