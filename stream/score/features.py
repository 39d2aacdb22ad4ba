"""Features: state and a scoring instant → the numeric features, in the one order of the contract.

Counts and money go in as ``log1p`` (signed for money), times as ``log1p`` of days, sentiments as they are (-1 to 1),
so that every feature is a few units wide; the model holds the scaler that was fitted on the training data.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.columns import BUCKET_LEVELS, BUCKET_SLOTS, DAY_S, HISTORY_LEN, SENTIMENT_SCALE, WINDOWS
from stream.contract.events import N_TYPES, VALUE_SCALE
from stream.contract.tokens import FEATURES
from stream.state.partition_state import Snapshot

__all__ = ["features", "windows"]

Array = npt.NDArray[Any]
_SLOTS: Final = np.arange(HISTORY_LEN)
_LEVEL_START: Final = np.cumsum([0, *(n for _, n in BUCKET_LEVELS)]).tolist()
_LAST_LEVEL: Final = slice(_LEVEL_START[-2], _LEVEL_START[-1])
#: Of each window ``(windows,)``: its number of buckets, and their width in seconds.
_LENGTHS: Final = np.array([length for _, length in WINDOWS.values()])
_WIDTHS_S: Final = np.array([BUCKET_LEVELS[level][0] for level, _ in WINDOWS.values()])
#: Which bucket slots ``(windows, BUCKET_SLOTS)`` hold the buckets of each window's level.
_OF_LEVEL: Final = np.array(
    [[_LEVEL_START[level] <= i < _LEVEL_START[level + 1] for i in range(BUCKET_SLOTS)] for level, _ in WINDOWS.values()]
)
_OUTSIDE: Final = np.uint8(len(WINDOWS))
#: A bit for each of the last 30 UTC days, today's first.
_MONTH: Final = np.uint32((1 << 30) - 1)
_WEEK: Final = np.uint32((1 << 7) - 1)
_TODAY: Final = np.uint32(1)
_N_COUNTS: Final = len(WINDOWS) * N_TYPES
#: Columns that are not times, counts or money, and go in as they are.
_PLAIN: Final = ("active_days_7d", "active_days_30d", "has_order", "sentiment_mean", "sentiment_last")
_PLAIN_COLUMNS: Final = [FEATURES.index(name) for name in _PLAIN]


def features(snapshot: Snapshot, as_of: Array) -> npt.NDArray[np.float32]:
    """Numeric features ``(n, len(FEATURES))`` of users at ``as_of`` (seconds, not before their last event)."""
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


def windows(snapshot: Snapshot, as_of: Array) -> tuple[Array, Array]:
    """Counts by event type ``(n, windows, types)`` and net revenue in hundredths ``(n, windows)``.

    The windows lie in one another: an event is counted in the shortest that holds it, and then they are summed up.
    """
    n, history, bucketed = len(as_of), snapshot.history, snapshot.bucketed
    first = as_of[:, None] // _WIDTHS_S - (_LENGTHS - 1)
    shortest = np.where(_valid(snapshot), _shortest(history["time"], first * _WIDTHS_S), _OUTSIDE)
    # Types begin with 1. The last place is for what lies in no window.
    shape = (n, len(WINDOWS) + 1, N_TYPES + 1)
    places = np.arange(n * shape[1]).reshape(n, shape[1])[:, :1]
    types = places * shape[2] + (shortest * np.uint8(shape[2]) + history["type"])
    counts = np.bincount(types.reshape(-1), minlength=n * shape[1] * shape[2]).reshape(shape)[:, :-1, 1:]
    # Weighted counts are float64, exact for whole hundredths up to 2**53.
    value = np.bincount((places + shortest).reshape(-1), history["value"].reshape(-1), n * shape[1])
    counts = np.add.accumulate(counts, axis=1)
    revenue = np.add.accumulate(value.reshape(shape[:2])[:, :-1].astype(np.int64), axis=1)
    if len(bucketed):
        inside = (snapshot.buckets["number"][:, None] >= first[bucketed, :, None]) & _OF_LEVEL
        counts[bucketed] += np.matmul(inside, snapshot.buckets["count"], dtype=np.int64)
        revenue[bucketed] += np.matmul(inside, snapshot.buckets["value"][:, :, None], dtype=np.int64)[:, :, 0]
    return counts, revenue


def _shortest(times: Array, begins: Array) -> Array:
    """Index of the shortest window that holds each event, of windows that begin at ``begins`` (n, windows)."""
    times, out = times.astype(np.int64), np.zeros(times.shape, np.uint8)
    for begin in begins.T:
        out += (times < begin[:, None]).view(np.uint8)
    return out


def _active_days(snapshot: Snapshot, as_of: Array, times: Array, valid: Array) -> Array:
    """The last 30 UTC days on which a user did anything, a bit for each, today's first; shape ``(n,)``."""
    today = (as_of[:, None] // DAY_S).astype(np.uint32)
    # A shift by 32 or more gives 0.
    days = np.bitwise_or.reduce(np.left_shift(_TODAY, today - times // np.uint32(DAY_S)) * valid, axis=1)
    if len(snapshot.bucketed):
        buckets = snapshot.buckets[:, _LAST_LEVEL]
        active = buckets["count"].any(axis=2)
        bits = np.left_shift(_TODAY, today[snapshot.bucketed] - buckets["number"]) * active
        days[snapshot.bucketed] |= np.bitwise_or.reduce(bits, axis=1)
    return np.asarray(days & _MONTH)


def _gaps(users: Array, times: Array, valid: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the days between a user's successive events, over the history."""
    between = valid[:, 1:]
    gaps = (times[:, 1:] - times[:, :-1]) * between / DAY_S
    n = np.maximum(users["history_len"], 2) - 1
    mean = np.add.reduce(gaps, axis=1) / n
    variance = np.add.reduce(np.square(gaps - mean[:, None]) * between, axis=1) / n
    return mean, np.sqrt(variance)


def _valid(snapshot: Snapshot) -> Array:
    valid: Array = snapshot.users["history_len"][:, None] > _SLOTS
    return valid


def _signed_log(x: Array) -> Array:
    out: Array = np.copysign(np.log1p(np.abs(x)), x)
    return out
