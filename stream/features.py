"""Features: state and a scoring instant → the numeric features, in the one order of the contract.

Counts and money go in as ``log1p`` (signed for money), times as ``log1p`` of days, sentiments as they are (-1 to 1),
so that every feature is a few units wide; the model holds the scaler that was fitted on the training data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.contract.columns import BUCKET_LEVELS, DAY_S, HISTORY_LEN, SENTIMENT_SCALE, WINDOWS
from stream.contract.events import N_TYPES, VALUE_SCALE
from stream.contract.tokens import FEATURES
from stream.state import Snapshot

__all__ = ["features", "windows"]

Array = npt.NDArray[Any]
_DAYS = 30
_LEVEL_START = np.cumsum([0, *(n for _, n in BUCKET_LEVELS)]).tolist()


def features(snapshot: Snapshot, as_of: Array) -> npt.NDArray[np.float32]:
    """Numeric features ``(n, len(FEATURES))`` of users at ``as_of`` (seconds, not before their last event)."""
    users = snapshot.users
    counts, revenue = windows(snapshot, as_of)
    days = _active_days(snapshot, as_of)
    recency = (as_of - users["last_time"].astype(np.int64)) / DAY_S
    has_order = users["orders"] > 0
    order_recency = np.where(has_order, (as_of - users["last_order_time"].astype(np.int64)) / DAY_S, 0.0)
    gap_mean, gap_std = _gaps(snapshot)
    money = users["revenue"] / VALUE_SCALE
    columns = [
        np.log1p(counts.reshape(len(users), len(WINDOWS) * N_TYPES)),
        _signed_log(revenue / VALUE_SCALE),
        days[:, :7].sum(axis=1),
        days.sum(axis=1),
        np.log1p(recency),
        np.log1p(order_recency),
        has_order,
        np.log1p((as_of - users["first_time"].astype(np.int64)) / DAY_S),
        np.log1p(users["n_events"]),
        np.log1p(users["orders"]),
        _signed_log(money),
        _signed_log(money / np.maximum(users["orders"], 1)),
        np.log1p(gap_mean),
        np.log1p(gap_std),
        np.log1p(recency / np.maximum(gap_mean, 1 / 24)),
        np.log1p(users["reviews"]),
        users["sentiment_sum"] / (SENTIMENT_SCALE * np.maximum(users["reviews"], 1)),
        users["sentiment_last"] / SENTIMENT_SCALE,
    ]
    out = np.column_stack(columns).astype(np.float32)
    assert out.shape[1] == len(FEATURES), "features and FEATURES disagree. This is a bug."
    return out


def windows(snapshot: Snapshot, as_of: Array) -> tuple[Array, Array]:
    """Counts by event type ``(n, windows, types)`` and net revenue in hundredths ``(n, windows)``."""
    n, history = len(as_of), snapshot.history
    valid = _valid(snapshot)
    user, slot = np.nonzero(valid)
    entries = history[user, slot]
    counts = np.zeros((n, len(WINDOWS), N_TYPES), np.int64)
    revenue = np.zeros((n, len(WINDOWS)), np.int64)
    for w, (level, length) in enumerate(WINDOWS.values()):
        width_s, n_slots = BUCKET_LEVELS[level]
        last = as_of // width_s
        inside = last[user] - entries["time"] // width_s < length
        flat = user[inside] * N_TYPES + entries["type"][inside] - 1
        counts[:, w] = np.bincount(flat, minlength=n * N_TYPES).reshape(n, N_TYPES)
        # Weighted counts are float64, exact for whole hundredths up to 2**53.
        revenue[:, w] = np.bincount(user[inside], weights=entries["value"][inside], minlength=n).astype(np.int64)
        if len(snapshot.bucketed):
            _add_buckets(snapshot, level, n_slots, last, length, counts[:, w], revenue[:, w])
    return counts, revenue


def _add_buckets(
    snapshot: Snapshot, level: int, n_slots: int, last: Array, length: int, counts: Array, revenue: Array
) -> None:
    buckets = snapshot.buckets[:, _LEVEL_START[level] : _LEVEL_START[level] + n_slots]
    inside = last[snapshot.bucketed, None] - buckets["number"].astype(np.int64) < length
    counts[snapshot.bucketed] += np.einsum("nbt,nb->nt", buckets["count"], inside, dtype=np.int64)
    revenue[snapshot.bucketed] += np.einsum("nb,nb->n", buckets["value"], inside)


def _active_days(snapshot: Snapshot, as_of: Array) -> Array:
    """Whether a user did anything on each of the last 30 UTC days, today first; shape ``(n, 30)``."""
    active = np.zeros((len(as_of), _DAYS), bool)
    today = as_of // DAY_S
    user, slot = np.nonzero(_valid(snapshot))
    ago = today[user] - snapshot.history["time"][user, slot] // DAY_S
    active[user[ago < _DAYS], ago[ago < _DAYS]] = True
    if len(snapshot.bucketed):
        buckets = snapshot.buckets[:, _LEVEL_START[-2] :]
        which, slot = np.nonzero(buckets["count"].any(axis=2))
        ago = today[snapshot.bucketed[which]] - buckets["number"][which, slot]
        active[snapshot.bucketed[which[ago < _DAYS]], ago[ago < _DAYS]] = True
    return active


def _gaps(snapshot: Snapshot) -> tuple[Array, Array]:
    """Mean and standard deviation of the days between a user's successive events, over the history."""
    times = snapshot.history["time"].astype(np.float64)
    between = _valid(snapshot)[:, 1:]
    gaps = np.where(between, times[:, 1:] - times[:, :-1], 0.0) / DAY_S
    n = np.maximum(between.sum(axis=1), 1)
    mean = gaps.sum(axis=1) / n
    variance = np.where(between, (gaps - mean[:, None]) ** 2, 0.0).sum(axis=1) / n
    return mean, np.sqrt(variance)


def _valid(snapshot: Snapshot) -> Array:
    valid: Array = np.arange(HISTORY_LEN) < snapshot.users["history_len"][:, None]
    return valid


def _signed_log(x: Array) -> Array:
    out: Array = np.sign(x) * np.log1p(np.abs(x))
    return out
