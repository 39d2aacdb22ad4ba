"""The columns of state: windows fit their buckets, and stored rows mean the same on every machine."""

from __future__ import annotations

import numpy as np

from stream.contract.columns import (
    BUCKET_LEVELS,
    BUCKET_SLOTS,
    DAY_S,
    EVENT_PARTS,
    HISTORY,
    IDLE_AGES_S,
    USER,
    WINDOWS,
)
from stream.contract.events import EVENT


def test_windows_lie_within_their_buckets() -> None:
    assert sum(n for _, n in BUCKET_LEVELS) == BUCKET_SLOTS
    seconds = {"1h": 3_600, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S}
    for name, (level, length) in WINDOWS.items():
        width_s, n = BUCKET_LEVELS[level]
        assert length <= n
        assert width_s * length == seconds[name]


def test_ages_of_silence_are_the_designed_ones() -> None:
    assert (IDLE_AGES_S / DAY_S).tolist() == [0, 1, 3, 7, 14, 30]
    assert len(IDLE_AGES_S) <= np.iinfo(USER["idle_stage"]).max


def test_stored_rows_are_little_endian_and_without_gaps() -> None:
    for dtype in (EVENT, USER):
        assert dtype.itemsize == sum(dtype[name].itemsize for name in dtype.names or ())
        assert all(dtype[name].byteorder in "<|" or dtype[name].isnative for name in dtype.names or ())


def test_end_of_an_event_is_a_history_entry_byte_for_byte() -> None:
    offsets = EVENT.fields or {}
    for name in HISTORY.names or ():
        dtype, offset = (HISTORY.fields or {})[name][:2]
        assert offsets[name][:2] == (dtype, offset + (EVENT_PARTS.fields or {})["entry"][1])
    for name in set(EVENT_PARTS.names or ()) - {"entry"}:
        assert (EVENT_PARTS.fields or {})[name][:2] == offsets[name][:2]
    assert EVENT_PARTS.itemsize == EVENT.itemsize
