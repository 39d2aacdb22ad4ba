"""Sentiments of reviews: each counts once, is awaited until it comes, and makes the score stale."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.checkpoint import changelog
from stream.contract.columns import HISTORY_LEN
from stream.state.partition_state import PartitionState
from tests.state.reference import Plain
from tests.state.test_partition_state import DAY, START, fold, packed


@st.composite
def reviews_and_calls(draw: st.DrawFn) -> tuple[list[tuple[int, int, float]], list[list[tuple[int, int, float]]]]:
    """Reviews (row, offset, sentiment), and the same reviews cut into calls.

    Each call is shuffled, and some reviews come again in a later call.
    """
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 4))
    offsets = sorted(rng.sample(range(1_000), draw(st.integers(1, 40))))
    reviews = [(rng.randrange(rows), offset, rng.randrange(-100, 101) / 100) for offset in offsets]
    calls, n_sent = [], 0
    while n_sent < len(reviews):
        start = rng.randrange(n_sent + 1)
        n_sent = rng.randrange(n_sent, len(reviews)) + 1
        again = rng.choices(reviews[start:n_sent], k=3)
        calls.append(rng.sample([*reviews[start:n_sent], *again], n_sent - start + 3))
    return reviews, calls


def note(state: PartitionState, reviews: list[tuple[int, int, float]]) -> None:
    rows, offsets, sentiments = zip(*reviews, strict=True)
    state.note_sentiments(np.array(rows), np.array(offsets), np.array(sentiments, np.float32))


def four_users() -> PartitionState:
    return fold([[Plain(START, f"u{i}", i + 1, 2) for i in range(4)]])


@settings(max_examples=200, deadline=None)
@given(reviews_and_calls())
def test_review_counts_once_in_any_batches_and_order_of_sentiments(
    stream: tuple[list[tuple[int, int, float]], list[list[tuple[int, int, float]]]],
) -> None:
    reviews, calls = stream
    state = four_users()
    for call in calls:
        note(state, call)
    for row in range(4):
        mine = [(offset, round(100 * sentiment)) for r, offset, sentiment in reviews if r == row]
        last_offset, last = mine[-1] if mine else (-1, 0)
        user = state.users[row]
        assert (user["reviews"], user["sentiment_sum"]) == (len(mine), sum(hundredths for _, hundredths in mine))
        assert (user["sentiment_offset"], user["sentiment_last"]) == (last_offset, last)


def test_call_without_sentiments_changes_nothing() -> None:
    state = four_users()
    before = packed(state)
    state.note_sentiments(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert packed(state) == before


def test_awaited_review_is_read_back_and_awaited_until_its_sentiment_comes() -> None:
    state = fold([[Plain(START + i, "u", i + 1, 2) for i in range(HISTORY_LEN + 9)]])
    for offset in (3, 7, 9):
        state.await_sentiment(0, offset)
    recovered = PartitionState(10_000 * DAY)
    changelog.load(recovered, state.ids, changelog.pack(state, np.arange(1)))
    assert packed(recovered) == packed(state)
    assert recovered.awaited == {0: [3, 7, 9]}
    note(recovered, [(0, 7, 0.5), (0, 3, -1.0)])
    assert recovered.awaited == {0: [9]}
    note(recovered, [(0, 9, 0.5)])
    assert recovered.awaited == {}


def test_sentiment_that_the_last_score_has_not_seen_makes_the_score_stale() -> None:
    state = four_users()
    users = state.users[:4]
    users["scored_offset"] = users["applied_offset"]
    assert state.unscored().tolist() == []
    note(state, [(2, 2, 0.5)])
    assert state.unscored().tolist() == [2]
    users["scored_sentiment"] = users["sentiment_offset"]
    assert state.unscored().tolist() == []
