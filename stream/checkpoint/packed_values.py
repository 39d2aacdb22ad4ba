"""Packed values: the layout of a user's changelog value, and how its parts are found again.

Layout, little-endian: version (u1) · USER · history entries, oldest first · seen identities, oldest first ·
number of used buckets (u1) · for each: slot (u1), BUCKET · offsets of reviews that await their sentiment (i8 each).
Only what is used is written, so the length of a value depends on how active its user is: 118 bytes after one event,
about 1.5 KB with a full history.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from stream.arrays import BucketRows, Counts, Mask, Offsets, Slots, UserRows
from stream.checkpoint.byte_strings import ByteStrings, every_slice
from stream.contract.columns import (
    BUCKET,
    BUCKET_SLOTS,
    FRESH_USER,
    HISTORY,
    HISTORY_LEN,
    IDLE_AGES_S,
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
#: Version and applied offset. Every value begins with them, whatever its version.
_BEGINNING: Final = struct.Struct("<xq")


class PackedValues(NamedTuple):
    """Values in ``data``: where each starts, its size, and at which of its bytes its buckets end.

    ``lengths`` is the length of both rings of each user: they fill alike, as both keep 64. ``buckets`` (dtype
    ``USED_BUCKET``) are the buckets of all users, and ``bucketed`` says which value each of them is from.
    """

    data: bytes | memoryview
    starts: Slots
    sizes: Counts
    ends: Slots
    heads: UserRows
    lengths: Counts
    bucketed: Slots
    buckets: BucketRows

    @classmethod
    def parse(cls, values: ByteStrings) -> PackedValues:
        """Find the parts of these values. Raises ContractError for an unknown version or a damaged value."""
        values = _of_this_version(values)
        data, starts, sizes = values.data, values.starts, values.sizes
        heads: UserRows = every_slice(data, USER.itemsize)[starts + 1].view(USER)
        lengths: Counts = np.minimum(heads["history_len"], HISTORY_LEN).astype(np.int64)
        number_at = HEAD_BYTES + lengths * RING_BYTES
        n_buckets: Counts = np.frombuffer(data, np.uint8)[starts + number_at].astype(np.int64)
        ends = number_at + 1 + n_buckets * USED_BUCKET.itemsize
        whole = _are_plausible(heads) & (ends <= sizes) & ((sizes - ends) % 8 == 0)
        n_buckets[~whole] = 0
        bucketed = np.repeat(np.arange(len(values)), n_buckets)
        nth = np.arange(len(bucketed)) - np.repeat(np.cumsum(n_buckets) - n_buckets, n_buckets)
        bucket_at = (starts + number_at + 1)[bucketed] + nth * USED_BUCKET.itemsize
        buckets = every_slice(data, USED_BUCKET.itemsize)[bucket_at].view(USED_BUCKET)
        whole[bucketed[buckets["slot"] >= BUCKET_SLOTS]] = False
        _require_whole(whole)
        return cls(data, starts, sizes, ends, heads, lengths, bucketed, buckets)


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
    """Return a value of an older version as this version writes it. Columns that it lacks are those of a new user."""
    end = 1 + USER_BYTES[value[0]]
    return _VERSION + value[1:end] + _FRESH[end - 1 :] + value[end:]


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
