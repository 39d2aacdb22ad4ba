"""Features: user state and a scoring instant → the numeric features, in the order that the contract fixes.

Counts and money go in as ``log1p`` (signed for money), times as ``log1p`` of days, sentiments as they are (-1 to 1).
So every feature is a few units wide. The model itself holds the scaler that was fitted on the training data.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from stream.arrays import Codes, Counts, EventTimes, FeatureRows, Floats, Mask, Numbers, Seconds, UserRows
from stream.contract.columns import BUCKET_LEVELS, BUCKET_SLOTS, DAY_S, HISTORY_LEN, SENTIMENT_SCALE, WINDOWS
from stream.contract.events import N_TYPES, VALUE_SCALE
from stream.contract.tokens import FEATURES
from stream.state.partition_state import Snapshot

__all__ = ["features", "windows"]

_SLOTS: Final = np.arange(HISTORY_LEN)
_LEVEL_START: Final = np.cumsum([0, *(n for _, n in BUCKET_LEVELS)]).tolist()
_LAST_LEVEL: Final = slice(_LEVEL_START[-2], _LEVEL_START[-1])
#: Number of buckets of each window ``(windows,)``, and the width of those buckets in seconds.
_WINDOW_BUCKETS: Final = np.array([n_buckets for _, n_buckets in WINDOWS.values()])
_WIDTHS_S: Final = np.array([BUCKET_LEVELS[level][0] for level, _ in WINDOWS.values()])
#: Which bucket slots hold buckets of the window's level, ``(windows, BUCKET_SLOTS)``.
_OF_LEVEL: Final = np.array(
    [[_LEVEL_START[level] <= i < _LEVEL_START[level + 1] for i in range(BUCKET_SLOTS)] for level, _ in WINDOWS.values()]
)
#: Index of an event that lies in no window.
_OUTSIDE: Final = np.uint8(len(WINDOWS))
#: Active days are bits: bit 0 is the UTC day of the scoring instant, bit 1 the day before.
_MONTH: Final = np.uint32((1 << 30) - 1)
_WEEK: Final = np.uint32((1 << 7) - 1)
_TODAY: Final = np.uint32(1)
_N_COUNTS: Final = len(WINDOWS) * N_TYPES
#: Features that are neither times, counts nor money. They go in as they are.
_PLAIN: Final = ("active_days_7d", "active_days_30d", "has_order", "sentiment_mean", "sentiment_last")
_PLAIN_COLUMNS: Final = [FEATURES.index(name) for name in _PLAIN]


def features(snapshot: Snapshot, as_of: Seconds) -> FeatureRows:
    """Features ``(n, len(FEATURES))`` of ``n`` users at ``as_of`` (n,), which is not before their last events."""
    users = snapshot.users
    times, valid = np.ascontiguousarray(snapshot.history["time"]), _valid(snapshot)
    counts, revenue = windows(snapshot, as_of)
    days = _active_days(snapshot, as_of, times, valid)
    recency = (as_of - users["last_time"].astype(np.int64)) / DAY_S
    orders, reviews, money = users["orders"], users["reviews"], users["revenue"] / VALUE_SCALE
    has_order = orders > 0
    gap_mean, gap_std = _gaps(users, times, valid)
    columns = (
        *(revenue.T / VALUE_SCALE),
        np.bitwise_count(days & _WEEK),
        np.bitwise_count(days),
        recency,
        np.where(has_order, (as_of - users["last_order_time"].astype(np.int64)) / DAY_S, 0.0),
        has_order,
        (as_of - users["first_time"].astype(np.int64)) / DAY_S,
        users["n_events"],
        orders,
        money,
        money / np.maximum(orders, 1),
        gap_mean,
        gap_std,
        recency / np.maximum(gap_mean, 1 / 24),
        reviews,
        users["sentiment_sum"] / (SENTIMENT_SCALE * np.maximum(reviews, 1)),
        users["sentiment_last"] / SENTIMENT_SCALE,
    )
    values = np.empty((len(users), len(FEATURES)))
    values[:, :_N_COUNTS] = counts.reshape(len(users), _N_COUNTS)
    for i, column in enumerate(columns, start=_N_COUNTS):
        values[:, i] = column
    out = _signed_log(values).astype(np.float32)
    out[:, _PLAIN_COLUMNS] = values[:, _PLAIN_COLUMNS]
    return out


def windows(snapshot: Snapshot, as_of: Seconds) -> tuple[Counts, Counts]:
    """Counts by event type ``(n, windows, types)``, and net revenue in hundredths ``(n, windows)``.

    Each window contains the shorter ones. So an event is counted once, in the shortest window that holds it, and a
    cumulative sum over the windows gives the rest.
    """
    n, history, bucketed = len(as_of), snapshot.history, snapshot.bucketed
    first = as_of[:, None] // _WIDTHS_S - (_WINDOW_BUCKETS - 1)
    shortest = np.where(_valid(snapshot), _shortest(history["time"], first * _WIDTHS_S), _OUTSIDE)
    # Event types begin with 1, so type 0 stays empty. The last window collects the events that lie in none.
    shape = (n, len(WINDOWS) + 1, N_TYPES + 1)
    places = np.arange(n * shape[1]).reshape(n, shape[1])[:, :1]
    types = places * shape[2] + (shortest * np.uint8(shape[2]) + history["type"])
    counts = np.bincount(types.reshape(-1), minlength=n * shape[1] * shape[2]).reshape(shape)[:, :-1, 1:]
    # The sums are float64. They are exact for whole hundredths up to 2**53.
    value = np.bincount((places + shortest).reshape(-1), history["value"].reshape(-1), n * shape[1])
    counts = np.add.accumulate(counts, axis=1)
    revenue = np.add.accumulate(value.reshape(shape[:2])[:, :-1].astype(np.int64), axis=1)
    if len(bucketed):
        inside = (snapshot.buckets["number"][:, None] >= first[bucketed, :, None]) & _OF_LEVEL
        counts[bucketed] += np.matmul(inside, snapshot.buckets["count"], dtype=np.int64)
        revenue[bucketed] += np.matmul(inside, snapshot.buckets["value"][:, :, None], dtype=np.int64)[:, :, 0]
    return counts, revenue


def _shortest(times: EventTimes, begins: Seconds) -> Codes:
    """Index of the shortest window that holds each event; windows begin at ``begins`` (n, windows)."""
    signed_times, out = times.astype(np.int64), np.zeros(times.shape, np.uint8)
    for begin in begins.T:
        out += (signed_times < begin[:, None]).view(np.uint8)
    return out


def _active_days(snapshot: Snapshot, as_of: Seconds, times: EventTimes, valid: Mask) -> Numbers:
    """On which of the last 30 UTC days each user did anything ``(n,)``: a bit per day, bit 0 is today."""
    today = (as_of[:, None] // DAY_S).astype(np.uint32)
    # numpy's shift by 32 or more gives 0, so older days drop out.
    days = np.bitwise_or.reduce(np.left_shift(_TODAY, today - times // np.uint32(DAY_S)) * valid, axis=1)
    if len(snapshot.bucketed):
        buckets = snapshot.buckets[:, _LAST_LEVEL]
        active = buckets["count"].any(axis=2)
        bits = np.left_shift(_TODAY, today[snapshot.bucketed] - buckets["number"]) * active
        days[snapshot.bucketed] |= np.bitwise_or.reduce(bits, axis=1)
    return np.asarray(days & _MONTH)


def _gaps(users: UserRows, times: EventTimes, valid: Mask) -> tuple[Floats, Floats]:
    """Mean and standard deviation ``(n,)`` of the days between successive events of a user's history."""
    between = valid[:, 1:]
    gaps = (times[:, 1:] - times[:, :-1]) * between / DAY_S
    n = np.maximum(users["history_len"], 2) - 1
    mean = np.add.reduce(gaps, axis=1) / n
    variance = np.add.reduce(np.square(gaps - mean[:, None]) * between, axis=1) / n
    return mean, np.sqrt(variance)


def _valid(snapshot: Snapshot) -> Mask:
    """Which history slots ``(n, HISTORY_LEN)`` hold an event."""
    valid: Mask = snapshot.users["history_len"][:, None] > _SLOTS
    return valid


def _signed_log(x: Floats) -> Floats:
    out: Floats = np.copysign(np.log1p(np.abs(x)), x)
    return out
