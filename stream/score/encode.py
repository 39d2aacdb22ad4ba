"""Encode: event history and a scoring instant → token arrays, one position per event."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, LENGTHS
from stream.state.partition_state import Snapshot

__all__ = ["encode", "padded_length"]

Array = npt.NDArray[Any]
_HOUR_S: Final = 3_600
#: 1970-01-01 was a Thursday; hour 0 of the week is Monday 00:00 UTC.
_EPOCH_HOUR: Final = 3 * 24
_HOURS: Final = 7 * 24
_SLOTS: Final = np.arange(HISTORY_LEN)
#: Channels in steps of the logarithm, and the largest step of each.
_LOGARITHMIC: Final = ("price", "gap", "age")
_STEPS_MAX: Final = np.array([[[CHANNEL_SIZES[name] - 1]] for name in _LOGARITHMIC], np.int16)


def encode(snapshot: Snapshot, as_of: Array) -> npt.NDArray[np.int32]:
    """Token array ``(n, HISTORY_LEN, len(CHANNELS))`` of users at ``as_of``; oldest event first, 0 is padding."""
    history = snapshot.history
    valid = snapshot.users["history_len"][:, None] > _SLOTS
    times = np.ascontiguousarray(history["time"])
    x = np.zeros((len(_LOGARITHMIC), *times.shape))
    x[0] = np.abs(history["value"])
    x[1, :, 1:] = times[:, 1:] - times[:, :-1]
    # Half an octave each: twice the logarithm is that of the square, exact in minutes up to 2**26.
    x[2] = np.square((as_of[:, None] - times) // 60 + 1)
    price, gap, age = _log_steps(x)
    channels = {
        "type": history["type"],
        "category": history["category"],
        "item": history["item"],
        "price": price,
        "gap": gap,
        "hour_of_week": _hour_of_week(times),
        "age": age,
    }
    tokens = np.empty((*times.shape, len(CHANNELS)), np.int32)
    for i, name in enumerate(CHANNELS):
        np.multiply(channels[name], valid, out=tokens[:, :, i])
    return tokens


def padded_length(longest: int) -> int:
    """The shortest of the contract's lengths that holds ``longest`` events."""
    return next(length for length in LENGTHS if length >= longest)


def _log_steps(x: Array) -> Array:
    """0 for nothing, then one step per doubling, up to each channel's size, of whole numbers ``(channels, n, slots)``.

    The step of a whole number is its length in bits, which is the exponent of a float64, biased by 1,023.
    """
    bits = (x.view(np.int64) >> 52).astype(np.int16) - np.int16(1_022)
    return np.asarray(np.minimum(np.maximum(bits, 0), _STEPS_MAX))


def _hour_of_week(times: Array) -> Array:
    """1 to 168; a remainder by way of the quotient, which numpy vectorises, unlike ``%``."""
    hours = times // np.uint32(_HOUR_S) + np.uint32(_EPOCH_HOUR)
    return np.asarray(hours - hours // np.uint32(_HOURS) * np.uint32(_HOURS) + np.uint32(1))
