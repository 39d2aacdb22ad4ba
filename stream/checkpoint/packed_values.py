"""Packed values: the layout of a user's changelog value, and how its parts are found again.

Layout, little-endian: version (u1) · USER · history entries, oldest first · seen identities, oldest first ·
number of used buckets (u1) · for each: slot (u1), BUCKET · number of remembered orders (u1) · ORDER, oldest first ·
offsets of reviews that await their sentiment (i8 each). Only what is used is written, so the length of a value depends
on how active its user is: 126 bytes after one event, about 1.7 KB with a full history.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from stream.arrays import BucketRows, Counts, Mask, Numbers, Offsets, OrderRows, Slots, UserRows
from stream.checkpoint.byte_strings import ByteStrings, every_slice
from stream.contract.columns import (
    BUCKET,
    BUCKET_SLOTS,
    FRESH_USER,
    HISTORY,
    HISTORY_LEN,
    HISTORY_VALUE_32,
    IDLE_AGES_S,
    ORDER,
    ORDERS_LEN,
    SEEN_LEN,
    STATE_VERSION,
    USER,
    USER_BYTES,
)
from stream.errors import ContractError

__all__ = ["HEAD_BYTES", "RING_BYTES", "ROOM", "USED_BUCKET", "PackedValues", "applied_offset", "applied_offsets"]

#: Bytes of the version and of ``USER``, with which a value begins.
HEAD_BYTES: Final = 1 + USER.itemsize
#: Bytes of one event in both rings: its history entry and its identity.
RING_BYTES: Final = HISTORY.itemsize + 8
#: Bytes from the beginning of a value that are read to find its length. A damaged value may have fewer.
ROOM: Final = HEAD_BYTES + SEEN_LEN * RING_BYTES + 1
#: One used bucket, as it is written.
USED_BUCKET: Final = np.dtype([("slot", "u1"), ("bucket", BUCKET)])
_VERSION: Final = bytes([STATE_VERSION])
_FRESH: Final = FRESH_USER.tobytes()
_HISTORY_LEN_AT: Final = 1 + USER.fields["history_len"][1]  # type: ignore[index]  # mypy: a dtype may have no fields
#: Version and applied offset. Every value begins with them, whatever its version.
_BEGINNING: Final = struct.Struct("<xq")


class PackedValues(NamedTuple):
    """Values in ``data``: where each starts, its size, and at which of its bytes its orders end.

    ``lengths`` is the length of both rings of each user: they fill alike, as both keep 64. ``buckets`` (dtype
    ``USED_BUCKET``) are the buckets of all users, and ``bucketed`` says which value each of them is from. So do
    ``orders`` and ``ordered``; ``order_slots`` is the place of each among the orders of its user.
    """

    data: bytes | memoryview
    starts: Slots
    sizes: Counts
    ends: Slots
    heads: UserRows
    lengths: Counts
    bucketed: Slots
    buckets: BucketRows
    ordered: Slots
    order_slots: Slots
    orders: OrderRows

    @classmethod
    def parse(cls, values: ByteStrings) -> PackedValues:
        """Find the parts of these values. Raises ContractError for an unknown version or a damaged value."""
        values = _of_this_version(values)
        data, starts, sizes = values.data, values.starts, values.sizes
        heads: UserRows = every_slice(data, USER.itemsize)[starts + 1].view(USER)
        lengths: Counts = np.minimum(heads["history_len"], HISTORY_LEN).astype(np.int64)
        number_at = HEAD_BYTES + lengths * RING_BYTES
        whole = _are_plausible(heads)
        bucketed, _, buckets, orders_at = _items(values, number_at, USED_BUCKET, whole)
        ordered, order_slots, orders, ends = _items(values, orders_at, ORDER, whole)
        whole &= (sizes - ends) % 8 == 0
        whole[bucketed[buckets["slot"] >= BUCKET_SLOTS]] = False
        whole[ordered[order_slots >= ORDERS_LEN]] = False
        _require_whole(whole)
        return cls(data, starts, sizes, ends, heads, lengths, bucketed, buckets, ordered, order_slots, orders)


def _items(values: ByteStrings, at: Slots, item: np.dtype[np.void], whole: Mask) -> tuple[Slots, Slots, Numbers, Slots]:
    """Find the items behind a count (u1) that stands at byte ``at`` (n,) of each value.

    Returns, for each item, the value that it is from, its place among the items of that value, and the item; then the
    byte of each value at which its items end. A value that is too short for them is not ``whole`` any more.
    """
    whole &= at < values.sizes
    counts = np.frombuffer(values.data, np.uint8)[np.where(whole, values.starts + at, 0)].astype(np.int64)
    ends = at + 1 + counts * item.itemsize
    whole &= ends <= values.sizes
    counts[~whole] = 0
    owners = np.repeat(np.arange(len(values)), counts)
    nth = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = (values.starts + at + 1)[owners] + nth * item.itemsize
    return owners, nth, every_slice(values.data, item.itemsize)[begin].view(item), ends


def _of_this_version(values: ByteStrings) -> ByteStrings:
    """Return the values as this release writes them, with room behind them to look for the parts of a cut value."""
    data = values.data
    if len(data) < values.starts.max(initial=0) + ROOM:
        data = bytes(data) + bytes(ROOM)
    versions = np.where(values.sizes > 0, np.frombuffer(data, np.uint8)[values.starts], 0)
    if (versions == STATE_VERSION).all():
        return replace(values, data=data)
    _require_known(set(versions.tolist()))
    upgraded = ByteStrings.joined([v if v[0] == STATE_VERSION else _upgraded(v) for v in values.strings()])
    return replace(upgraded, data=bytes(upgraded.data) + bytes(ROOM))


def _require_known(versions: set[int]) -> None:
    unknown = versions - set(USER_BYTES)
    if unknown:
        raise ContractError(
            f"state version is {max(unknown)}, this build reads {min(USER_BYTES)} to {STATE_VERSION}; "
            "run the release that wrote it, or start with a new --app-id"
        )


def _upgraded(value: bytes) -> bytes:
    """Return a value of an older version as this version writes it. Columns that it lacks are those of a new user.

    Of a value that was cut only the version is returned, which is no value.
    """
    user_end = 1 + USER_BYTES[value[0]]
    if len(value) < user_end:
        return _VERSION
    length = min(value[_HISTORY_LEN_AT], HISTORY_LEN)
    history_end = user_end + length * HISTORY_VALUE_32.itemsize
    number_at = history_end + length * 8
    if len(value) <= number_at:
        return _VERSION
    buckets_end = number_at + 1 + value[number_at] * USED_BUCKET.itemsize
    history = np.frombuffer(value, HISTORY_VALUE_32, length, user_end).astype(HISTORY).tobytes()
    no_orders = b"\0" if len(value) >= buckets_end else b""
    user = value[1:user_end] + _FRESH[user_end - 1 :]
    return _VERSION + user + history + value[history_end:buckets_end] + no_orders + value[buckets_end:]


def _are_plausible(heads: UserRows) -> Mask:
    """Return which of these users can have been packed: their counts agree with each other."""
    kept, seen = np.minimum(heads["n_events"], HISTORY_LEN), np.minimum(heads["n_events"], SEEN_LEN)
    plausible: Mask = (heads["history_len"] == kept) & (heads["history_next"] == kept % HISTORY_LEN)
    plausible &= (heads["seen_len"] == seen) & (heads["seen_next"] == seen % SEEN_LEN)
    plausible &= heads["idle_stage"] < len(IDLE_AGES_S)
    return plausible


def _require_whole(whole: Mask) -> None:
    n_damaged = len(whole) - int(np.count_nonzero(whole))
    if n_damaged:
        raise ContractError(
            f"state of {n_damaged} of {len(whole)} users is damaged: its length is not what it says, expected values"
            " as they were packed; delete --data-dir to rebuild it from the changelog, or start with a new --app-id"
        )


def applied_offset(value: bytes) -> int:
    """Return the source offset of the last event that a packed user has seen; every version begins with it."""
    offset: int = _BEGINNING.unpack_from(value)[0]
    return offset


def applied_offsets(values: ByteStrings) -> Offsets:
    """Return :func:`applied_offset` of each value, or -1 for a value that is too short to have one; shape ``(n,)``."""
    offsets, has_one = np.full(len(values), -1, np.int64), values.sizes >= _BEGINNING.size
    offsets[has_one] = every_slice(values.data, 8)[values.starts[has_one] + 1].view("<i8")
    return offsets
