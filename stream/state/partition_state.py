"""State: what is known of each user of one partition, as numpy columns with a row per user.

Every event is in exactly one of two places: among the user's last :data:`HISTORY_LEN` events, or, once newer
events have pushed it out, counted in the user's event-time buckets. A window is the sum of both, so it is exact
to its bucket boundary however the events arrived. Most users never fill their history and need no buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.contract.columns import (
    DAY_S,
    EVENT_PARTS,
    FRESH_USER,
    HISTORY,
    HISTORY_LEN,
    IDLE_AGES_S,
    SEEN_LEN,
    SENTIMENT_SCALE,
    USER,
)
from stream.contract.events import EventBatch, EventType
from stream.state.buckets import Buckets
from stream.state.duplicates import first_seen, note_seen
from stream.state.erasure import Erasure, Erasures
from stream.state.history import remember
from stream.state.rings import Runs, fault_in, grown, oldest_first, opaque, order_by_user
from stream.state.snapshot import Snapshot
from stream.state.user_index import UserIndex

__all__ = ["Applied", "PartitionState", "Snapshot"]

Array = npt.NDArray[Any]
_ROWS_MIN = 1024
#: Rows whose memory is asked for at a time: some 6 MB.
_FAULT_IN_ROWS = 4096
_BUCKET_SPAN_S = 30 * DAY_S
#: The row of a user who was erased: it has seen and scored everything, so that what is still under way for it (a
#: score, the sentiment of a review, an age of silence) leaves no trace.
_NOBODY = FRESH_USER.copy()
_NOBODY[["applied_offset", "scored_offset", "sentiment_offset", "scored_sentiment"]] = np.iinfo(np.int64).max
_NOBODY["idle_stage"] = len(IDLE_AGES_S)


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch.

    ``late`` and ``accepted`` are indices of events; ``users`` is the state row of each accepted event, ``rows`` those
    of the users that changed, each once. Erased are the events that an erasure covers; they are not late as well.
    """

    late: Array
    n_accepted: int
    n_duplicate: int
    n_replayed: int
    n_erased: int
    rows: Array
    accepted: Array
    users: Array


