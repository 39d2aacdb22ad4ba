"""Buckets: counts by event time of the events that a full history has pushed out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.contract.columns import BUCKET, BUCKET_LEVELS, BUCKET_SLOTS
from stream.contract.events import N_TYPES
from stream.state.rings import Runs, distinct, grown, opaque, opaque_rows, order_by_user

__all__ = ["Buckets"]

Array = npt.NDArray[Any]
#: A column of one number for each level: width in seconds, number of slots, and slots of the levels before it.
_WIDTHS, _SLOTS = np.array(BUCKET_LEVELS, np.int64).T[:, :, None]
_BEFORE = np.cumsum(_SLOTS, axis=0) - _SLOTS
_ROWS_MIN = 64


class Buckets:
    """A pool of bucket rows, one for each user who has needed one.

    A slot holds one bucket at a time, the newest that maps to it: an older one lies outside of every window that
    can still be asked for.
    """

    def __init__(self) -> None:
        self.pool: Array = np.zeros((_ROWS_MIN, BUCKET_SLOTS), BUCKET)
        #: State row → pool row, counted from 1; 0 where a user has none.
        self._places: Array = np.zeros(_ROWS_MIN, np.int32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use."""
        return self._n * BUCKET_SLOTS * BUCKET.itemsize

    def add(self, users: Array, entries: Array) -> None:
        """Count ``entries`` (``HISTORY``) of ``users`` (state rows) in all levels."""
        if not len(users):
            return
        numbers = entries["time"] // _WIDTHS
        slots = (self._rows(users) * BUCKET_SLOTS + _BEFORE + numbers % _SLOTS).reshape(-1)
        order = order_by_user(slots)
        runs = Runs.within(slots[order])
        entry = order % len(users)
        pool = opaque(self.pool)
        buckets = pool[runs.rows].view(BUCKET)
        _count(buckets, runs, numbers.reshape(-1)[order], entries["type"][entry], entries["value"][entry])
        pool[runs.rows] = opaque(buckets)

    def take(self, users: Array) -> tuple[Array, Array]:
        """Which of these users have buckets (indices into ``users``), and a copy of them."""
        known = np.flatnonzero(users < len(self._places))
        places = self._places[users[known]]
        having = known[places > 0]
        buckets = opaque_rows(self.pool)[places[places > 0] - 1].view(BUCKET)
        return having, buckets.reshape(-1, BUCKET_SLOTS)

    def put(self, users: Array, slots: Array, buckets: Array) -> None:
        """Give users, each named once for each bucket, these buckets in these slots, and no others."""
        rows = self._rows(users)
        self._empty(rows)
        opaque(self.pool)[rows * BUCKET_SLOTS + slots] = opaque(buckets)

    def clear(self, users: Array) -> None:
        """Empty the buckets of those of these users who have any."""
        places = self._places[users[users < len(self._places)]]
        self._empty(places[places > 0] - 1)

    def _empty(self, rows: Array) -> None:
        opaque_rows(self.pool)[rows] = opaque_rows(np.zeros((1, BUCKET_SLOTS), BUCKET))

    def _rows(self, users: Array) -> Array:
        """Pool rows of these users, given to those who have none."""
        if not len(users):
            return users
        beyond = int(users.max()) + 1
        if beyond > len(self._places):
            self._places = grown(self._places, beyond)
        new = distinct(users[self._places[users] == 0])
        self._n += len(new)
        if self._n > len(self.pool):
            self.pool = grown(self.pool, max(self._n, 2 * len(self.pool)))
        self._places[new] = np.arange(self._n - len(new), self._n) + 1
        return self._places[users].astype(np.int64) - 1


def _count(buckets: Array, runs: Runs, numbers: Array, types: Array, values: Array) -> None:
    """Count events into the bucket of their run, where theirs is the newest: then the bucket begins anew."""
    newest = np.maximum.reduceat(numbers, runs.starts)
    renewed = newest > buckets["number"]
    opaque(buckets)[renewed] = opaque(np.zeros(1, BUCKET))
    buckets["number"][renewed] = newest[renewed]
    current = numbers == buckets["number"][runs.run_of]
    cells = (runs.run_of * N_TYPES + types - 1)[current]
    counts = np.bincount(cells, minlength=len(buckets) * N_TYPES)
    buckets["count"] += counts.reshape(-1, N_TYPES).astype(np.uint32)
    buckets["value"] += np.add.reduceat(np.where(current, values, 0), runs.starts, dtype=np.int64)
