"""Queue: users whose score is stale, most urgent first; a user is in it once.

A user is given out at most once per refresh interval, however many events arrive meanwhile. When more wait than can be
scored, who comes first is a matter of fairness too:

- who was scored less than :data:`YIELD_S` ago gives way to all others, the more so the newer the score, and has a share
  of each take at most: a burst of some users costs the rest neither their turn nor a long inference before it;
- among equally urgent users, those who have been scored before come first, so that a flood of new ones does not make
  their scores old;
- a share of each take goes to those who wait longest, so that nobody waits for ever behind the more urgent.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.events import N_TYPES, EventType
from stream.state.runs import distinct

__all__ = ["OLDEST_SHARE", "OWED", "SILENCE", "YIELDING_SHARE", "YIELD_S", "ScoreQueue", "priorities"]

Array = npt.NDArray[Any]
#: Priority of a user who is scored because of silence; events come before that.
SILENCE: Final = 1
#: Priority of a user whose score is owed: by any event, or by one from before a recovery.
OWED: Final = 2
_CART, _PURCHASE = 3, 4
_PRIORITY_OF_TYPE: Final = np.full(N_TYPES + 1, OWED, np.uint8)
_PRIORITY_OF_TYPE[[EventType.CART, EventType.UNCART]] = _CART
_PRIORITY_OF_TYPE[[EventType.PURCHASE, EventType.REFUND]] = _PURCHASE
#: A score younger than this is fresh enough while older ones wait.
YIELD_S: Final = 1.0
#: One in so many of a take are those who wait longest, whatever their priority.
OLDEST_SHARE: Final = 4
#: At most one in so many of a take, and one in any, is a user who yields.
YIELDING_SHARE: Final = 4
_UNFILED_MAX: Final = 4_096
#: More seconds than any queue is old: what sets one level of urgency above the next, and all above who yields.
_LEVEL_S, _YIELDING_S = 1e8, 1e10


def priorities(types: Array) -> Array:
    """Urgency of events by their type: purchases first, then carts, then the rest."""
    out: Array = _PRIORITY_OF_TYPE[types]
    return out


class ScoreQueue:
    """Stale users of one partition, by state row. All times are monotonic seconds unless named otherwise.

    Those who came last are in no order. When more than ``unfiled_max`` are, they are filed, so that a take does not
    look at all who wait: each level of urgency has a line, by age.
    """

    def __init__(self, refresh_interval_s: float, unfiled_max: int = _UNFILED_MAX) -> None:
        self._unfiled_max = unfiled_max
        self._refresh_s = refresh_interval_s
        self._yield_s = max(0.0, YIELD_S - refresh_interval_s)
        self._n = 0
        self._priority: Array = np.zeros(1024, np.uint8)
        #: Priorities at which users were taken last; 0: never.
        self._given: Array = np.zeros(1024, np.uint8)
        self._since: Array = np.zeros(1024)
        self._not_before: Array = np.full(1024, -np.inf)
        self._arrival: Array = np.zeros(1024)
        #: Whether a waiting user is in a line.
        self._filed: Array = np.zeros(1024, bool)
        self._unfiled: list[Array] = []
        #: Level → its users, oldest first; and some who have left, see :meth:`_waits_in`.
        self._lines: dict[int, Array] = {}
        #: Those who may not be taken yet, and from when on they may, in that order.
        self._resting: tuple[Array, Array] = (np.zeros(0, np.int64), np.zeros(0))

    def __len__(self) -> int:
        return self._n

    def push(self, rows: Array, priority: Array | int, now: float, arrival: Array | float) -> None:
        """Add users (``rows`` may repeat). ``arrival`` is when the event reached the broker, in wall seconds."""
        if not len(rows):
            return
        self._fit(int(rows.max()) + 1)
        before = self._priority[rows]
        fresh = distinct(rows[before == 0])
        self._since[fresh] = now
        self._arrival[fresh] = np.inf
        np.maximum.at(self._priority, rows, np.asarray(priority, np.uint8))
        np.minimum.at(self._arrival, rows, arrival)
        if len(fresh):
            self._n += len(fresh)
            self._unfiled.append(fresh)
        if self._lines:
            self._unfile(distinct(rows[self._filed[rows] & (self._priority[rows] > before)]))

    def take(self, n: int, now: float) -> tuple[Array, Array]:
        """Up to ``n`` users who may be scored now, most urgent first, and their earliest arrivals.

        They leave the queue and are held until :meth:`release`, so that nobody is scored twice at a time.
        """
        if not self._n:
            return np.zeros(0, np.int64), np.zeros(0)
        unfiled = _joined(self._unfiled if not len(self._resting[0]) else [*self._rested(now), *self._unfiled])
        if len(unfiled) > self._unfiled_max:
            unfiled = self._file(unfiled, now)
        due = unfiled[self._not_before[unfiled] <= now]
        if self._yield_s:
            due = self._with_few_who_yield(due, n, now)
        if self._lines:
            due = _joined([due, *(self._head(level, n) for level in list(self._lines))])
        taken = self._chosen(due, n, now)
        self._n -= len(taken)
        self._given[taken] = self._priority[taken]
        self._priority[taken] = 0
        self._filed[taken] = False
        self._not_before[taken] = np.inf
        left = unfiled[self._priority[unfiled] > 0]
        self._unfiled = [left] if len(left) else []
        return taken, self._arrival[taken]

    def release(self, rows: Array, taken_at: float) -> None:
        """Let users who were taken be taken again, a refresh interval after they were."""
        self._not_before[rows] = taken_at + self._refresh_s

    def put_back(self, rows: Array, now: float, arrival: Array) -> None:
        """Queue users again whose score failed, as urgent as they were."""
        self.push(rows, self._given[rows], now, arrival)

    def oldest_wait_s(self, now: float) -> float:
        """How long the user who waits longest has been waiting; 0 for an empty queue."""
        return now - float(self._since[self._priority > 0].min(initial=now))

    # -- who comes first ------------------------------------------------------------------------------------

    def _chosen(self, rows: Array, n: int, now: float) -> Array:
        """The ``n`` of these users whose turn it is, most urgent first."""
        waits = self._since[rows]
        urgency = waits - self._level(rows) * _LEVEL_S
        if self._yield_s:
            rested = self._not_before[rows]
            yields = rested > now - self._yield_s
            waits = np.where(yields, rested + _YIELDING_S, waits)
            urgency = np.where(yields, waits, urgency)
        if len(rows) > n:
            turn = urgency.copy()
            if oldest := n // OLDEST_SHARE:
                turn[np.argpartition(waits, oldest - 1)[:oldest]] = -np.inf
            first = np.argpartition(turn, n - 1)[:n]
            rows, urgency = rows[first], urgency[first]
        return np.asarray(rows[np.argsort(urgency, kind="stable")])

    def _with_few_who_yield(self, rows: Array, n: int, now: float) -> Array:
        """These users, of those who yield only the few whose scores are oldest."""
        (yielding,) = (self._not_before[rows] > now - self._yield_s).nonzero()
        few = max(1, n // YIELDING_SHARE)
        if len(yielding) <= few:
            return rows
        return np.delete(rows, yielding[np.argpartition(self._not_before[rows[yielding]], few - 1)[few:]])

    def _level(self, rows: Array) -> Array:
        """By priority, and within it those who have been scored first."""
        return np.asarray(2 * self._priority[rows] + (self._given[rows] > 0))

    # -- filing ---------------------------------------------------------------------------------------------

    def _file(self, rows: Array, now: float) -> Array:
        """Put unfiled users where they wait from now on; returns those who stay unfiled: they are held, or yield."""
        not_before = self._not_before[rows]
        rests = (not_before > now) & (not_before < np.inf)
        self._rest(rows[rests])
        ready = not_before <= now - self._yield_s
        self._line_up(rows[ready])
        return np.asarray(rows[~(rests | ready)])

    def _rest(self, rows: Array) -> None:
        rows = np.concatenate((self._resting[0], rows))
        order = np.argsort(self._not_before[rows], kind="stable")
        self._resting = (rows[order], self._not_before[rows[order]])

    def _rested(self, now: float) -> list[Array]:
        """Those whose rest is over."""
        rows, until = self._resting
        n = int(until.searchsorted(now, "right"))
        self._resting = (rows[n:], until[n:])
        return [rows[:n]] if n else []

    def _line_up(self, rows: Array) -> None:
        levels = self._level(rows)
        for level in distinct(levels).tolist():
            line = self._lines.get(level, rows[:0])
            line, added = line[self._waits_in(level, line)], rows[levels == level]
            added = added[np.argsort(self._since[added], kind="stable")]
            self._lines[level] = np.insert(line, self._since[line].searchsorted(self._since[added], "right"), added)
        self._filed[rows] = True

    def _unfile(self, rows: Array) -> None:
        """Of these users the place in their line is not theirs any more."""
        if len(rows):
            self._filed[rows] = False
            self._unfiled.append(rows)

    def _head(self, level: int, n: int) -> Array:
        """The first ``n`` users of a line, or all that there are; the line then begins with the first of them."""
        line = self._lines.pop(level)
        waits = self._waits_in(level, line[: 2 * n])
        if waits.sum() < min(n, len(line)):
            line = line[self._waits_in(level, line)]
            waits = np.ones(len(line[: 2 * n]), bool)
        if len(line):
            self._lines[level] = line[waits.argmax() :]
        return np.asarray(line[: 2 * n][waits][:n])

    def _waits_in(self, level: int, rows: Array) -> Array:
        """Who of a line still waits in it, not who was taken or has become more urgent since."""
        return np.asarray(self._filed[rows] & (self._level(rows) == level))

    def _fit(self, size: int) -> None:
        if size > len(self._priority):
            grow = max(size, 2 * len(self._priority)) - len(self._priority)
            self._priority = np.concatenate((self._priority, np.zeros(grow, np.uint8)))
            self._given = np.concatenate((self._given, np.zeros(grow, np.uint8)))
            self._since = np.concatenate((self._since, np.zeros(grow)))
            self._not_before = np.concatenate((self._not_before, np.full(grow, -np.inf)))
            self._arrival = np.concatenate((self._arrival, np.zeros(grow)))
            self._filed = np.concatenate((self._filed, np.zeros(grow, bool)))


def _joined(arrays: list[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