class PartitionState:
    """The users of one partition. ``apply`` and ``note_sentiments`` fold in; ``snapshot`` copies users out."""

    def __init__(self, lateness_s: float) -> None:
        self.lateness_s = int(lateness_s)
        self.ids: list[str] = []
        self.index = UserIndex()
        self.users: Array = np.zeros(_ROWS_MIN, USER)
        self.history: Array = np.zeros((_ROWS_MIN, HISTORY_LEN), HISTORY)
        self.seen: Array = np.zeros((_ROWS_MIN, SEEN_LEN), np.uint64)
        self.buckets = Buckets()
        self.erasures = Erasures()
        #: Users who were erased and came back: whether an event of theirs is from before is to be looked up.
        self.returned: Array = np.zeros(_ROWS_MIN, bool)
        #: Erased users of whom there was a value all the same: a crash or a replaced worker left it in the changelog.
        self.leftover: list[str] = []
        #: Row → source offsets, ascending, of the accepted reviews whose sentiment is still to come. By them a replay
        #: knows the accepted reviews: the offset of a user's last event does not say which before it were repeats.
        self.awaited: dict[int, list[int]] = {}
        #: Largest event time seen, in seconds: the partition's watermark before lateness.
        self.watermark = 0

    def __len__(self) -> int:
        """Rows, those of erased users included."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the hot columns, as far as there are users."""
        row = self.users.itemsize + HISTORY_LEN * HISTORY.itemsize + SEEN_LEN * self.seen.itemsize
        return len(self) * row + self.buckets.nbytes

    def rows_of(self, users: list[str]) -> Array:
        """Rows of these users, made where they are new; shape ``(len(users),)``."""
        rows = self.index.rows(users)
        self._make_missing(users, rows)
        return rows

    def _make_missing(self, users: list[str], rows: Array) -> None:
        """Make rows for those of these users who have none (-1), and put them there."""
        if len(rows) and rows.min() < 0:
            new = np.flatnonzero(rows < 0)
            names = [users[i] for i in new.tolist()] if len(new) < len(users) else users
            each_once = list(dict.fromkeys(names))
            added = self.add(each_once)
            rows[new] = added if len(each_once) == len(names) else self.index.rows(names)

    def add(self, users: list[str]) -> Array:
        """Rows for users who have none, each named once; shape ``(len(users),)``."""
        first, end = len(self), len(self) + len(users)
        if end > len(self.history):
            self._grow(max(end, 2 * len(self.history)))
        self.index.add(users, first)
        self.ids += users
        opaque(self.users)[first:end] = opaque(FRESH_USER)
        if len(self.erasures):
            self.returned[first:end] = [self.erasures.marker_of(user) is not None for user in users]
        return np.arange(first, end)

    def make_room(self, n_users: int) -> None:
        """Make room for so many users at once."""
        if n_users > len(self.history):
            self._grow(n_users)
        self.index.make_room(n_users)

    def fault_in(self, n_users: int) -> None:
        """Have the system give the memory of so many users now, the first ones first; may run in another thread."""
        for first in range(0, n_users, _FAULT_IN_ROWS):
            for column in (self.history, self.seen, self.users):
                fault_in(column, first, min(first + _FAULT_IN_ROWS, n_users))

    def _grow(self, rows: int) -> None:
        """Room for as many users; the histories are the largest, so the others have at least as much."""
        self.history = grown(self.history, rows)
        self.users = grown(self.users, len(self.history))
        self.seen = grown(self.seen, len(self.history))
        self.returned = grown(self.returned, len(self.history))

    # -- folding events in --------------------------------------------------------------------------------

    def apply(self, batch: EventBatch) -> Applied:
        """Fold a batch in offset order; replayed, repeated, late and erased events leave no trace."""
        late = self._late(batch.rows["time"])
        names, users = batch.users, self.index.rows(batch.users)
        erased = self._erased(batch, users) if len(self.erasures) else np.zeros(len(batch), bool)
        on_time = (~(late | erased)).nonzero()[0]
        if len(on_time) < len(names):
            names, users = [names[i] for i in on_time.tolist()], users[on_time]
        self._make_missing(names, users)

        order = order_by_user(users)
        users, accepted = users[order], on_time[order]
        fresh = batch.rows["offset"][accepted] > self.users["applied_offset"][users]
        users, accepted = _kept(fresh, users, accepted)
        n_fresh = len(users)
        users, accepted = _kept(
            first_seen(self.seen, self.users, users, batch.rows["identity"][accepted]), users, accepted
        )
        runs = Runs.within(users)
        if len(users):
            self._fold(users, runs, opaque(batch.rows)[accepted].view(EVENT_PARTS))
        return Applied(
            late=(late & ~erased).nonzero()[0],
            n_accepted=len(accepted),
            n_duplicate=n_fresh - len(accepted),
            n_replayed=len(on_time) - n_fresh,
            n_erased=int(np.count_nonzero(erased)),
            rows=runs.rows,
            accepted=accepted,
            users=users,
        )

    def _late(self, times: Array) -> Array:
        """Which events are further behind the newest event before them than the lateness allows."""
        if not len(times):
            return np.zeros(0, bool)
        before, self.watermark = self.watermark, max(self.watermark, int(times.max()))
        if int(times.min()) >= self.watermark - self.lateness_s:
            return np.zeros(len(times), bool)
        newest = np.maximum.accumulate(np.concatenate(([before], times[:-1].astype(np.int64))))
        late: Array = times < newest - self.lateness_s
        return late

    def _fold(self, users: Array, runs: Runs, events: Array) -> None:
        """Fold in accepted events, grouped by user: their users are gathered once, changed, and put back."""
        rows = opaque(self.users)
        changed = rows[runs.rows].view(USER)
        note_seen(self.seen, users, runs, changed, events["identity"])
        pushed_out = remember(self.history, users, runs, changed, events)
        _count(runs, changed, events)
        rows[runs.rows] = opaque(changed)
        self._bucket(*pushed_out)

    def _bucket(self, users: Array, entries: Array) -> None:
        if not len(users):
            return
        newest, times = self.users["last_time"][users].astype(np.int64), entries.view(HISTORY)["time"]
        in_reach = newest // DAY_S - times // DAY_S < _BUCKET_SPAN_S // DAY_S
        self.buckets.add(users[in_reach], entries[in_reach].view(HISTORY))

    # -- folding sentiments in ----------------------------------------------------------------------------

    def await_sentiment(self, row: int, offset: int) -> None:
        """Remember that the review at this offset was accepted and has no sentiment yet."""
        self.awaited.setdefault(row, []).append(offset)

    def note_sentiments(self, rows: Array, offsets: Array, sentiments: Array) -> None:
        """Fold in the sentiments (-1 to 1) of reviews by the rows of their users and their source offsets.

        A user's reviews may come in any order within a call and ascend from call to call: one that is not past the
        last that was noted is known already and leaves no trace.
        """
        order = np.lexsort((offsets, rows))
        rows, offsets = rows[order], offsets[order]
        before = self.users["sentiment_offset"][rows]
        before[1:] = np.where(rows[1:] == rows[:-1], np.maximum(before[1:], offsets[:-1]), before[1:])
        fresh = offsets > before
        if not fresh.any():
            return
        runs = Runs.within(rows[fresh])
        users, starts, counts = runs.rows, runs.starts, runs.counts
        hundredths = np.rint(SENTIMENT_SCALE * sentiments[order][fresh].astype(np.float64)).astype(np.int64)
        last = starts + counts - 1
        self.users["reviews"][users] += counts.astype(np.uint32)
        self.users["sentiment_sum"][users] += np.add.reduceat(hundredths, starts)
        self.users["sentiment_last"][users] = hundredths[last]
        self.users["sentiment_offset"][users] = offsets[fresh][last]
        for row, noted in zip(users.tolist(), offsets[fresh][last].tolist(), strict=True):
            self._still_awaited(row, noted)

    def _still_awaited(self, row: int, noted: int) -> None:
        later = [offset for offset in self.awaited.pop(row, ()) if offset > noted]
        if later:
            self.awaited[row] = later

    # -- forgetting ---------------------------------------------------------------------------------------

    def erase(self, erasure: Erasure) -> int:
        """Forget a user, and drop their events from before from now on; the row that was theirs, -1 if there is none.

        A user who has newer events than the erasure came back since: it is read again, and they stay.
        """
        self.erasures.note(erasure)
        row = self.index.row(erasure.user)
        if row < 0 or self.users["applied_offset"][row] > erasure.offset:
            return -1
        self._forget(row)
        return row

    def _forget(self, row: int) -> None:
        """Empty a row for good: queue, scorers and checkpoint may still hold its number, so it is not given again."""
        self.index.discard(self.ids[row])
        self.ids[row] = ""
        self.users[row] = _NOBODY[0]
        self.history[row] = np.zeros(1, HISTORY)[0]
        self.seen[row] = 0
        self.awaited.pop(row, None)
        self.buckets.clear(np.array([row]))

    def _erased(self, batch: EventBatch, rows: Array) -> Array:
        """Which of these events an erasure covers; only those of new (row -1) and of returned users need a look."""
        erased = np.zeros(len(batch), bool)
        for i in np.flatnonzero((rows < 0) | self.returned[rows]).tolist():
            event = batch.rows[i]
            erased[i] = self.erasures.covers(batch.users[i], int(event["time"]), int(event["offset"]))
        return erased

    def drop_erased(self, rows: Array) -> None:
        """Forget those of these rows, just read from a changelog, that an erasure covers; the others came back."""
        for row in rows.tolist():
            user = self.ids[row]
            marker = self.erasures.marker_of(user)
            self.returned[row] = marker is not None
            if marker is not None and self.users["applied_offset"][row] <= marker.offset:
                self._forget(row)
                self.leftover.append(user)

    def living(self, rows: Array) -> Array:
        """Which of these rows are users, not what an erasure left; shape ``(len(rows),)`` of bool."""
        living: Array = self.users["idle_stage"][rows] < len(IDLE_AGES_S)
        return living

    # -- looking users up ---------------------------------------------------------------------------------

    def snapshot(self, rows: Array) -> Snapshot:
        """Copy these rows out; shapes as in :class:`Snapshot`."""
        users = opaque(self.users)[rows].view(USER)
        history = oldest_first(self.history, rows, users["history_next"] * (users["history_len"] == HISTORY_LEN))
        ids = [self.ids[row] for row in rows.tolist()]
        return Snapshot(ids, users, history, *self.buckets.take(rows))

    def idle_stages(self, event_now: int) -> Array:
        """For every user, the index into ``IDLE_AGES_S`` of the last age of silence reached; shape ``(len,)``."""
        age = event_now - self.users["last_time"][: len(self)].astype(np.int64)
        return np.maximum(np.searchsorted(IDLE_AGES_S, age, side="right") - 1, 0)

    def unscored(self) -> Array:
        """Rows whose last score has not seen their last event, or the sentiment of their last review."""
        users = self.users[: len(self)]
        return np.flatnonzero(
            (users["scored_offset"] < users["applied_offset"]) | (users["scored_sentiment"] < users["sentiment_offset"])
        )


def _kept(which: Array, users: Array, accepted: Array) -> tuple[Array, Array]:
    return (users, accepted) if which.all() else (users[which], accepted[which])


def _count(runs: Runs, changed: Array, events: Array) -> None:
    """Update the per-user scalars; every one is a sum, a minimum or a maximum, so order does not matter."""
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
