"""Labels: finds what a user did in the horizon after an instant, and names the heads that predict it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model_export.data.event_log import user_time_keys
from model_export.data.examples import CategoryBuckets, Outcomes
from model_export.data.splits import horizon_s
from stream.arrays import EventRows, Floats, Rows, Seconds, Slots
from stream.contract.columns import DAY_S
from stream.contract.events import VALUE_SCALE, EventType
from stream.contract.manifest import Labels

__all__ = ["FutureEvents", "LabelColumns", "head_names"]


class LabelColumns(NamedTuple):
    """Labels of ``n`` examples: ``churn (n,)``, ``purchase (n, horizons)``, ``value (n,)``, ``category (n,)``.

    Value is net of refunds, in currency units, and not below 0. The category is that of the next event that has one.
    """

    churn: Outcomes
    purchase: Outcomes
    value: Floats
    category: CategoryBuckets


class FutureEvents:
    """All events that count, sorted by user and time: the events after an instant are found by a binary search."""

    def __init__(self, users: Rows, events: EventRows) -> None:
        keys = user_time_keys(users, events["time"])
        order = np.argsort(keys, kind="stable")
        self._keys, events = keys[order], events[order]
        self._orders = np.concatenate(([0], np.cumsum(events["type"] == EventType.PURCHASE)))
        self._value = np.concatenate(([0], np.cumsum(events["value"].astype(np.int64))))
        # For each place: the index of the first event from there on that has a category, or the end if none has.
        index = np.where(events["category"] > 0, np.arange(len(events)), len(events))
        self._next = np.append(np.minimum.accumulate(index[::-1])[::-1], len(events))
        self._category = np.append(events["category"], 0)

    def labels_after(self, users: Rows, as_of: Seconds, labels: Labels) -> LabelColumns:
        """The labels of ``users`` (n,) at the instants ``as_of`` (n,)."""
        begin = self._count_until(users, as_of, 0.0)
        churn = self._count_until(users, as_of, labels.churn_days) == begin
        ends = [self._count_until(users, as_of, days) for days in labels.purchase_days]
        purchase = np.column_stack([self._orders[end] > self._orders[begin] for end in ends])
        value = self._value[self._count_until(users, as_of, labels.value_days)] - self._value[begin]
        following = self._next[begin]
        within_horizon = following < self._count_until(users, as_of, horizon_s(labels) / DAY_S)
        return LabelColumns(
            churn.astype(np.float32),
            purchase.astype(np.float32),
            np.maximum(value, 0) / VALUE_SCALE,
            np.where(within_horizon, self._category[following], 0).astype(np.uint16),
        )

    def _count_until(self, users: Rows, as_of: Seconds, days: float) -> Slots:
        """How many of the sorted events come before the second ``days`` after ``as_of``, or in that second."""
        return np.searchsorted(self._keys, user_time_keys(users, as_of + round(days * DAY_S)), "right")


def head_names(labels: Labels) -> list[str]:
    """Names of the probability heads, churn first: the order of :attr:`Examples.outcomes`.

    >>> head_names(Labels(45, 14, (7, 30), 30))
    ['churn', 'purchase_7d', 'purchase_30d']
    """
    return ["churn", *(f"purchase_{days:g}d" for days in labels.purchase_days)]
