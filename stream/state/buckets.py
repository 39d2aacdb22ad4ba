"""Buckets: count, by event time, the events that newer ones have pushed out of a full history."""

from __future__ import annotations

import numpy as np

from stream.arrays import BucketRows, HistoryRows, Numbers, Rows, Rows32, Slots
from stream.contract.columns import BUCKET, BUCKET_LEVELS, BUCKET_SLOTS
from stream.contract.events import N_TYPES
from stream.state.memory import grown
from stream.state.rings import opaque, opaque_rows
from stream.state.runs import Runs, distinct, order_by_user

__all__ = ["Buckets"]

#: Columns with one element for each level: its width in seconds, its slots, and the slots of the levels before it.
_WIDTHS, _SLOTS = np.array(BUCKET_LEVELS, np.int64).T[:, :, None]
_SLOTS_BEFORE = np.cumsum(_SLOTS, axis=0) - _SLOTS
_ROWS_MIN = 64


class Buckets:
    """A pool of bucket rows, one for each user who has needed one.

    A slot holds one bucket at a time: the newest of those that map to it. Older ones lie outside of every window that
    can still be asked for.
    """

    def __init__(self) -> None:
        self.pool: BucketRows = np.zeros((_ROWS_MIN, BUCKET_SLOTS), BUCKET)
        #: State row → pool row, counted from 1; 0 if the user has none.
        self._places: Rows32 = np.zeros(_ROWS_MIN, np.int32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use."""
        return self._n * BUCKET_SLOTS * BUCKET.itemsize

    def add(self, users: Rows, entries: HistoryRows) -> None:
        """Count ``entries`` (``HISTORY``) of ``users`` (state rows) in all levels."""
        if not len(users):
            return
        numbers = entries["time"] // _WIDTHS
        slots = (self._pool_rows(users) * BUCKET_SLOTS + _SLOTS_BEFORE + numbers % _SLOTS).reshape(-1)
        order = order_by_user(slots)
        runs = Runs.within(slots[order])
        entry = order % len(users)
        pool = opaque(self.pool)
        buckets: BucketRows = pool[runs.rows].view(BUCKET)
        numbers, types, values = numbers.reshape(-1)[order], entries["type"][entry], entries["value"][entry]
        _count(buckets, runs, numbers=numbers, types=types, values=values)
        pool[runs.rows] = opaque(buckets)

    def take(self, users: Rows) -> tuple[Slots, BucketRows]:
        """Which of these users have buckets (indices into ``users``), and a copy of their buckets."""
        known = np.flatnonzero(users < len(self._places))
        places = self._places[users[known]]
        having = known[places > 0]
        buckets: BucketRows = opaque_rows(self.pool)[places[places > 0] - 1].view(BUCKET)
        return having, buckets.reshape(-1, BUCKET_SLOTS)

    def put(self, users: Rows, slots: Slots, buckets: BucketRows) -> None:
        """Set the buckets of users: ``buckets[i]`` goes into slot ``slots[i]`` of ``users[i]``.

        A user stands in ``users`` once for each bucket. All their other buckets are emptied.
        """
        rows = self._pool_rows(users)
        self._empty(rows)
        opaque(self.pool)[rows * BUCKET_SLOTS + slots] = opaque(buckets)

    def clear(self, users: Rows) -> None:
        """Empty the buckets of these users, if they have any."""
        places = self._places[users[users < len(self._places)]]
        self._empty(places[places > 0] - 1)

    def _empty(self, rows: Rows | Rows32) -> None:
        opaque_rows(self.pool)[rows] = opaque_rows(np.zeros((1, BUCKET_SLOTS), BUCKET))

    def _pool_rows(self, users: Rows) -> Rows:
        """The pool rows of these users. A user who has none gets one."""
        if not len(users):
            return users
        rows_needed = int(users.max()) + 1
        if rows_needed > len(self._places):
            self._places = grown(self._places, rows_needed)
        new = distinct(users[self._places[users] == 0])
        self._n += len(new)
        if self._n > len(self.pool):
            self.pool = grown(self.pool, max(self._n, 2 * len(self.pool)))
        self._places[new] = np.arange(self._n - len(new), self._n) + 1
        return self._places[users].astype(np.int64) - 1


def _count(buckets: BucketRows, runs: Runs, *, numbers: Numbers, types: Numbers, values: Numbers) -> None:
    """Count events into buckets, one run of events for each bucket.

    A bucket begins anew if an event has a newer number (``time // width``). Events with an older number are left out.
    """
    newest = np.maximum.reduceat(numbers, runs.starts)
    renewed = newest > buckets["number"]
    opaque(buckets)[renewed] = opaque(np.zeros(1, BUCKET))
    buckets["number"][renewed] = newest[renewed]
    current = numbers == buckets["number"][runs.run_of]
    cells = (runs.run_of * N_TYPES + types - 1)[current]
    counts = np.bincount(cells, minlength=len(buckets) * N_TYPES)
    buckets["count"] += counts.reshape(-1, N_TYPES).astype(np.uint32)
    buckets["value"] += np.add.reduceat(np.where(current, values, 0), runs.starts, dtype=np.int64)
