"""Older state: a value of today as an earlier release would have packed it, without what that release did not know."""

from __future__ import annotations

import numpy as np

from stream.checkpoint.byte_strings import ByteStrings
from stream.checkpoint.packed_values import HEAD_BYTES, PackedValues
from stream.contract.columns import HISTORY, HISTORY_VALUE_32, ORDER, USER_BYTES

__all__ = ["as_version"]


def as_version(value: bytes, version: int) -> bytes:
    """A packed value as the release with state ``version`` (1 or 2) would have packed it."""
    parts = PackedValues.parse(ByteStrings.joined([value]))
    length, orders_end = int(parts.lengths[0]), int(parts.ends[0])
    history_end = HEAD_BYTES + length * HISTORY.itemsize
    orders_at = orders_end - 1 - len(parts.orders) * ORDER.itemsize
    history = np.frombuffer(value, HISTORY, length, HEAD_BYTES).astype(HISTORY_VALUE_32).tobytes()
    user = value[1 : 1 + USER_BYTES[version]]
    return bytes([version]) + user + history + value[history_end:orders_at] + value[orders_end:]
