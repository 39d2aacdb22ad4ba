"""Packed users: values of users in another version, and without what scoring wrote, for tests that compare them."""

from __future__ import annotations

import numpy as np

from stream.checkpoint import changelog
from stream.checkpoint.byte_strings import ByteStrings
from stream.checkpoint.packed_values import HEAD_BYTES, PackedValues
from stream.contract.columns import HISTORY, HISTORY_VALUE_32, ORDER, STATE_VERSION, USER, USER_BYTES
from stream.state.partition_state import PartitionState

__all__ = ["as_version", "in_this_version", "without_scores"]

#: Columns of USER that scoring writes. How often a user is scored on the way depends on the machine's speed.
SCORED = ("scored_offset", "scored_sentiment", "idle_stage", "churn", "purchase", "ltv", "alert_band", "alert_time")


def as_version(value: bytes, version: int) -> bytes:
    """A packed value as the release with state ``version`` (1 or 2) would have packed it."""
    parts = PackedValues.parse(ByteStrings.joined([value]))
    length, orders_end = int(parts.lengths[0]), int(parts.ends[0])
    history_end = HEAD_BYTES + length * HISTORY.itemsize
    orders_at = orders_end - 1 - len(parts.orders) * ORDER.itemsize
    history = np.frombuffer(value, HISTORY, length, HEAD_BYTES).astype(HISTORY_VALUE_32).tobytes()
    user = value[1 : 1 + USER_BYTES[version]]
    return bytes([version]) + user + history + value[history_end:orders_at] + value[orders_end:]


def in_this_version(value: bytes) -> bytes:
    """The value as this release packs it."""
    if value[0] == STATE_VERSION:
        return value
    state = PartitionState(0, "USD")
    return changelog.pack(state, changelog.load(state, ["somebody"], [value]))[0]


def without_scores(value: bytes) -> bytes:
    """The value with the columns that scoring writes set to nothing."""
    head = np.frombuffer(value[1 : 1 + USER.itemsize], USER).copy()
    for name in SCORED:
        head[name] = 0
    return value[:1] + head.tobytes() + value[1 + USER.itemsize :]
