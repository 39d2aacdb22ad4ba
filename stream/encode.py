"""Encode: event history and a scoring instant → token arrays, one position per event."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, LENGTHS
from stream.state import Snapshot

__all__ = ["encode", "padded_length"]

Array = npt.NDArray[Any]
_HOUR_S = 3_600
#: 1970-01-01 was a Thursday; hour 0 of the week is Monday 00:00 UTC.
_EPOCH_HOUR = 3 * 24


def encode(snapshot: Snapshot, as_of: Array) -> npt.NDArray[np.int32]:
    """Token array ``(n, HISTORY_LEN, len(CHANNELS))`` of users at ``as_of``; oldest event first, 0 is padding."""
    history = snapshot.history
    valid = np.arange(HISTORY_LEN) < snapshot.users["history_len"][:, None]
    times = history["time"].astype(np.int64)
    gaps = np.diff(times, axis=1, prepend=times[:, :1])
    channels = {
        "type": history["type"].astype(np.int64),
        "category": history["category"].astype(np.int64),
        "item": history["item"].astype(np.int64),
        "price": _log_steps(np.abs(history["value"].astype(np.int64)), 1, "price"),
        "gap": _log_steps(gaps, 1, "gap"),
        "hour_of_week": 1 + (times // _HOUR_S + _EPOCH_HOUR) % 168,
        "age": _log_steps((as_of[:, None] - times) // 60 + 1, 2, "age"),
    }
    tokens = np.stack([channels[name] for name in CHANNELS], axis=2)
    return np.where(valid[:, :, None], tokens, 0).astype(np.int32)


def padded_length(longest: int) -> int:
    """The shortest of the contract's lengths that holds ``longest`` events."""
    return next(length for length in LENGTHS if length >= longest)


def _log_steps(x: Array, per_octave: int, channel: str) -> Array:
    """0 for nothing, then one step per ``1 / per_octave`` of a doubling, up to the channel's size."""
    steps = 1 + np.floor(per_octave * np.log2(np.maximum(x, 1)))
    return np.where(x > 0, np.minimum(steps, CHANNEL_SIZES[channel] - 1), 0).astype(np.int64)
