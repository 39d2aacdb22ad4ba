"""Changelog values: one packed, versioned value per user, written at each checkpoint and read at recovery.

Layout, little-endian: version (u1) · USER · history entries, oldest first · seen identities, oldest first ·
number of used buckets (u1) · for each: slot (u1), BUCKET · offsets of reviews that await their sentiment (i8 each).
Only what is used is written, so a value is as long as its user is active: 118 bytes after one event, about 1.5 KB
with a full history. An erased user's value is a tombstone, beside which a marker stays: see :mod:`stream.erasure`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

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
from stream.state import PartitionState

__all__ = ["applied_offset", "erased", "load", "pack"]

Array = npt.NDArray[Any]
_VERSION = bytes([STATE_VERSION])
_FRESH = FRESH_USER.tobytes()
_USED_BUCKET = np.dtype([("slot", "u1"), ("bucket", BUCKET)])


def pack(state: PartitionState, rows: Array) -> list[bytes]:
    """Packed values of these rows, in their order."""
    users = state.users[rows]
    histories = _unrolled(state.history, rows, users["history_len"], users["history_next"]).tobytes()
    identities = _unrolled(state.seen, rows, users["seen_len"], users["seen_next"]).tobytes()
    # The rings are written unrolled, so their next slots are those of a ring that begins at 0.
    users["history_next"] = users["history_len"] % HISTORY_LEN
    users["seen_next"] = users["seen_len"] % SEEN_LEN
    heads = users.tobytes()
    bucketed, buckets = state.buckets.take(rows)
    tails = dict(zip(bucketed.tolist(), map(_pack_buckets, buckets), strict=True))
    if state.awaited:
        for i, row in enumerate(rows.tolist()):
            if row in state.awaited:
                tails[i] = tails.get(i, b"\0") + np.array(state.awaited[row], "<i8").tobytes()
    history_ends = (np.cumsum(users["history_len"], dtype=np.int64) * HISTORY.itemsize).tolist()
    seen_ends = (np.cumsum(users["seen_len"], dtype=np.int64) * 8).tolist()

    values, h0, s0, size = [], 0, 0, USER.itemsize
    for i, (h1, s1) in enumerate(zip(history_ends, seen_ends, strict=True)):
        head = heads[i * size : (i + 1) * size]
        values.append(b"".join((_VERSION, head, histories[h0:h1], identities[s0:s1], tails.get(i, b"\0"))))
        h0, s0 = h1, s1
    return values


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


def _unrolled(rings: Array, rows: Array, lengths: Array, following: Array) -> Array:
    """The valid entries of these rings, oldest first, one ring after the other."""
    size = rings.shape[1]
    ends = np.cumsum(lengths, dtype=np.int64)
    first = np.where(lengths == size, following, 0) - (ends - lengths)
    flat: Array = rings[
        np.repeat(rows, lengths), (np.arange(ends[-1] if len(ends) else 0) + np.repeat(first, lengths)) % size
    ]
    return flat


def _pack_buckets(buckets: Array) -> bytes:
    used = np.flatnonzero(buckets["number"])
    out = np.zeros(len(used), _USED_BUCKET)
    out["slot"] = used
    out["bucket"] = buckets[used]
    return bytes([len(used)]) + out.tobytes()


def load(state: PartitionState, users: list[str], values: list[bytes]) -> Array:
    """Set users to what :func:`pack` wrote, and note the markers among them; returns the users' rows.

    Keys and values may come in any order and any parts; a user whose value an erasure covers has no row. Raises
    ContractError for another version.
    """
    markers = {key: value for key, value in zip(users, values, strict=True) if Erasures.is_marker(key)}
    if markers:
        values = [value for key, value in zip(users, values, strict=True) if key not in markers]
        users = [key for key in users if key not in markers]
    for key, value in markers.items():
        state.erasures.put(key, read_marker(value))
    rows = _load_users(state, users, values)
    if markers:
        state.drop_erased(np.flatnonzero(state.living(np.arange(len(state)))))
    else:
        state.drop_erased(rows[state.returned[rows]])
    return rows[state.living(rows)]


def _load_users(state: PartitionState, users: list[str], values: list[bytes]) -> Array:
    if not users:
        return np.zeros(0, np.int64)
    _check_versions(values)
    values = [value if value[0] == STATE_VERSION else _upgraded(value) for value in values]
    rows = state.rows_of(users)
    size = USER.itemsize
    heads = np.frombuffer(b"".join([v[1 : 1 + size].ljust(size, b"\xff") for v in values]), USER)
    h_bytes = (heads["history_len"].astype(np.int64) * HISTORY.itemsize).tolist()
    s_bytes = (heads["seen_len"].astype(np.int64) * 8).tolist()
    start = 1 + size
    _check_whole(values, heads, [start + h + s for h, s in zip(h_bytes, s_bytes, strict=True)])
    histories = b"".join([v[start : start + h] for v, h in zip(values, h_bytes, strict=True)])
    identities = b"".join([v[start + h : start + h + s] for v, h, s in zip(values, h_bytes, s_bytes, strict=True)])
    _scatter(state.history, rows, heads["history_len"], np.frombuffer(histories, HISTORY))
    _scatter(state.seen, rows, heads["seen_len"], np.frombuffer(identities, np.uint64))
    state.users[rows] = heads
    for row, value, h, s in zip(rows.tolist(), values, h_bytes, s_bytes, strict=True):
        first = start + h + s + 1
        end = first + value[first - 1] * _USED_BUCKET.itemsize
        if end > first:
            state.buckets.put(row, _unpack_buckets(value[first:end]))
        if len(value) > end:
            state.awaited[row] = np.frombuffer(value[end:], "<i8").tolist()
    return rows


def _check_versions(values: list[bytes]) -> None:
    others = {v[0] if v else 0 for v in values} - set(USER_BYTES)
    if others:
        raise ContractError(
            f"state version is {max(others)}, this build reads {min(USER_BYTES)} to {STATE_VERSION}; "
            "run the release that wrote it, or start with a new --app-id"
        )


def _check_whole(values: list[bytes], heads: Array, bucket_counts: list[int]) -> None:
    """Refuse values that were cut or altered; ``bucket_counts`` is where the number of buckets stands in each."""
    kept, seen = np.minimum(heads["n_events"], HISTORY_LEN), np.minimum(heads["n_events"], SEEN_LEN)
    sane = (heads["history_len"] == kept) & (heads["history_next"] == kept % HISTORY_LEN)
    sane &= (heads["seen_len"] == seen) & (heads["seen_next"] == seen % SEEN_LEN)
    sane &= heads["idle_stage"] < len(IDLE_AGES_S)
    n = sum(not (ok and _whole(v, at)) for v, ok, at in zip(values, sane.tolist(), bucket_counts, strict=True))
    if n:
        raise ContractError(
            f"state of {n} of {len(values)} users is damaged: its length is not what it says, expected values as they "
            "were packed; delete --data-dir to rebuild it from the changelog, or start with a new --app-id"
        )


def _whole(value: bytes, bucket_count: int) -> bool:
    if bucket_count >= len(value):
        return False
    end = bucket_count + 1 + value[bucket_count] * _USED_BUCKET.itemsize
    slots = value[bucket_count + 1 : end : _USED_BUCKET.itemsize]
    return end <= len(value) and (len(value) - end) % 8 == 0 and max(slots, default=0) < BUCKET_SLOTS


def _upgraded(value: bytes) -> bytes:
    """A value of an older version as this one would have written it: the columns it lacks are those of a new user."""
    end = 1 + USER_BYTES[value[0]]
    return _VERSION + value[1:end] + _FRESH[end - 1 :] + value[end:]


def applied_offset(value: bytes) -> int:
    """The source offset of the last event that a packed user has seen; it comes first in ``USER``, in every version."""
    return int.from_bytes(value[1:9], "little", signed=True)


def _scatter(target: Array, rows: Array, lengths: Array, flat: Array) -> None:
    ends = np.cumsum(lengths, dtype=np.int64)
    slots = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)
    target[np.repeat(rows, lengths), slots] = flat


def _unpack_buckets(data: bytes) -> Array:
    used = np.frombuffer(data, _USED_BUCKET)
    buckets = np.zeros(BUCKET_SLOTS, BUCKET)
    buckets[used["slot"]] = used["bucket"]
    return buckets
