"""Changelog: packs the state of users into one versioned value each, and loads it again at recovery.

Each checkpoint writes the users that have changed. :mod:`stream.checkpoint.packed_values` has the layout of a value.
The value of an erased user becomes a tombstone, and a marker stays beside it; see :mod:`stream.state.erasure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

import numpy as np

from stream.arrays import BucketRows, Bytes, Counts, Numbers, OrderRows, Rows, Slots, UserRows
from stream.checkpoint.byte_strings import ByteStrings, cut, every_slice
from stream.checkpoint.journal_blocks import Users
from stream.checkpoint.packed_values import HEAD_BYTES, RING_BYTES, USED_BUCKET, PackedValues
from stream.contract.columns import HISTORY, HISTORY_LEN, ORDER, STATE_VERSION, USER
from stream.outgoing import OutgoingLike
from stream.state.currency import name_currency
from stream.state.erasure import Erasures, marker_key, read_marker
from stream.state.partition_state import PartitionState
from stream.state.rings import beginnings, oldest_first, opaque, opaque_rows
from stream.state.runs import Runs, distinct

__all__ = ["erased", "load", "load_strings", "pack", "records_of"]


# -- packing --------------------------------------------------------------------------------------------------


def pack(state: PartitionState, rows: Rows) -> list[bytes]:
    """Return the packed values of these rows, in their order."""
    users = opaque(state.users)[rows].view(USER)
    lengths, tails = users["history_len"].astype(np.int64), _Tails.read(state, rows)
    ring_bytes = lengths * RING_BYTES
    sizes = HEAD_BYTES + ring_bytes + tails.sizes
    starts = np.cumsum(sizes) - sizes
    data = np.empty(int(sizes.sum()), np.uint8)
    _put_rings(state, rows, users, at=starts + HEAD_BYTES, data=data)
    tails.put(starts + HEAD_BYTES + ring_bytes, data)
    # Rings are written from their oldest entry on, so a loaded ring begins at slot 0.
    users["history_next"] = users["seen_next"] = lengths % HISTORY_LEN
    data[starts] = STATE_VERSION
    every_slice(data, USER.itemsize)[starts + 1] = opaque(users)
    return cut(data.tobytes(), sizes)


def _put_rings(state: PartitionState, rows: Rows, users: UserRows, *, at: Slots, data: Bytes) -> None:
    """Write the entries of both rings of each user, oldest first, into ``data`` from place ``at`` on.

    Rings of the same length are copied together.
    """
    order = users["history_len"].argsort(kind="stable")
    order = order[np.count_nonzero(users["history_len"] == 0) :]
    lengths, rows, at = users["history_len"][order], rows[order], at[order]
    for same_length in Runs.within(lengths).slices():
        length = int(lengths[same_length.start])
        for rings, following in ((state.history, "history_next"), (state.seen, "seen_next")):
            n_bytes = length * rings.itemsize
            if length < rings.shape[1]:
                entries = beginnings(rings, n_bytes)[rows[same_length]]
            else:
                entries = opaque_rows(oldest_first(rings, rows[same_length], users[following][order[same_length]]))
            every_slice(data, n_bytes)[at[same_length]] = entries
            at[same_length] += n_bytes


class _Tails(NamedTuple):
    """What follows the rings of each user: used buckets and remembered orders, each after their number, and offsets.

    ``buckets`` (dtype ``USED_BUCKET``) are the used buckets of all users, and ``n_buckets`` says how many each user
    has. So do ``orders`` (dtype ``ORDER``) and ``n_orders``. ``awaited`` holds the packed offsets of awaited
    sentiments, by the user's index among the rows. ``sizes`` is the size of each tail in bytes.
    """

    buckets: BucketRows
    n_buckets: Counts
    orders: OrderRows
    n_orders: Counts
    awaited: dict[int, bytes]
    sizes: Counts

    @classmethod
    def read(cls, state: PartitionState, rows: Rows) -> _Tails:
        bucketed, buckets = state.buckets.take(rows)
        owners, slots = buckets["number"].nonzero()
        used = np.zeros(len(owners), USED_BUCKET)
        used["slot"], used["bucket"] = slots, buckets[owners, slots]
        n_buckets: Counts = np.bincount(bucketed[owners], minlength=len(rows))
        ordered, orders = state.orders.take(rows)
        owners, slots = orders["order"].nonzero()
        n_orders: Counts = np.bincount(ordered[owners], minlength=len(rows))
        sizes: Counts = 2 + n_buckets * USED_BUCKET.itemsize + n_orders * ORDER.itemsize
        awaited = {}
        if state.awaited:
            by_index = ((i, state.awaited.get(row)) for i, row in enumerate(rows.tolist()))
            awaited = {i: np.array(offsets, "<i8").tobytes() for i, offsets in by_index if offsets}
            for i, packed in awaited.items():
                sizes[i] += len(packed)
        return cls(used, n_buckets, orders[owners, slots], n_orders, awaited, sizes)

    def put(self, at: Slots, data: Bytes) -> None:
        """Write the tail of each user into ``data``, from place ``at`` on."""
        _put_items(self.buckets, self.n_buckets, at=at, data=data)
        orders_at = at + 1 + self.n_buckets * USED_BUCKET.itemsize
        _put_items(self.orders, self.n_orders, at=orders_at, data=data)
        for i, packed in self.awaited.items():
            end = int(at[i] + self.sizes[i])
            data[end - len(packed) : end] = np.frombuffer(packed, np.uint8)


def _put_items(items: Numbers, counts: Counts, *, at: Slots, data: Bytes) -> None:
    """Write how many items each user has, and the items behind it, into ``data`` from place ``at`` (n,) on."""
    data[at] = counts
    if len(items):
        nth = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
        every_slice(data, items.itemsize)[np.repeat(at + 1, counts) + nth * items.itemsize] = opaque(items)


def erased(state: PartitionState, users: Iterable[str]) -> list[tuple[bytes, bytes | None]]:
    """Return keys and values for erased users: the marker of each, and a tombstone for those who did not come back."""
    items: list[tuple[bytes, bytes | None]] = []
    for user in dict.fromkeys(users):
        marker = state.erasures.marker_of(user)
        if marker is not None:
            items.append((marker_key(user).encode(), marker.packed()))
        if state.index.row(user) < 0:
            items.append((user.encode(), None))
    return items


def records_of(users: Users) -> Iterator[OutgoingLike]:
    """Make the changelog record of each user; a value of None makes a tombstone."""
    return zip(users.keys, users.values, repeat(()), repeat(None))


# -- loading --------------------------------------------------------------------------------------------------


def load(state: PartitionState, users: list[str], values: list[bytes]) -> Rows:
    """Set users to what :func:`pack` wrote, note the markers among the values, and return the users' rows.

    Keys and values may come in any order and over several calls, but each key only once in a call. A user whose value
    is covered by an erasure gets no row. Raises ContractError for an unknown version, and for a value that was cut or
    altered.
    """
    return load_strings(state, users, ByteStrings.joined(values))


def load_strings(state: PartitionState, users: list[str], values: ByteStrings, *, all_new: bool = False) -> Rows:
    """Load values that lie in one piece of memory; see :func:`load`.

    ``all_new`` says that the state has none of these users yet.
    """
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


def _load_users(state: PartitionState, users: list[str], values: ByteStrings, all_new: bool) -> Rows:
    if not users:
        return np.zeros(0, np.int64)
    packed = PackedValues.parse(values)
    rows = state.add(users) if all_new else _emptied_rows(state, users)
    opaque(state.users)[rows] = opaque(packed.heads)
    name_currency(state.users, rows, state.currency)
    # Rings of the same length are copied together, one piece of memory for each user.
    for length in distinct(packed.lengths[packed.lengths > 0]).tolist():
        same_length = np.flatnonzero(packed.lengths == length)
        begin = packed.starts[same_length] + HEAD_BYTES
        history_bytes, seen_bytes = length * HISTORY.itemsize, length * state.seen.itemsize
        beginnings(state.history, history_bytes)[rows[same_length]] = every_slice(packed.data, history_bytes)[begin]
        seen = every_slice(packed.data, seen_bytes)[begin + history_bytes]
        beginnings(state.seen, seen_bytes)[rows[same_length]] = seen
    state.buckets.put(rows[packed.bucketed], packed.buckets["slot"], packed.buckets["bucket"])
    state.orders.put(rows[packed.ordered], packed.order_slots, packed.orders)
    for i in np.flatnonzero(packed.ends < packed.sizes).tolist():
        start, n_bytes = int(packed.starts[i] + packed.ends[i]), int(packed.sizes[i] - packed.ends[i])
        state.awaited[int(rows[i])] = np.frombuffer(packed.data, "<i8", n_bytes // 8, start).tolist()
    return rows


def _emptied_rows(state: PartitionState, users: list[str]) -> Rows:
    """Return the rows of users, and clear what a value may leave out: buckets, orders and awaited sentiments."""
    n_known = len(state)
    rows = state.rows_of(users)
    state.buckets.clear(rows[rows < n_known])
    state.orders.clear(rows[rows < n_known])
    if state.awaited:
        for row in rows.tolist():
            state.awaited.pop(row, None)
    return rows
