"""Encode: event history and a scoring instant → token arrays, with one token per event."""

from __future__ import annotations

from typing import Final

import numpy as np

from stream.arrays import EventTimes, Floats, Numbers, Seconds, TokenRows
from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, LENGTHS
from stream.state.partition_state import Snapshot

__all__ = ["encode", "padded_length"]

_HOUR_S: Final = 3_600
#: Hour 0 of the week is Monday 00:00 UTC. 1970-01-01 was a Thursday, three days later.
_EPOCH_HOUR: Final = 3 * 24
_WEEK_HOURS: Final = 7 * 24
_SLOTS: Final = np.arange(HISTORY_LEN)
#: Channels in steps of the logarithm, and the largest step of each.
_LOGARITHMIC: Final = ("price", "gap", "age")
_STEPS_MAX: Final = np.array([[[CHANNEL_SIZES[name] - 1]] for name in _LOGARITHMIC], np.int16)


def encode(snapshot: Snapshot, as_of: Seconds) -> TokenRows:
    """Tokens ``(n, HISTORY_LEN, len(CHANNELS))`` of ``n`` users at ``as_of`` (n,): oldest event first, then zeros."""
    history = snapshot.history
    valid = snapshot.users["history_len"][:, None] > _SLOTS
    times = np.ascontiguousarray(history["time"])
    x = np.zeros((len(_LOGARITHMIC), *times.shape))
    x[0] = np.abs(history["value"])
    x[1, :, 1:] = times[:, 1:] - times[:, :-1]
    # The steps of age are half a doubling wide, because the age is squared: log(x²) is 2 log(x). The square is exact
    # in a float64 up to 2**26 minutes.
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


def _log_steps(x: Floats) -> Numbers:
    """Steps ``(channels, n, slots)`` of whole numbers: 0 for 0, then one step per doubling, up to the channel's size.

    The step of a whole number is its length in bits. That is the exponent of its float64, without the bias of 1,023.
    """
    bits = (x.view(np.int64) >> 52).astype(np.int16) - np.int16(1_022)
    return np.asarray(np.minimum(np.maximum(bits, 0), _STEPS_MAX))


def _hour_of_week(times: EventTimes) -> EventTimes:
    """Hours 1 to 168. The remainder is computed from the quotient: numpy vectorises division but not ``%``."""
    hours = times // np.uint32(_HOUR_S) + np.uint32(_EPOCH_HOUR)
    return np.asarray(hours - hours // np.uint32(_WEEK_HOURS) * np.uint32(_WEEK_HOURS) + np.uint32(1))
