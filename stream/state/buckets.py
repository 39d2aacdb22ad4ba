"""Buckets: count, by event time, the events that newer ones have pushed out of a full history."""

from __future__ import annotations

import numpy as np

from stream.arrays import BucketRows, HistoryRows, Numbers, Rows
from stream.contract.columns import BUCKET, BUCKET_LEVELS, BUCKET_SLOTS
from stream.contract.events import N_TYPES
from stream.state.pool import Pool
from stream.state.rings import opaque
from stream.state.runs import Runs, order_by_user

__all__ = ["Buckets"]

#: Columns with one element for each level: its width in seconds, its slots, and the slots of the levels before it.
_WIDTHS, _SLOTS = np.array(BUCKET_LEVELS, np.int64).T[:, :, None]
_SLOTS_BEFORE = np.cumsum(_SLOTS, axis=0) - _SLOTS


class Buckets(Pool):
    """The buckets of users, dtype ``BUCKET``: a row of ``BUCKET_SLOTS`` for each user who has needed one.

    A slot holds one bucket at a time: the newest of those that map to it. Older ones lie outside of every window that
    can still be asked for.
    """

    def __init__(self) -> None:
        super().__init__(BUCKET, BUCKET_SLOTS)

    def add(self, users: Rows, entries: HistoryRows) -> None:
        """Count ``entries`` (``HISTORY``) of ``users`` (state rows) in all levels."""
        if not len(users):
            return
        numbers = entries["time"] // _WIDTHS
        slots = (self.rows_of(users) * BUCKET_SLOTS + _SLOTS_BEFORE + numbers % _SLOTS).reshape(-1)
        order = order_by_user(slots)
        runs = Runs.within(slots[order])
        entry = order % len(users)
        pool = opaque(self.items)
        buckets: BucketRows = pool[runs.rows].view(BUCKET)
        numbers, types, values = numbers.reshape(-1)[order], entries["type"][entry], entries["value"][entry]
        _count(buckets, runs, numbers=numbers, types=types, values=values)
        pool[runs.rows] = opaque(buckets)


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
