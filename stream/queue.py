"""Queue: users whose score is stale, most urgent first; a user is in it once.

A user is given out at most once per refresh interval, however many events arrive meanwhile.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.events import N_TYPES, EventType

__all__ = ["OWED", "SILENCE", "ScoreQueue", "priorities"]

Array = npt.NDArray[Any]
#: Priority of a user who is scored because of silence; events come before that.
SILENCE: Final = 1
#: Priority of a user whose score is owed: by any event, or by one from before a recovery.
OWED: Final = 2
_CART, _PURCHASE = 3, 4
_PRIORITY_OF_TYPE: Final = np.full(N_TYPES + 1, OWED, np.uint8)
_PRIORITY_OF_TYPE[[EventType.CART, EventType.UNCART]] = _CART
_PRIORITY_OF_TYPE[[EventType.PURCHASE, EventType.REFUND]] = _PURCHASE


def priorities(types: Array) -> Array:
    """Urgency of events by their type: purchases first, then carts, then the rest."""
    out: Array = _PRIORITY_OF_TYPE[types]
    return out


class ScoreQueue:
    """Stale users of one partition, by state row. All times are monotonic seconds unless named otherwise."""

    def __init__(self, refresh_interval_s: float) -> None:
        self._refresh_s = refresh_interval_s
        self._priority: Array = np.zeros(1024, np.uint8)
        #: Priorities at which users were taken last.
        self._given: Array = np.zeros(1024, np.uint8)
        self._since: Array = np.zeros(1024)
        self._not_before: Array = np.zeros(1024)
        self._arrival: Array = np.zeros(1024)
        self._waiting: list[Array] = []

    def __len__(self) -> int:
        return sum(map(len, self._waiting))

    def push(self, rows: Array, priority: Array | int, now: float, arrival: Array | float) -> None:
        """Add users (``rows`` may repeat). ``arrival`` is when the event reached the broker, in wall seconds."""
        if not len(rows):
            return
        self._fit(int(rows.max()) + 1)
        fresh = np.unique(rows[self._priority[rows] == 0])
        self._since[fresh] = now
        self._arrival[fresh] = np.inf
        np.maximum.at(self._priority, rows, np.broadcast_to(np.asarray(priority, np.uint8), rows.shape))
        np.minimum.at(self._arrival, rows, np.broadcast_to(arrival, rows.shape))
        if len(fresh):
            self._waiting.append(fresh)

    def take(self, n: int, now: float) -> tuple[Array, Array]:
        """Up to ``n`` users who may be scored now, most urgent first, and their earliest arrivals.

        They leave the queue and are held until :meth:`release`, so that nobody is scored twice at a time.
        """
        rows = np.concatenate(self._waiting) if self._waiting else np.zeros(0, np.int64)
        due = self._not_before[rows] <= now
        ready, later = rows[due], rows[~due]
        urgency = self._since[ready] - self._priority[ready] * 1e9
        if len(ready) > n:
            first = np.argpartition(urgency, n - 1)[:n]
            later = np.concatenate((later, np.delete(ready, first)))
            ready, urgency = ready[first], urgency[first]
        taken = ready[np.argsort(urgency, kind="stable")]
        self._waiting = [later] if len(later) else []
        self._given[taken] = self._priority[taken]
        self._priority[taken] = 0
        self._not_before[taken] = np.inf
        return taken, self._arrival[taken]

    def release(self, rows: Array, taken_at: float) -> None:
        """Let users who were taken be taken again, a refresh interval after they were."""
        self._not_before[rows] = taken_at + self._refresh_s

    def put_back(self, rows: Array, now: float, arrival: Array) -> None:
        """Queue users again whose score failed, as urgent as they were."""
        self.push(rows, self._given[rows], now, arrival)

    def oldest_wait_s(self, now: float) -> float:
        """How long the user who waits longest has been waiting; 0 for an empty queue."""
        return max((now - float(self._since[rows].min()) for rows in self._waiting), default=0.0)

    def _fit(self, size: int) -> None:
        if size > len(self._priority):
            grow = max(size, 2 * len(self._priority)) - len(self._priority)
            self._priority = np.concatenate((self._priority, np.zeros(grow, np.uint8)))
            self._given = np.concatenate((self._given, np.zeros(grow, np.uint8)))
            self._since = np.concatenate((self._since, np.zeros(grow)))
            self._not_before = np.concatenate((self._not_before, np.zeros(grow)))
            self._arrival = np.concatenate((self._arrival, np.zeros(grow)))
