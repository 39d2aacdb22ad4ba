"""Features: in one order, finite whatever happened, and the same alone and in any batch.

The counts in the windows are tested in tests/state/test_partition_state.py.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings

from stream.contract.columns import BUCKET_LEVELS, WINDOWS
from stream.contract.events import VALUE_LIMIT, EventType
from stream.contract.tokens import FEATURES
from stream.score.features import features
from stream.state.partition_state import PartitionState
from tests.score.test_encode import AGES, USERS, event, fold_users
from tests.state.reference import Plain
from tests.state.test_partition_state import DAY, START


def features_of(state: PartitionState, rows: list[int], age_s: int = 0) -> np.ndarray:
    snapshot = state.snapshot(np.array(rows, np.int64))
    return features(snapshot, snapshot.users["last_time"].astype(np.int64) + age_s)


def named(events: list[Plain], age_s: int = 0) -> dict[str, float]:
    """Features of one user by name."""
    return dict(zip(FEATURES, features_of(fold_users(events), [0], age_s)[0].tolist(), strict=True))


def about(x: float) -> object:
    return pytest.approx(x, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(USERS, AGES)
def test_features_are_finite_whatever_happened(users: list[list[Plain]], age_s: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = features_of(fold_users(*users), list(range(len(users))), age_s)
    assert (found.shape, found.dtype) == ((len(users), len(FEATURES)), np.float32)
    assert np.isfinite(found).all()


@settings(max_examples=50, deadline=None)
@given(USERS, AGES)
def test_user_alone_has_the_same_features_as_in_any_batch(users: list[list[Plain]], age_s: int) -> None:
    state = fold_users(*users)
    rows = list(range(len(users)))
    together, backwards = features_of(state, rows, age_s), features_of(state, rows[::-1], age_s)
    assert together.tobytes() == backwards[::-1].tobytes()
    for row in rows:
        assert features_of(state, [row], age_s).tobytes() == together[row].tobytes()


def test_user_has_the_same_features_alone_and_among_many_long_histories() -> None:
    rng = np.random.default_rng(5)
    users = [
        [
            event(START + int(t), 1 + int(t) % 9, int(t) % 5_000 - 900)
            for t in np.sort(rng.integers(0, 60 * DAY, rng.integers(1, 130)))
        ]
        for _ in range(60)
    ]
    state = fold_users(*users)
    together = features_of(state, list(range(60)), 3 * DAY)
    for row in range(60):
        assert features_of(state, [row], 3 * DAY).tobytes() == together[row].tobytes()


def test_features_of_a_single_view_are_in_the_order_of_the_contract() -> None:
    found = named([event(START)])
    expected = dict.fromkeys(FEATURES, 0.0)
    expected |= {f"view_{w}": np.log1p(1) for w in WINDOWS} | {"n_events": np.log1p(1)}
    expected |= {"active_days_7d": 1, "active_days_30d": 1}
    assert found == {name: about(value) for name, value in expected.items()}


def test_each_feature_holds_what_its_name_says() -> None:
    history = [
        event(START, EventType.PURCHASE, 5_000),
        event(START + 10 * DAY, EventType.REFUND, -2_000),
        event(START + 20 * DAY, EventType.CART),
    ]
    found = named(history, age_s=5 * DAY)
    assert found["purchase_30d"] == about(np.log1p(1))
    assert found["refund_7d"] == 0
    assert found["cart_7d"] == about(np.log1p(1))
    assert found["cart_24h"] == 0
    assert found["revenue_30d"] == found["revenue"] == found["order_value"] == about(np.log1p(30))
    assert found["revenue_7d"] == 0
    assert (found["active_days_7d"], found["active_days_30d"]) == (1, 3)
    assert found["recency"] == about(np.log1p(5))
    assert found["order_recency"] == found["tenure"] == about(np.log1p(25))
    assert (found["has_order"], found["orders"], found["n_events"]) == (1, about(np.log1p(1)), about(np.log1p(3)))
    assert (found["gap_mean"], found["gap_std"]) == (about(np.log1p(10)), 0)
    assert found["recency_over_gap"] == about(np.log1p(0.5))


def test_user_with_refunds_only_has_negative_revenue() -> None:
    found = named([event(START, EventType.REFUND, -2_000), event(START, EventType.REFUND, -VALUE_LIMIT)])
    assert found["revenue"] == found["revenue_1h"] == found["order_value"] < 0
    assert (found["has_order"], found["order_recency"], found["orders"]) == (0, 0, 0)


def test_events_of_one_second_have_no_gaps_and_recency_is_then_compared_with_an_hour() -> None:
    found = named([event(START, kind) for kind in EventType], age_s=DAY)
    assert (found["gap_mean"], found["gap_std"]) == (0, 0)
    assert found["recency_over_gap"] == about(np.log1p(24))


def test_after_a_month_of_silence_the_windows_are_empty_and_the_totals_stay() -> None:
    history = [event(START + i, EventType.PURCHASE, 100) for i in range(100)]
    before, after = named(history), named(history, age_s=31 * DAY)
    for name in FEATURES:
        if name.endswith(tuple(WINDOWS)):
            assert after[name] == 0, name
    for name in ("n_events", "orders", "revenue", "order_value", "gap_mean", "gap_std", "has_order"):
        assert after[name] == before[name], name
    assert after["recency"] == about(np.log1p(31))


def test_reviews_are_counted_their_sentiments_averaged_and_the_last_kept() -> None:
    state = fold_users([event(START, EventType.REVIEW)], [event(START, EventType.REVIEW)])
    state.note_sentiments(np.array([0, 0, 0]), np.array([5, 6, 7]), np.array([1.0, 0.5, -0.75]))
    with_reviews, without = (dict(zip(FEATURES, row, strict=True)) for row in features_of(state, [0, 1]).tolist())
    assert with_reviews["reviews"] == about(np.log1p(3))
    assert (with_reviews["sentiment_mean"], with_reviews["sentiment_last"]) == (about(0.25), about(-0.75))
    assert (without["reviews"], without["sentiment_mean"], without["sentiment_last"]) == (0, 0, 0)


def test_every_window_lies_in_the_next_longer_one_at_every_instant() -> None:
    instants = START + np.concatenate((np.arange(0, 2 * DAY, 299), 300 * np.arange(600), 300 * np.arange(600) - 1))
    begins = [(instants // BUCKET_LEVELS[level][0] - n + 1) * BUCKET_LEVELS[level][0] for level, n in WINDOWS.values()]
    assert all((longer <= shorter).all() for shorter, longer in pairwise(begins))


def test_no_users_have_no_features() -> None:
    assert features_of(fold_users([event(START)]), []).shape == (0, len(FEATURES))
