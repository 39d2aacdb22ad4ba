"""Pool: rows of items for those users who have needed one. Most users never do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.arrays import Rows, Rows32, Slots
from stream.state.memory import grown
from stream.state.rings import opaque, opaque_rows
from stream.state.runs import distinct

__all__ = ["Pool"]

_ROWS_MIN = 64


class Pool:
    """Rows of ``slots`` items (of dtype ``item``), one row for each user who has needed one.

    Users are given by their state rows. A user without a row has none but empty items.
    """

    def __init__(self, item: np.dtype[np.void], slots: int) -> None:
        self.items: NDArray[np.void] = np.zeros((_ROWS_MIN, slots), item)
        #: State row → pool row, counted from 1; 0 if the user has none.
        self._places: Rows32 = np.zeros(_ROWS_MIN, np.int32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use."""
        return self._n * self._slots * self.items.itemsize

    @property
    def _slots(self) -> int:
        return int(self.items.shape[1])

    def take(self, users: Rows) -> tuple[Slots, NDArray[np.void]]:
        """Which of these users have a row (indices into ``users``), and a copy of their items, ``(n, slots)``."""
        known = np.flatnonzero(users < len(self._places))
        places = self._places[users[known]]
        having = known[places > 0]
        items: NDArray[Any] = opaque_rows(self.items)[places[places > 0] - 1].view(self.items.dtype)
        return having, items.reshape(-1, self._slots)

    def put(self, users: Rows, slots: Slots, items: NDArray[np.void]) -> None:
        """Set items of users: ``items[i]`` goes into slot ``slots[i]`` of ``users[i]``.

        A user stands in ``users`` once for each item. All their other items are emptied.
        """
        rows = self.rows_of(users)
        self._empty(rows)
        opaque(self.items)[rows * self._slots + slots] = opaque(items)

    def clear(self, users: Rows) -> None:
        """Empty the rows of these users, if they have any."""
        places = self._places[users[users < len(self._places)]]
        self._empty(places[places > 0] - 1)

    def rows_of(self, users: Rows) -> Rows:
        """The pool rows of these users. A user who has none gets one."""
        if not len(users):
            return users
        if int(users.max()) < len(self._places) and (places := self._places[users]).all():
            return places.astype(np.int64) - 1
        rows_needed = int(users.max()) + 1
        if rows_needed > len(self._places):
            self._places = grown(self._places, rows_needed)
        new = distinct(users[self._places[users] == 0])
        self._n += len(new)
        if self._n > len(self.items):
            self.items = grown(self.items, max(self._n, 2 * len(self.items)))
        self._places[new] = np.arange(self._n - len(new), self._n) + 1
        return self._places[users].astype(np.int64) - 1

    def _empty(self, rows: Rows | Rows32) -> None:
        opaque_rows(self.items)[rows] = opaque_rows(np.zeros((1, self._slots), self.items.dtype))
