"""Changelog values: one packed, versioned value per user, written at each checkpoint and read at recovery.

Layout, little-endian: version (u1) · USER · history entries, oldest first · seen identities, oldest first ·
number of used buckets (u1) · for each: slot (u1), BUCKET · offsets of reviews that await their sentiment (i8 each).
Only what is used is written, so a value is as long as its user is active: 118 bytes after one event, about 1.5 KB
with a full history. An erased user's value is a tombstone, beside which a marker stays: see :mod:`stream.erasure`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from itertools import repeat
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from stream.blob import Blob, cut, windows
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
from stream.erasure import Erasures, marker_key, read_marker
from stream.errors import ContractError
from stream.rings import distinct, opaque
from stream.state import PartitionState

__all__ = ["applied_offset", "applied_offsets", "erased", "load", "load_blob", "pack"]

Array = npt.NDArray[Any]
_VERSION = bytes([STATE_VERSION])
_FRESH = FRESH_USER.tobytes()
_HEAD_BYTES = 1 + USER.itemsize
_ROOM = bytes(_HEAD_BYTES + SEEN_LEN * (HISTORY.itemsize + 8) + 1)
#: Version and applied offset, with which every value begins.
_BEGINNING: Final = struct.Struct("<xq")
_USED_BUCKET = np.dtype([("slot", "u1"), ("bucket", BUCKET)])


def pack(state: PartitionState, rows: Array) -> list[bytes]:
    """Packed values of these rows, in their order."""
    users = opaque(state.users)[rows].view(USER)
    histories = _unrolled(state.history, rows, users["history_len"], users["history_next"])
    identities = _unrolled(state.seen, rows, users["seen_len"], users["seen_next"])
    # The rings are written unrolled, so their next slots are those of a ring that begins at 0.
    users["history_next"] = users["history_len"] % HISTORY_LEN
    users["seen_next"] = users["seen_len"] % SEEN_LEN
    heads = cut(users.tobytes(), np.full(len(users), USER.itemsize))
    return list(map(b"".join, zip(repeat(_VERSION), heads, histories, identities, _tails(state, rows))))


def _tails(state: PartitionState, rows: Array) -> list[bytes]:
    """What follows the rings of each user: buckets, and offsets of awaited sentiments."""
    tails = [b"\0"] * len(rows)
    bucketed, buckets = state.buckets.take(rows)
    for i, used in zip(bucketed.tolist(), map(_pack_buckets, buckets), strict=True):
        tails[i] = used
    if state.awaited:
        for i, row in enumerate(rows.tolist()):
            if row in state.awaited:
                tails[i] += np.array(state.awaited[row], "<i8").tobytes()
    return tails


def erased(state: PartitionState, users: Iterable[str]) -> list[tuple[bytes, bytes | None]]:
    """Keys and values of erased users: a marker of each, and a tombstone for those who did not come back."""
    items: list[tuple[bytes, bytes | None]] = []
    for user in dict.fromkeys(users):
        marker = state.erasures.of(user)
        if marker is not None:
            items.append((marker_key(user).encode(), marker.packed()))
        if user not in state.index:
            items.append((user.encode(), None))
    return items


def _unrolled(rings: Array, rows: Array, lengths: Array, following: Array) -> list[bytes]:
    """The valid entries of each of these rings, oldest first."""
    size = rings.shape[1]
    ends = np.cumsum(lengths, dtype=np.int64)
    first = np.where(lengths == size, following, 0) - (ends - lengths)
    slots = (np.arange(ends[-1] if len(ends) else 0) + np.repeat(first, lengths)) % size
    entries = opaque(rings)[np.repeat(rows, lengths) * size + slots]
    return cut(entries.tobytes(), lengths.astype(np.int64) * rings.itemsize)


def _pack_buckets(buckets: Array) -> bytes:
    used = np.flatnonzero(buckets["number"])
    out = np.zeros(len(used), _USED_BUCKET)
    out["slot"] = used
    out["bucket"] = buckets[used]
    return bytes([len(used)]) + out.tobytes()


def load(state: PartitionState, users: list[str], values: list[bytes]) -> Array:
    """Set users to what :func:`pack` wrote, and note the markers among them; returns the users' rows.

    Keys and values may come in any order and any parts, each key once in a call; a user whose value an erasure covers
    has no row. Raises ContractError for another version, and for values that were cut or altered.
    """
    return load_blob(state, users, Blob.of(values))


def load_blob(state: PartitionState, users: list[str], values: Blob) -> Array:
    """The same for values that lie in one piece of memory."""
    markers: dict[str, bytes] = {}
    if Erasures.any_marker(users):
        strings = values.strings()
        markers = {key: value for key, value in zip(users, strings, strict=True) if Erasures.is_marker(key)}
        values = Blob.of([value for key, value in zip(users, strings, strict=True) if key not in markers])
        users = [key for key in users if key not in markers]
    for key, value in markers.items():
        state.erasures.put(key, read_marker(value))
    rows = _load_users(state, users, values)
    if markers:
        state.drop_erased(np.flatnonzero(state.living(np.arange(len(state)))))
    else:
        state.drop_erased(rows[state.returned[rows]])
    return rows[state.living(rows)]


def _load_users(state: PartitionState, users: list[str], values: Blob) -> Array:
    if not users:
        return np.zeros(0, np.int64)
    packed = _Packed.of(values)
    rows = _rows(state, users)
    opaque(state.users)[rows] = opaque(packed.heads)
    # Values of like length are copied together, a piece of memory for each user.
    for length in distinct(packed.lengths[packed.lengths > 0]).tolist():
        alike = np.flatnonzero(packed.lengths == length)
        begin = packed.starts[alike] + _HEAD_BYTES
        history_bytes, seen_bytes = length * HISTORY.itemsize, length * state.seen.itemsize
        _beginnings(state.history, history_bytes)[rows[alike]] = windows(packed.data, history_bytes)[begin]
        _beginnings(state.seen, seen_bytes)[rows[alike]] = windows(packed.data, seen_bytes)[begin + history_bytes]
    state.buckets.put(rows[packed.bucketed], packed.buckets["slot"], packed.buckets["bucket"])
    for i in np.flatnonzero(packed.ends < packed.sizes).tolist():
        start, n_bytes = int(packed.starts[i] + packed.ends[i]), int(packed.sizes[i] - packed.ends[i])
        state.awaited[int(rows[i])] = np.frombuffer(packed.data, "<i8", n_bytes // 8, start).tolist()
    return rows


def _rows(state: PartitionState, users: list[str]) -> Array:
    """Rows of users, without what a value leaves out where a user has none of it: buckets, and awaited sentiments."""
    if state.index.keys().isdisjoint(users):
        return state.add(users)
    n_known = len(state)
    rows = state.rows_of(users)
    state.buckets.clear(rows[rows < n_known])
    if state.awaited:
        for row in rows.tolist():
            state.awaited.pop(row, None)
    return rows


class _Packed(NamedTuple):
    """Values in ``data``: where they start, their sizes, and where their buckets end in them.

    ``lengths`` are those of both rings of each user: they fill alike, as both keep 64. ``buckets`` (``_USED_BUCKET``)
    are those of all users, and ``bucketed`` says whose each is.
    """

    data: bytes
    starts: Array
    sizes: Array
    ends: Array
    heads: Array
    lengths: Array
    bucketed: Array
    buckets: Array

    @classmethod
    def of(cls, values: Blob) -> _Packed:
        """Find the parts of these values. Raises ContractError for another version, and where they are damaged."""
        values = _of_this_version(values)
        data, starts, sizes = values.data, values.starts, values.sizes
        heads = windows(data, USER.itemsize)[starts + 1].view(USER)
        lengths = np.minimum(heads["history_len"], HISTORY_LEN).astype(np.int64)
        number_at = _HEAD_BYTES + lengths * (HISTORY.itemsize + 8)
        n_buckets = np.frombuffer(data, np.uint8)[starts + number_at].astype(np.int64)
        ends = number_at + 1 + n_buckets * _USED_BUCKET.itemsize
        whole = _sane(heads) & (ends <= sizes) & ((sizes - ends) % 8 == 0)
        n_buckets[~whole] = 0
        bucketed = np.repeat(np.arange(len(values)), n_buckets)
        nth = np.arange(len(bucketed)) - np.repeat(np.cumsum(n_buckets) - n_buckets, n_buckets)
        bucket_at = (starts + number_at + 1)[bucketed] + nth * _USED_BUCKET.itemsize
        buckets = windows(data, _USED_BUCKET.itemsize)[bucket_at].view(_USED_BUCKET)
        whole[bucketed[buckets["slot"] >= BUCKET_SLOTS]] = False
        _check_whole(whole)
        return cls(data, starts, sizes, ends, heads, lengths, bucketed, buckets)


def _beginnings(rings: Array, size: int) -> Array:
    """The first bytes of every ring, as one item each."""
    return rings.view(np.uint8)[:, :size].view(f"V{size}")[:, 0]


def _of_this_version(values: Blob) -> Blob:
    """The same as this release writes them, with room behind the last to look for what a value that was cut lacks."""
    data = values.data + _ROOM
    versions = np.where(values.sizes > 0, np.frombuffer(data, np.uint8)[values.starts], 0)
    if (versions == STATE_VERSION).all():
        return replace(values, data=data)
    _check_versions(set(versions.tolist()))
    upgraded = Blob.of([v if v[0] == STATE_VERSION else _upgraded(v) for v in values.strings()])
    return replace(upgraded, data=upgraded.data + _ROOM)


def _check_versions(versions: set[int]) -> None:
    others = versions - set(USER_BYTES)
    if others:
        raise ContractError(
            f"state version is {max(others)}, this build reads {min(USER_BYTES)} to {STATE_VERSION}; "
            "run the release that wrote it, or start with a new --app-id"
        )


def _sane(heads: Array) -> Array:
    """Which of these users can have been packed."""
    kept, seen = np.minimum(heads["n_events"], HISTORY_LEN), np.minimum(heads["n_events"], SEEN_LEN)
    sane = (heads["history_len"] == kept) & (heads["history_next"] == kept % HISTORY_LEN)
    sane &= (heads["seen_len"] == seen) & (heads["seen_next"] == seen % SEEN_LEN)
    sane &= heads["idle_stage"] < len(IDLE_AGES_S)
    return cast("Array", sane)


def _check_whole(whole: Array) -> None:
    n = len(whole) - int(np.count_nonzero(whole))
    if n:
        raise ContractError(
            f"state of {n} of {len(whole)} users is damaged: its length is not what it says, expected values as they "
            "were packed; delete --data-dir to rebuild it from the changelog, or start with a new --app-id"
        )


def _upgraded(value: bytes) -> bytes:
    """A value of an older version as this one would have written it: the columns it lacks are those of a new user."""
    end = 1 + USER_BYTES[value[0]]
    return _VERSION + value[1:end] + _FRESH[end - 1 :] + value[end:]


def applied_offset(value: bytes) -> int:
    """The source offset of the last event that a packed user has seen; it comes first in ``USER``, in every version."""
    offset: int = _BEGINNING.unpack_from(value)[0]
    return offset


def applied_offsets(values: Blob) -> Array:
    """:func:`applied_offset` of each of these values, none of which is empty; shape ``(n,)``."""
    data = values.data + bytes(_BEGINNING.size)
    offsets: Array = windows(data, 8)[values.starts + 1].view("<i8")
    return offsets
