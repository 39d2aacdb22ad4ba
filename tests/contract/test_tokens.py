"""The model's inputs: names, sizes and order fit together, and none of them changes without a new version."""

from __future__ import annotations

import hashlib

from stream.contract.columns import HISTORY_LEN, WINDOWS
from stream.contract.events import N_TYPES, EventType
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


def test_inputs_change_only_with_their_version() -> None:
    """If you change them on purpose: raise the version, write the new digest here, train and export the demo model."""
    inputs = repr((CHANNEL_SIZES, LENGTHS, FEATURES, [t.name for t in EventType], list(EventType)))
    found = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    assert (TOKENS_VERSION, FEATURES_VERSION, found) == (2, 2, "d13995c84560868e")
