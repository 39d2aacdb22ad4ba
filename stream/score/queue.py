"""Queue: the users with a stale score, most urgent first. A user is in the queue once.

A user is taken at most once per refresh interval, however many events arrive meanwhile. If more users wait than can be
scored, three rules keep the order fair:

- A user who was scored less than :data:`YIELD_S` ago yields to all others. Among the users who yield, the oldest score
  comes first, and only a share of each take is theirs. So a burst of events of some users neither costs the others
  their turn nor makes them wait for a long inference.
- Among equally urgent users, those who have been scored before come first. So a flood of new users does not make the
  scores of the known ones old.
- A share of each take goes to the users who wait longest. So nobody waits for ever behind more urgent users.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from stream.arrays import Codes, Instants, Mask, Rows
from stream.contract.events import N_TYPES, EventType
from stream.state.runs import distinct

__all__ = ["OLDEST_SHARE", "OWED", "SILENCE", "YIELDING_SHARE", "YIELD_S", "ScoreQueue", "priorities"]

#: Priority of a user who is scored because of silence. Every event has a higher priority.
SILENCE: Final = 1
#: Priority of a user after any other event, or with a score that was already stale before a recovery.
OWED: Final = 2
_CART, _PURCHASE = 3, 4
_PRIORITY_OF_TYPE: Final = np.full(N_TYPES + 1, OWED, np.uint8)
_PRIORITY_OF_TYPE[[EventType.CART, EventType.UNCART]] = _CART
_PRIORITY_OF_TYPE[[EventType.PURCHASE, EventType.REFUND]] = _PURCHASE
#: A score younger than this is fresh enough while older ones wait.
YIELD_S: Final = 1.0
#: One in this many users of a take is one of those who wait longest, whatever their priority.
OLDEST_SHARE: Final = 4
#: At most one in this many users of a take yields; one may always be taken.
YIELDING_SHARE: Final = 4
_UNSORTED_MAX: Final = 4_096
#: Both are more seconds than any user waits. The first sets each level of urgency above the next lower one, the second
#: sets all levels above the users who yield.
_LEVEL_S, _YIELDING_S = 1e8, 1e10


def priorities(types: Codes) -> Codes:
    """Priorities of events by their type: purchases first, then carts, then all others."""
    out: Codes = _PRIORITY_OF_TYPE[types]
    return out


class ScoreQueue:
    """Stale users of one partition, by state row. All times are monotonic seconds unless they are called arrivals.

    New users wait unsorted. When more than ``unsorted_max`` of them wait, they are sorted into lines, one line for each
    level of urgency, ordered by age. Then a take needs to look only at the heads of the lines.
    """

    def __init__(self, refresh_interval_s: float, unsorted_max: int = _UNSORTED_MAX) -> None:
        self._unsorted_max = unsorted_max
        self._refresh_s = refresh_interval_s
        self._yield_s = max(0.0, YIELD_S - refresh_interval_s)
        self._n = 0
        #: Priority of each user who waits; 0 for all others.
        self._priority: Codes = np.zeros(1024, np.uint8)
        #: Priority at which each user was taken last; 0 for never.
        self._last_priority: Codes = np.zeros(1024, np.uint8)
        #: When each user began to wait.
        self._since: Instants = np.zeros(1024)
        #: When each user may be taken again; infinite while their score is being made.
        self._not_before: Instants = np.full(1024, -np.inf)
        #: Wall-clock time at which the user's oldest unscored event reached the broker.
        self._arrival: Instants = np.zeros(1024)
        #: Whether a waiting user is in a line.
        self._in_line: Mask = np.zeros(1024, bool)
        self._unsorted: list[Rows] = []
        #: Level → its users, oldest first. Some of them have left the line, see :meth:`_still_in_line`.
        self._lines: dict[int, Rows] = {}
        #: Users who may not be taken yet, and the times from which on they may, in that order.
        self._resting: tuple[Rows, Instants] = (np.zeros(0, np.int64), np.zeros(0))

    def __len__(self) -> int:
        return self._n

    def push(self, rows: Rows, priority: Codes | int, now: float, arrival: Instants | float) -> None:
        """Add users; ``rows`` may repeat. ``arrival`` is the wall-clock time at which the broker got their event."""
        if not len(rows):
            return
        self._fit(int(rows.max()) + 1)
        priority_before = self._priority[rows]
        new = distinct(rows[priority_before == 0])
        self._since[new] = now
        self._arrival[new] = np.inf
        np.maximum.at(self._priority, rows, np.asarray(priority, np.uint8))
        np.minimum.at(self._arrival, rows, arrival)
        if len(new):
            self._n += len(new)
            self._unsorted.append(new)
        if self._lines:
            self._leave_line(distinct(rows[self._in_line[rows] & (self._priority[rows] > priority_before)]))

    def take(self, n: int, now: float) -> tuple[Rows, Instants]:
        """Up to ``n`` users who may be scored now, most urgent first, and their earliest arrivals.

        They leave the queue and cannot be taken again before :meth:`release`. So no user is scored twice at a time.
        """
        if not self._n:
            return np.zeros(0, np.int64), np.zeros(0)
        unsorted = _joined(self._unsorted if not len(self._resting[0]) else [*self._end_rest(now), *self._unsorted])
        if len(unsorted) > self._unsorted_max:
            unsorted = self._sort(unsorted, now)
        due = unsorted[self._not_before[unsorted] <= now]
        if self._yield_s:
            due = self._limit_yielding(due, n, now)
        if self._lines:
            due = _joined([due, *(self._head(level, n) for level in list(self._lines))])
        rows = self._choose(due, n, now)
        self._n -= len(rows)
        self._last_priority[rows] = self._priority[rows]
        self._priority[rows] = 0
        self._in_line[rows] = False
        self._not_before[rows] = np.inf
        remaining = unsorted[self._priority[unsorted] > 0]
        self._unsorted = [remaining] if len(remaining) else []
        return rows, self._arrival[rows]

    def release(self, rows: Rows, taken_at: float) -> None:
        """Let users be taken again, from one refresh interval after ``taken_at`` on."""
        self._not_before[rows] = taken_at + self._refresh_s

    def put_back(self, rows: Rows, now: float, arrival: Instants) -> None:
        """Queue users again after their scores failed, with the priority that they had."""
        self.push(rows, self._last_priority[rows], now, arrival)

    def oldest_wait_s(self, now: float) -> float:
        """How long the user who waits longest has waited; 0 for an empty queue."""
        return now - float(self._since[self._priority > 0].min(initial=now))

    # -- order ----------------------------------------------------------------------------------------------

    def _choose(self, rows: Rows, n: int, now: float) -> Rows:
        """The ``n`` of these users who are taken now, most urgent first: the most urgent ones, and the oldest."""
        waits = self._since[rows]
        urgency = waits - self._level(rows) * _LEVEL_S
        if self._yield_s:
            not_before = self._not_before[rows]
            yields = not_before > now - self._yield_s
            waits = np.where(yields, not_before + _YIELDING_S, waits)
            urgency = np.where(yields, waits, urgency)
        if len(rows) > n:
            turn = urgency.copy()
            if n_oldest := n // OLDEST_SHARE:
                turn[np.argpartition(waits, n_oldest - 1)[:n_oldest]] = -np.inf
            chosen = np.argpartition(turn, n - 1)[:n]
            rows, urgency = rows[chosen], urgency[chosen]
        return np.asarray(rows[np.argsort(urgency, kind="stable")])

    def _limit_yielding(self, rows: Rows, n: int, now: float) -> Rows:
        """These users, without most of those who yield: only a share of ``n`` with the oldest scores stays."""
        (yielding,) = (self._not_before[rows] > now - self._yield_s).nonzero()
        n_stay = max(1, n // YIELDING_SHARE)
        if len(yielding) <= n_stay:
            return rows
        by_age = np.argpartition(self._not_before[rows[yielding]], n_stay - 1)
        return np.delete(rows, yielding[by_age[n_stay:]])

    def _level(self, rows: Rows) -> Codes:
        """Level of urgency: by priority, and within a priority higher for users who have been scored before."""
        return np.asarray(2 * self._priority[rows] + (self._last_priority[rows] > 0))

    # -- lines ----------------------------------------------------------------------------------------------

    def _sort(self, rows: Rows, now: float) -> Rows:
        """Move unsorted users into lines or to rest. Returns those who stay unsorted, as they are held or yield."""
        not_before = self._not_before[rows]
        rests = (not_before > now) & (not_before < np.inf)
        self._rest(rows[rests])
        ready = not_before <= now - self._yield_s
        self._line_up(rows[ready])
        return np.asarray(rows[~(rests | ready)])

    def _rest(self, rows: Rows) -> None:
        """Let users rest until they may be taken."""
        rows = np.concatenate((self._resting[0], rows))
        order = np.argsort(self._not_before[rows], kind="stable")
        self._resting = (rows[order], self._not_before[rows[order]])

    def _end_rest(self, now: float) -> list[Rows]:
        """Remove and return the users who have rested long enough."""
        rows, until = self._resting
        n = int(until.searchsorted(now, "right"))
        self._resting = (rows[n:], until[n:])
        return [rows[:n]] if n else []

    def _line_up(self, rows: Rows) -> None:
        """Put users into the lines of their levels, by age."""
        levels = self._level(rows)
        for level in distinct(levels).tolist():
            line = self._lines.get(level, rows[:0])
            line, added = line[self._still_in_line(level, line)], rows[levels == level]
            added = added[np.argsort(self._since[added], kind="stable")]
            self._lines[level] = np.insert(line, self._since[line].searchsorted(self._since[added], "right"), added)
        self._in_line[rows] = True

    def _leave_line(self, rows: Rows) -> None:
        """Let users wait unsorted again: they have become more urgent, so their place in the line is wrong."""
        if len(rows):
            self._in_line[rows] = False
            self._unsorted.append(rows)

    def _head(self, level: int, n: int) -> Rows:
        """The first ``n`` users of a line, or all if there are fewer. Those before them who left are removed."""
        line = self._lines.pop(level)
        waits = self._still_in_line(level, line[: 2 * n])
        if waits.sum() < min(n, len(line)):
            line = line[self._still_in_line(level, line)]
            waits = np.ones(len(line[: 2 * n]), bool)
        if len(line):
            self._lines[level] = line[waits.argmax() :]
        return np.asarray(line[: 2 * n][waits][:n])

    def _still_in_line(self, level: int, rows: Rows) -> Mask:
        """Which users of a line still wait in it. The others were taken, or have become more urgent."""
        return np.asarray(self._in_line[rows] & (self._level(rows) == level))

    def _fit(self, size: int) -> None:
        """Make room for this many state rows; capacity at least doubles."""
        if size > len(self._priority):
            grow = max(size, 2 * len(self._priority)) - len(self._priority)
            self._priority = np.concatenate((self._priority, np.zeros(grow, np.uint8)))
            self._last_priority = np.concatenate((self._last_priority, np.zeros(grow, np.uint8)))
            self._since = np.concatenate((self._since, np.zeros(grow)))
            self._not_before = np.concatenate((self._not_before, np.full(grow, -np.inf)))
            self._arrival = np.concatenate((self._arrival, np.zeros(grow)))
            self._in_line = np.concatenate((self._in_line, np.zeros(grow, bool)))


def _joined(arrays: list[Rows]) -> Rows:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
