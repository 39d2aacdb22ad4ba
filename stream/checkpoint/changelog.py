"""Changelog values: one packed, versioned value per user, written at each checkpoint and read at recovery.

Layout, little-endian: version (u1) · USER · history entries, oldest first · seen identities, oldest first ·
number of used buckets (u1) · for each: slot (u1), BUCKET · offsets of reviews that await their sentiment (i8 each).
Only what is used is written, so a value is as long as its user is active: 118 bytes after one event, about 1.5 KB
with a full history. An erased user's value is a tombstone, beside which a marker stays:
see :mod:`stream.state.erasure`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from stream.checkpoint.byte_strings import ByteStrings, cut, every_slice
from stream.checkpoint.journal_blocks import Users
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
from stream.outgoing import OutgoingLike
from stream.state.erasure import Erasures, marker_key, read_marker
from stream.state.partition_state import PartitionState
from stream.state.rings import beginnings, oldest_first, opaque, opaque_rows
from stream.state.runs import Runs, distinct

__all__ = [
    "ROOM",
    "applied_offset",
    "applied_offsets",
    "erased",
    "load",
    "load_strings",
    "pack",
    "records_of",
]

Array = npt.NDArray[Any]
_VERSION = bytes([STATE_VERSION])
_RING_BYTES: Final = HISTORY.itemsize + 8
_FRESH = FRESH_USER.tobytes()
_HEAD_BYTES = 1 + USER.itemsize
#: Bytes from the beginning of a value on in which what it says of its length is looked for.
ROOM: Final = _HEAD_BYTES + SEEN_LEN * _RING_BYTES + 1
#: Version and applied offset, with which every value begins.
_BEGINNING: Final = struct.Struct("<xq")
_USED_BUCKET = np.dtype([("slot", "u1"), ("bucket", BUCKET)])


def pack(state: PartitionState, rows: Array) -> list[bytes]:
    """Packed values of these rows, in their order."""
    users = opaque(state.users)[rows].view(USER)
    lengths, rest = users["history_len"].astype(np.int64), _Rest.of(state, rows)
    ring_bytes = lengths * _RING_BYTES
    sizes = _HEAD_BYTES + ring_bytes + rest.sizes
    starts = np.cumsum(sizes) - sizes
    data = np.empty(int(sizes.sum()), np.uint8)
    _put_rings(state, rows, users, starts + _HEAD_BYTES, data)
    rest.put(starts + _HEAD_BYTES + ring_bytes, data)
    # The rings are written from their oldest entry on, so their next slots are those of a ring that begins at 0.
    users["history_next"] = users["seen_next"] = lengths % HISTORY_LEN
    data[starts] = STATE_VERSION
    every_slice(data, USER.itemsize)[starts + 1] = opaque(users)
    return cut(data.tobytes(), sizes)


def _put_rings(state: PartitionState, rows: Array, users: Array, at: Array, data: Array) -> None:
    """Write the entries of both rings of each user, oldest first; rings of like length are copied together."""
    order = users["history_len"].argsort(kind="stable")
    order = order[np.count_nonzero(users["history_len"] == 0) :]
    lengths, rows, at = users["history_len"][order], rows[order], at[order]
    for alike in Runs.within(lengths).slices():
        length = int(lengths[alike.start])
        for rings, following in ((state.history, "history_next"), (state.seen, "seen_next")):
            n_bytes = length * rings.itemsize
            if length < rings.shape[1]:
                entries = beginnings(rings, n_bytes)[rows[alike]]
            else:
                entries = opaque_rows(oldest_first(rings, rows[alike], users[following][order[alike]]))
            every_slice(data, n_bytes)[at[alike]] = entries
            at[alike] += n_bytes


class _Rest(NamedTuple):
    """What follows the rings of each user: the number of used buckets, these, and offsets of awaited sentiments.

    ``buckets`` (``_USED_BUCKET``) are those of all users, ``n_buckets`` how many of them each has; ``awaited`` is what
    else some have, by their place among the rows; ``sizes`` are all bytes of each.
    """

    buckets: Array
    n_buckets: Array
    awaited: dict[int, bytes]
    sizes: Array

    @classmethod
    def of(cls, state: PartitionState, rows: Array) -> _Rest:
        bucketed, buckets = state.buckets.take(rows)
        whose, slots = buckets["number"].nonzero()
        used = np.zeros(len(whose), _USED_BUCKET)
        used["slot"], used["bucket"] = slots, buckets[whose, slots]
        n_buckets = np.bincount(bucketed[whose], minlength=len(rows))
        sizes = 1 + n_buckets * _USED_BUCKET.itemsize
        awaited = {}
        if state.awaited:
            of = ((i, state.awaited.get(row)) for i, row in enumerate(rows.tolist()))
            awaited = {i: np.array(waiting, "<i8").tobytes() for i, waiting in of if waiting}
            for i, offsets in awaited.items():
                sizes[i] += len(offsets)
        return cls(used, n_buckets, awaited, sizes)

    def put(self, at: Array, data: Array) -> None:
        """Write it, of each user at this place."""
        data[at] = self.n_buckets
        nth = np.arange(len(self.buckets)) - np.repeat(np.cumsum(self.n_buckets) - self.n_buckets, self.n_buckets)
        size = _USED_BUCKET.itemsize
        if len(nth):
            every_slice(data, size)[np.repeat(at + 1, self.n_buckets) + nth * size] = opaque(self.buckets)
        for i, offsets in self.awaited.items():
            end = int(at[i] + self.sizes[i])
            data[end - len(offsets) : end] = np.frombuffer(offsets, np.uint8)


def erased(state: PartitionState, users: Iterable[str]) -> list[tuple[bytes, bytes | None]]:
    """Keys and values of erased users: a marker of each, and a tombstone for those who did not come back."""
    items: list[tuple[bytes, bytes | None]] = []
    for user in dict.fromkeys(users):
        marker = state.erasures.marker_of(user)
        if marker is not None:
            items.append((marker_key(user).encode(), marker.packed()))
        if state.index.row(user) < 0:
            items.append((user.encode(), None))
    return items


def records_of(users: Users) -> Iterator[OutgoingLike]:
    """Make the changelog record of each user; a user who was erased gets a tombstone."""
    return zip(users.keys, users.values, repeat(()), repeat(None))


def load(state: PartitionState, users: list[str], values: list[bytes]) -> Array:
    """Set users to what :func:`pack` wrote, and note the markers among them; returns the users' rows.

    Keys and values may come in any order and any parts, each key once in a call; a user whose value an erasure covers
    has no row. Raises ContractError for another version, and for values that were cut or altered.
    """
    return load_strings(state, users, ByteStrings.joined(values))


def load_strings(state: PartitionState, users: list[str], values: ByteStrings, *, all_new: bool = False) -> Array:
    """The same for values that lie in one piece of memory; ``all_new`` where the state has none of the users."""
    markers: dict[str, bytes] = {}
    if Erasures.any_marker(users):
        strings = values.strings()
        markers = {key: value for key, value in zip(users, strings, strict=True) if Erasures.is_marker(key)}
        values = ByteStrings.joined([value for key, value in zip(users, strings, strict=True) if key not in markers])
        users = [key for key in users if key not in markers]
    for key, value in markers.items():
        state.erasures.put(key, read_marker(value))
    rows = _load_users(state, users, values, all_new)
    if markers:
        state.drop_erased(np.flatnonzero(state.living(np.arange(len(state)))))
    else:
        state.drop_erased(rows[state.returned[rows]])
    return rows[state.living(rows)]


def _load_users(state: PartitionState, users: list[str], values: ByteStrings, all_new: bool) -> Array:
    if not users:
        return np.zeros(0, np.int64)
    packed = _Packed.of(values)
    rows = state.add(users) if all_new else _rows(state, users)
    opaque(state.users)[rows] = opaque(packed.heads)
    # Values of like length are copied together, a piece of memory for each user.
    for length in distinct(packed.lengths[packed.lengths > 0]).tolist():
        alike = np.flatnonzero(packed.lengths == length)
        begin = packed.starts[alike] + _HEAD_BYTES
        history_bytes, seen_bytes = length * HISTORY.itemsize, length * state.seen.itemsize
        beginnings(state.history, history_bytes)[rows[alike]] = every_slice(packed.data, history_bytes)[begin]
        beginnings(state.seen, seen_bytes)[rows[alike]] = every_slice(packed.data, seen_bytes)[begin + history_bytes]
    state.buckets.put(rows[packed.bucketed], packed.buckets["slot"], packed.buckets["bucket"])
    for i in np.flatnonzero(packed.ends < packed.sizes).tolist():
        start, n_bytes = int(packed.starts[i] + packed.ends[i]), int(packed.sizes[i] - packed.ends[i])
        state.awaited[int(rows[i])] = np.frombuffer(packed.data, "<i8", n_bytes // 8, start).tolist()
    return rows


def _rows(state: PartitionState, users: list[str]) -> Array:
    """Rows of users, without what a value leaves out where a user has none of it: buckets, and awaited sentiments."""
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

    data: bytes | memoryview
    starts: Array
    sizes: Array
    ends: Array
    heads: Array
    lengths: Array
    bucketed: Array
    buckets: Array

    @classmethod
    def of(cls, values: ByteStrings) -> _Packed:
        """Find the parts of these values. Raises ContractError for another version, and where they are damaged."""
        values = _of_this_version(values)
        data, starts, sizes = values.data, values.starts, values.sizes
        heads = every_slice(data, USER.itemsize)[starts + 1].view(USER)
        lengths = np.minimum(heads["history_len"], HISTORY_LEN).astype(np.int64)
        number_at = _HEAD_BYTES + lengths * _RING_BYTES
        n_buckets = np.frombuffer(data, np.uint8)[starts + number_at].astype(np.int64)
        ends = number_at + 1 + n_buckets * _USED_BUCKET.itemsize
        whole = _sane(heads) & (ends <= sizes) & ((sizes - ends) % 8 == 0)
        n_buckets[~whole] = 0
        bucketed = np.repeat(np.arange(len(values)), n_buckets)
        nth = np.arange(len(bucketed)) - np.repeat(np.cumsum(n_buckets) - n_buckets, n_buckets)
        bucket_at = (starts + number_at + 1)[bucketed] + nth * _USED_BUCKET.itemsize
        buckets = every_slice(data, _USED_BUCKET.itemsize)[bucket_at].view(_USED_BUCKET)
        whole[bucketed[buckets["slot"] >= BUCKET_SLOTS]] = False
        _check_whole(whole)
        return cls(data, starts, sizes, ends, heads, lengths, bucketed, buckets)


def _of_this_version(values: ByteStrings) -> ByteStrings:
    """The same as this release writes them, with room to look for what a value that was cut lacks."""
    data = values.data
    if len(data) < values.starts.max(initial=0) + ROOM:
        data = bytes(data) + bytes(ROOM)
    versions = np.where(values.sizes > 0, np.frombuffer(data, np.uint8)[values.starts], 0)
    if (versions == STATE_VERSION).all():
        return replace(values, data=data)
    _check_versions(set(versions.tolist()))
    upgraded = ByteStrings.joined([v if v[0] == STATE_VERSION else _upgraded(v) for v in values.strings()])
    return replace(upgraded, data=bytes(upgraded.data) + bytes(ROOM))


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


def applied_offsets(values: ByteStrings) -> Array:
    """:func:`applied_offset` of each of these values, -1 where one is too short to have any; shape ``(n,)``."""
    offsets, has_one = np.full(len(values), -1, np.int64), values.sizes >= _BEGINNING.size
    offsets[has_one] = every_slice(values.data, 8)[values.starts[has_one] + 1].view("<i8")
    return offsets
