"""Buckets: counts by event time of the events that a full history has pushed out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.contract.columns import BUCKET, BUCKET_LEVELS, BUCKET_SLOTS

__all__ = ["Buckets"]

Array = npt.NDArray[Any]


class Buckets:
    """A pool of bucket rows, one for each user who has needed one.

    A slot holds one bucket at a time, the newest that maps to it: an older one lies outside of every window that
    can still be asked for.
    """

    def __init__(self) -> None:
        self.pool: Array = np.zeros((64, BUCKET_SLOTS), BUCKET)
        self._row_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def add(self, users: Array, entries: Array) -> None:
        """Count ``entries`` (``HISTORY``) of ``users`` (state rows) in all levels."""
        if not len(users):
            return
        rows = self._rows(users)
        base = 0
        for width_s, n in BUCKET_LEVELS:
            numbers = entries["time"] // width_s
            self._add_level(rows * BUCKET_SLOTS + base + numbers % n, numbers, entries)
            base += n

    def _add_level(self, slots: Array, numbers: Array, entries: Array) -> None:
        flat = self.pool.reshape(-1)
        touched = np.unique(slots)
        before = flat["number"][touched]
        np.maximum.at(flat["number"], slots, numbers)
        renewed = touched[flat["number"][touched] > before]
        flat["count"][renewed] = 0
        flat["value"][renewed] = 0
        current = flat["number"][slots] == numbers
        np.add.at(flat["count"], (slots[current], entries["type"][current].astype(np.int64) - 1), 1)
        np.add.at(flat["value"], slots[current], entries["value"][current])

    def take(self, users: Array) -> tuple[Array, Array]:
        """Which of these users have buckets (indices into ``users``), and a copy of them."""
        if not self._row_of:
            return np.zeros(0, np.int64), np.zeros((0, BUCKET_SLOTS), BUCKET)
        rows = np.array([self._row_of.get(u, -1) for u in users.tolist()], dtype=np.int64)
        having = np.flatnonzero(rows >= 0)
        return having, self.pool[rows[having]]

    def put(self, user: int, buckets: Array) -> None:
        """Set one user's buckets, as :meth:`take` returned them."""
        row = self._rows(np.array([user]))[0]
        self.pool[row] = buckets

    def _rows(self, users: Array) -> Array:
        row_of = self._row_of
        rows = np.array([row_of.setdefault(u, len(row_of)) for u in users.tolist()], dtype=np.int64)
        while len(row_of) > len(self.pool):
            self.pool = np.concatenate((self.pool, np.zeros_like(self.pool)))
        return rows
