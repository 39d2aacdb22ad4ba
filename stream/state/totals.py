"""Totals: update the columns of a user that do not depend on order: sums, minima and maxima over events and reviews."""

from __future__ import annotations

import numpy as np

from stream.arrays import EventRows, Numbers, Offsets, Rows, UserRows
from stream.contract.columns import SENTIMENT_SCALE
from stream.contract.events import EventType
from stream.state.runs import Runs

__all__ = ["add_events", "add_sentiments"]


def add_events(runs: Runs, changed: UserRows, events: EventRows) -> None:
    """Add accepted events (``EVENT_PARTS``) to the totals of the users of the runs, ``changed``."""
    times, starts = events["time"], runs.starts
    is_order = events["type"] == EventType.PURCHASE
    first = np.minimum.reduceat(times, starts)
    changed["first_time"] = np.where(changed["n_events"] == 0, first, np.minimum(changed["first_time"], first))
    changed["last_time"] = np.maximum(changed["last_time"], np.maximum.reduceat(times, starts))
    ordered = np.maximum.reduceat(times * is_order, starts)
    changed["last_order_time"] = np.maximum(changed["last_order_time"], ordered)
    changed["n_events"] += runs.counts.astype(np.uint32)
    changed["orders"] += np.add.reduceat(is_order, starts, dtype=np.uint32)
    changed["revenue"] += np.add.reduceat(events["value"], starts, dtype=np.int64)
    changed["applied_offset"] = np.maximum.reduceat(events["offset"], starts)
    changed["idle_stage"] = 0


def add_sentiments(users: UserRows, rows: Rows, offsets: Offsets, sentiments: Numbers) -> tuple[Rows, Offsets]:
    """Add the sentiments (-1 to 1) of reviews, given by the rows of their users and their source offsets.

    A user's reviews may come in any order within a call, and ascend from call to call. A review at or below the
    ``sentiment_offset`` of its user is known already and leaves no trace.

    Returns the rows that changed and, for each, the offset of its last review.
    """
    order = np.lexsort((offsets, rows))
    rows, offsets = rows[order], offsets[order]
    known = users["sentiment_offset"][rows]
    known[1:] = np.where(rows[1:] == rows[:-1], np.maximum(known[1:], offsets[:-1]), known[1:])
    fresh = offsets > known
    if not fresh.any():
        return rows[:0], offsets[:0]
    runs = Runs.within(rows[fresh])
    changed, last = runs.rows, offsets[fresh][runs.starts + runs.counts - 1]
    hundredths = np.rint(SENTIMENT_SCALE * sentiments[order][fresh].astype(np.float64)).astype(np.int64)
    users["reviews"][changed] += runs.counts.astype(np.uint32)
    users["sentiment_sum"][changed] += np.add.reduceat(hundredths, runs.starts)
    users["sentiment_last"][changed] = hundredths[runs.starts + runs.counts - 1]
    users["sentiment_offset"][changed] = last
    return changed, last
