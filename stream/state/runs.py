"""Runs: the consecutive rows of each user in a batch, by which numpy treats all users of a batch at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stream.arrays import Counts, Hashes, HistoryRows, Numbers, Rows, Slots

__all__ = ["Runs", "distinct", "order_by_user", "order_keys"]


class Runs(NamedTuple):
    """Runs of equal values in an array that is grouped by user.

    ``rows``, ``starts`` and ``counts`` have one element for each run: the row of its user, where the run starts, and
    its length. ``longest`` is the length of the longest run. ``run_of``, ``rank`` and ``from_end`` have one element for
    each element of the array: the number of its run, and its place in that run, counted from the front and from the
    end.
    """

    rows: Rows
    starts: Slots
    counts: Counts
    run_of: Slots
    rank: Slots
    from_end: Slots
    longest: int

    @classmethod
    def within(cls, users: Rows) -> Runs:
        """The runs of this array.

        >>> runs = Runs.within(np.array([4, 4, 7]))
        >>> runs.rows.tolist(), runs.counts.tolist(), runs.rank.tolist(), runs.from_end.tolist()
        ([4, 7], [2, 1], [0, 1, 0], [1, 0, 0])
        """
        n = len(users)
        is_start = np.ones(n, bool)
        np.not_equal(users[1:], users[:-1], out=is_start[1:])
        starts = is_start.nonzero()[0]
        if len(starts) == n:
            zeros = np.zeros(n, np.int64)
            return cls(users, starts, np.ones(n, np.int64), starts, zeros, zeros, 1)
        ends = np.concatenate((starts[1:], (n,)))
        counts = ends - starts
        run_of = is_start.cumsum() - 1
        rank = np.arange(n) - starts[run_of]
        return cls(users[starts], starts, counts, run_of, rank, counts[run_of] - 1 - rank, int(counts.max()))

    def slices(self) -> list[slice]:
        """Where each run is."""
        return list(map(slice, self.starts.tolist(), (self.starts + self.counts).tolist()))

    def take(self, elements: Slots) -> Runs:
        """The same runs with only these elements, which must be whole runs.

        The other runs keep their numbers but have no length, so that ``run_of`` stays true. ``starts`` and ``longest``
        are not changed.
        """
        run_of = self.run_of[elements]
        counts = np.bincount(run_of, minlength=len(self.rows))
        return self._replace(counts=counts, run_of=run_of, rank=self.rank[elements], from_end=self.from_end[elements])

    def slots(self, next_slots: Slots, size: int) -> Slots:
        """The ring slot in which each element goes.

        ``next_slots`` holds, for each run, the next slot of its user's ring; ``size`` is the size of the rings.
        """
        slots: Slots = (next_slots[self.run_of] + self.rank) % size
        return slots


def distinct(values: Numbers) -> Numbers:
    """The distinct ones of these numbers, ascending, in their dtype.

    A sort finds them. ``np.unique`` uses a hash table, which takes 30 times as long.

    >>> distinct(np.array([7, 4, 7])).tolist(), distinct(np.array([])).tolist()
    ([4, 7], [])
    """
    ordered: Numbers = np.sort(values)
    is_first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def order_by_user(users: Rows) -> Slots:
    """Indices that group a batch by user and keep the events of each user in order of arrival.

    These are the indices of a stable argsort, for the price of sorting plain numbers: each number holds the row in its
    high bits and the place in the batch in its low bits.

    >>> order_by_user(np.array([7, 4, 7, 4])).tolist()
    [1, 3, 0, 2]
    """
    bits = len(users).bit_length()
    order: Slots = users << bits
    order |= np.arange(len(users))
    order.sort()
    order &= (1 << bits) - 1
    return order


def order_keys(entries: HistoryRows) -> Hashes:
    """Sort keys of ``HISTORY`` entries: the event time, then a hash of the content.

    With the hash, entries of the same second sort the same way in whatever order they arrived.
    """
    content = (
        entries["type"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        + entries["category"].astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        + entries["item"].astype(np.uint64) * np.uint64(0x165667B19E3779F9)
        + entries["value"].astype(np.int64).view(np.uint64) * np.uint64(0x27D4EB2F165667C5)
    )
    keys: Hashes = (entries["time"].astype(np.uint64) << np.uint64(32)) | (content >> np.uint64(32))
    return keys
