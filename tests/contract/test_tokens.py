"""The model's inputs: names, sizes and order hang together, and a change of them is a change of version."""

from __future__ import annotations

import hashlib

import numpy as np

from stream.contract.columns import BUCKET_LEVELS, BUCKET_SLOTS, DAY_S, HISTORY_LEN, IDLE_AGES_S, USER, WINDOWS
from stream.contract.events import EVENT, N_TYPES, SEGMENT_NAMES, EventType
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, FEATURES, FEATURES_VERSION, LENGTHS, TOKENS_VERSION


def test_features_are_named_once_each() -> None:
    assert len(set(FEATURES)) == len(FEATURES)


def test_every_window_counts_every_type_and_the_revenue() -> None:
    for w in WINDOWS:
        assert {f"{t.name.lower()}_{w}" for t in EventType} | {f"revenue_{w}"} <= set(FEATURES)


def test_every_type_has_a_token_and_none_is_padding() -> None:
    assert all(0 < kind < CHANNEL_SIZES["type"] for kind in EventType)
    assert sorted(EventType) == list(range(1, N_TYPES + 1))


def test_channels_have_room_for_padding_and_a_value() -> None:
    assert tuple(CHANNEL_SIZES) == CHANNELS
    assert all(size >= 2 for size in CHANNEL_SIZES.values())
    assert CHANNEL_SIZES["hour_of_week"] == 1 + 7 * 24


def test_lengths_grow_up_to_the_whole_history() -> None:
    assert list(LENGTHS) == sorted(set(LENGTHS))
    assert LENGTHS[-1] == HISTORY_LEN


def test_windows_lie_within_their_buckets() -> None:
    assert sum(n for _, n in BUCKET_LEVELS) == BUCKET_SLOTS
    seconds = {"1h": 3_600, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S}
    for name, (level, length) in WINDOWS.items():
        width_s, n = BUCKET_LEVELS[level]
        assert length <= n
        assert width_s * length == seconds[name]


def test_ages_of_silence_are_those_of_the_design() -> None:
    assert (IDLE_AGES_S / DAY_S).tolist() == [0, 1, 3, 7, 14, 30]
    assert len(IDLE_AGES_S) <= np.iinfo(USER["idle_stage"]).max


def test_segment_names_are_in_lower_case_as_they_are_looked_up() -> None:
    assert all(name == name.lower() for name in SEGMENT_NAMES)


def test_stored_rows_are_little_endian_and_without_gaps() -> None:
    for dtype in (EVENT, USER):
        assert dtype.itemsize == sum(dtype[name].itemsize for name in dtype.names or ())
        assert all(dtype[name].byteorder in "<|" or dtype[name].isnative for name in dtype.names or ())


def test_inputs_change_only_with_their_version() -> None:
    """When this fails on purpose: raise the version, write the new digest here, train and export the demo model."""
    inputs = repr((CHANNEL_SIZES, LENGTHS, FEATURES, [t.name for t in EventType], list(EventType)))
    found = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    assert (TOKENS_VERSION, FEATURES_VERSION, found) == (2, 2, "d13995c84560868e")
