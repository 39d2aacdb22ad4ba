"""Order history: counts what each user had ordered up to an instant. Several orders of one UTC day are one order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from model_export.data.event_log import EventLog, UserTimeKeys, user_time_keys
from stream.arrays import Counts, Floats, Mask, Numbers, Rows, Seconds, Slots
from stream.contract.columns import DAY_S
from stream.contract.events import VALUE_SCALE, EventType

__all__ = ["DAYS_PER_WEEK", "OrderHistory", "order_history"]

DAYS_PER_WEEK: Final = 7.0


@dataclass(frozen=True, slots=True)
class OrderHistory:
    """The orders of ``n`` users up to an instant each; every column is ``(n,)``.

    The age of a user without an order counts from the first event, and BG/NBD treats the user like one with one order.
    """

    #: Days with an order.
    orders: Counts
    #: Weeks from the first to the last order.
    recency: Floats
    #: Weeks from the first order to the instant.
    age: Floats
    #: Mean value of a day with an order, in currency units; 0 without one.
    value: Floats

    @property
    def repeats(self) -> Counts:
        """Days with an order after the first one: BG/NBD counts these."""
        return np.maximum(self.orders - 1, 0)

    def take(self, rows: Rows | Mask) -> OrderHistory:
        """These rows only."""
        return OrderHistory(self.orders[rows], self.recency[rows], self.age[rows], self.value[rows])


def order_history(log: EventLog, users: Rows, as_of: Seconds, accepted: Mask | None = None) -> OrderHistory:
    """What ``users`` (n,) had ordered up to second ``as_of`` (n,), that second included.

    Only ``accepted`` events count; each user must have one of them.
    """
    counted = np.ones(len(log), bool) if accepted is None else accepted
    time = log.rows["time"].astype(np.int64)
    events = _EventDays.of_events(log.users[counted], time[counted], log.rows["value"][counted])
    is_order = counted & (log.rows["type"] == EventType.PURCHASE)
    orders = _EventDays.of_events(log.users[is_order], time[is_order], log.rows["value"][is_order])
    days, first, last, value = orders.until(users, as_of)
    _, first_event, _, _ = events.until(users, as_of)
    without = days == 0
    start = np.where(without, first_event, first)
    return OrderHistory(
        orders=days,
        recency=np.where(without, 0, last - first) / DAYS_PER_WEEK,
        age=(as_of // DAY_S - start) / DAYS_PER_WEEK,
        value=value / VALUE_SCALE / np.maximum(days, 1),
    )


@dataclass(frozen=True, slots=True)
class _EventDays:
    """Events sorted by user and second, with running counts of days and sums of value.

    Values are integers, in hundredths, so that their sums are exact.
    """

    keys: UserTimeKeys
    day: Slots
    day_counts: Counts
    value_sums: Counts

    @staticmethod
    def of_events(users: Rows, time: Seconds, value: Numbers) -> _EventDays:
        keys = user_time_keys(users, time)
        order = np.argsort(keys, kind="stable")
        users, day = users[order], time[order] // DAY_S
        new = np.ones(len(order), np.int64)
        new[1:] = (users[1:] != users[:-1]) | (day[1:] != day[:-1])
        sums = (np.concatenate(([0], np.cumsum(column, dtype=np.int64))) for column in (new, value[order]))
        return _EventDays(keys[order], np.append(day, 0), *sums)

    def until(self, users: Rows, as_of: Seconds) -> tuple[Counts, Slots, Slots, Counts]:
        """Days with an event up to ``as_of``: their number, the first and the last since 1970, and the sum of value.

        The first and the last day of a user without an event are meaningless.
        """
        begin = np.searchsorted(self.keys, users << 32)
        end = np.searchsorted(self.keys, user_time_keys(users, as_of), "right")
        return (
            self.day_counts[end] - self.day_counts[begin],
            self.day[begin],
            self.day[end - 1],
            self.value_sums[end] - self.value_sums[begin],
        )
