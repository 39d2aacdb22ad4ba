"""Encode: every event of the history is one token, in range, and the same alone and in any batch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.columns import HISTORY_LEN
from stream.contract.events import VALUE_LIMIT, EventType
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, LENGTHS
from stream.score.encode import encode, padded_length
from stream.state.partition_state import PartitionState
from tests.state.reference import Plain
from tests.state.test_partition_state import DAY, START, fold

#: 2023-11-14 22:13:20 UTC, a Tuesday; hour 0 of the week is Monday 00:00.
START_HOUR_OF_WEEK = 24 + 22


def event(time: int, kind: int = EventType.VIEW, value: int = 0, category: int = 0, item: int = 0) -> Plain:
    return Plain(time=time, user="u", identity=0, type=kind, value=value, category=category, item=item)


def fold_users(*users: list[Plain]) -> PartitionState:
    """State of users ``u0``, ``u1``, … with these events, each event different."""
    events = [replace(e, user=f"u{u}") for u, history in enumerate(users) for e in history]
    return fold([[replace(e, identity=i + 1) for i, e in enumerate(events)]], lateness_s=2**32)


def tokens_of(state: PartitionState, rows: list[int], age_s: int = 0) -> np.ndarray:
    snapshot = state.snapshot(np.array(rows, np.int64))
    return encode(snapshot, snapshot.users["last_time"].astype(np.int64) + age_s)


def channel(tokens: np.ndarray, name: str) -> np.ndarray:
    return tokens[..., CHANNELS.index(name)]


EVENTS = st.builds(
    event,
    time=st.one_of(st.integers(START, START + 90 * DAY), st.integers(1, 2**32 - 1), st.just(START)),
    kind=st.sampled_from(EventType),
    value=st.one_of(st.just(0), st.integers(-VALUE_LIMIT, VALUE_LIMIT)),
    category=st.integers(0, 65_535),
    item=st.integers(0, 65_535),
)
USERS = st.lists(st.lists(EVENTS, min_size=1, max_size=12), min_size=1, max_size=5)
AGES = st.sampled_from([0, 1, DAY, 30 * DAY, 400 * DAY])


@settings(max_examples=100, deadline=None)
@given(USERS, AGES)
def test_tokens_are_in_range_where_an_event_is_and_zero_where_none_is(users: list[list[Plain]], age_s: int) -> None:
    tokens = tokens_of(fold_users(*users), list(range(len(users))), age_s)
    assert (tokens.shape, tokens.dtype) == ((len(users), HISTORY_LEN, len(CHANNELS)), np.int32)
    for row, events in zip(tokens, users, strict=True):
        assert (row[len(events) :] == 0).all()
        assert (row >= 0).all()
        for name, size in CHANNEL_SIZES.items():
            assert (channel(row, name) < size).all(), name
        for name in ("type", "hour_of_week", "age"):
            assert (channel(row[: len(events)], name) > 0).all(), name


@settings(max_examples=50, deadline=None)
@given(USERS, AGES)
def test_user_alone_has_the_same_tokens_as_in_any_batch(users: list[list[Plain]], age_s: int) -> None:
    state = fold_users(*users)
    rows = list(range(len(users)))
    together, backwards = tokens_of(state, rows, age_s), tokens_of(state, rows[::-1], age_s)
    assert together.tobytes() == backwards[::-1].tobytes()
    for row in rows:
        assert tokens_of(state, [row], age_s).tobytes() == together[row].tobytes()


@settings(max_examples=50, deadline=None)
@given(USERS)
def test_age_never_shrinks_as_time_goes_on_and_nothing_else_changes(users: list[list[Plain]]) -> None:
    state = fold_users(*users)
    rows = list(range(len(users)))
    before = tokens_of(state, rows)
    others = [i for i, name in enumerate(CHANNELS) if name != "age"]
    for age_s in (1, 60, 3_600, DAY, 30 * DAY, 3_650 * DAY):
        after = tokens_of(state, rows, age_s)
        assert (channel(after, "age") >= channel(before, "age")).all()
        assert (after[..., others] == before[..., others]).all()
        before = after


def test_age_tells_a_minute_from_an_hour_from_a_day_from_a_month() -> None:
    state = fold_users([event(START)])
    ages = [int(channel(tokens_of(state, [0], s), "age")[0, 0]) for s in (0, 60, 3_600, DAY, 30 * DAY)]
    assert ages == sorted(set(ages))


def test_event_becomes_the_token_that_the_contract_describes() -> None:
    first = event(START, EventType.PURCHASE, value=-1_234, category=600, item=5_000)
    tokens = tokens_of(fold_users([first, event(START + 3_600)]), [0])[0]
    oldest = dict(zip(CHANNELS, tokens[0].tolist(), strict=True))
    assert oldest["type"] == EventType.PURCHASE
    assert oldest["category"] == 600
    assert oldest["item"] == 5_000
    assert oldest["price"] == 1 + 10  # 1,234 lies between 2**10 and 2**11 hundredths.
    assert oldest["gap"] == 0
    assert oldest["hour_of_week"] == 1 + START_HOUR_OF_WEEK
    second = dict(zip(CHANNELS, tokens[1].tolist(), strict=True))
    assert second == {"type": 2, "category": 0, "item": 0, "price": 0, "gap": 1 + 11, "hour_of_week": 48, "age": 1}
    assert (tokens[2:] == 0).all()


def test_steps_of_the_logarithm_begin_at_powers_of_two() -> None:
    cents = sorted({c + d for k in range(31) for c in (2**k,) for d in (-1, 0, 1) if c + d <= VALUE_LIMIT})
    tokens = tokens_of(fold_users(*[[event(START, EventType.PURCHASE, value=c)] for c in cents]), [*range(len(cents))])
    assert channel(tokens, "price")[:, 0].tolist() == [c.bit_length() for c in cents]
    minutes = [*range(1, 3_000), *(int(2 ** (k / 2)) + d for k in range(24, 45) for d in (0, 1))]
    state = fold_users([event(START)])
    ages = [int(channel(tokens_of(state, [0], 60 * (m - 1)), "age")[0, 0]) for m in minutes]
    assert ages == [1 + int(2 * math.log2(m) + 1e-12) for m in minutes]


def test_tokens_are_in_the_order_of_event_time_and_the_newest_are_kept() -> None:
    times = [START + i * 7_200 for i in range(HISTORY_LEN + 30)]
    kinds = [1 + i % 9 for i in range(len(times))]
    events = [event(t, kind) for t, kind in zip(times, kinds, strict=True)]
    tokens = tokens_of(fold_users(events[::-1]), [0])[0]
    assert channel(tokens, "type").tolist() == kinds[-HISTORY_LEN:]
    assert channel(tokens, "gap").tolist() == [0] + [1 + 12] * (HISTORY_LEN - 1)
    assert (np.diff(channel(tokens, "age")) <= 0).all()


def test_events_of_one_second_have_no_gap() -> None:
    tokens = tokens_of(fold_users([event(START, kind) for kind in EventType]), [0])[0]
    assert channel(tokens, "gap").tolist() == [0] * HISTORY_LEN
    assert sorted(channel(tokens, "type").tolist()) == [0] * (HISTORY_LEN - 9) + [int(kind) for kind in EventType]


def test_no_users_have_no_tokens() -> None:
    assert tokens_of(fold_users([event(START)]), []).shape == (0, HISTORY_LEN, len(CHANNELS))


@pytest.mark.parametrize("longest", range(HISTORY_LEN + 1))
def test_padded_length_is_the_shortest_of_the_contract_that_holds_the_history(longest: int) -> None:
    length = padded_length(longest)
    assert length in LENGTHS
    assert length >= longest
    assert all(shorter < longest for shorter in LENGTHS if shorter < length)
