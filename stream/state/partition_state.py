"""State: keep what is known of each user of one partition, in numpy columns with a row per user.

Every event is in exactly one of two places. It is among the last :data:`HISTORY_LEN` events of its user, or, once newer
events have pushed it out, it is counted in the user's buckets. A window is the sum of both, so it is exact to its
bucket boundary in whatever order the events arrived. Most users never fill their history and need no buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.arrays import EventRows, Hashes, HistoryRows, Mask, Numbers, Offsets, Opaque, Rows, Seconds, Slots, UserRows
from stream.contract.columns import (
    DAY_S,
    FRESH_USER,
    HISTORY,
    HISTORY_LEN,
    IDLE_AGES_S,
    SEEN_LEN,
    USER,
)
from stream.contract.events import EventBatch
from stream.state.buckets import Buckets
from stream.state.duplicates import first_seen, note_seen
from stream.state.erasure import Erasure, Erasures
from stream.state.history import remember
from stream.state.memory import fault_in, grown
from stream.state.orders import Orders
from stream.state.rings import oldest_first, opaque
from stream.state.runs import Runs, order_by_user
from stream.state.snapshot import Snapshot
from stream.state.totals import add_events, add_sentiments
from stream.state.user_index import UserIndex

__all__ = ["Applied", "PartitionState", "Snapshot"]

_ROWS_MIN = 1024
#: The memory of this many rows is asked for at a time: about 6 MB.
_FAULT_IN_ROWS = 4096
_BUCKET_SPAN_S = 30 * DAY_S
#: The row of an erased user. It says that everything was seen and scored. So what is still under way for the user (a
#: score, the sentiment of a review, an age of silence) leaves no trace.
_ERASED_USER = FRESH_USER.copy()
_ERASED_USER[["applied_offset", "scored_offset", "sentiment_offset", "scored_sentiment"]] = np.iinfo(np.int64).max
_ERASED_USER["idle_stage"] = len(IDLE_AGES_S)


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch.

    ``late`` and ``accepted`` are indices of events in the batch. ``users`` is the row of each accepted event, and
    ``events`` (``EVENT_PARTS``) has it as it counts: with the type and value that its order leaves it. ``rows`` are the
    rows of the users that changed, each once. ``n_erased`` counts the events that an erasure covers; ``late``
    does not list them.
    """

    late: Slots
    n_accepted: int
    n_duplicate: int
    n_replayed: int
    n_erased: int
    rows: Rows
    accepted: Slots
    users: Rows
    events: EventRows


class PartitionState:
    """The users of one partition. ``apply`` and ``note_sentiments`` change them; ``snapshot`` copies them out."""

    def __init__(self, lateness_s: float, currency: str = "") -> None:
        self.lateness_s = int(lateness_s)
        self.currency = currency
        self._fresh_user: UserRows = FRESH_USER.copy()
        self._fresh_user["currency"] = currency.encode()
        self.ids: list[str] = []
        self.index = UserIndex()
        self.users: UserRows = np.zeros(_ROWS_MIN, USER)
        self.history: HistoryRows = np.zeros((_ROWS_MIN, HISTORY_LEN), HISTORY)
        self.seen: Hashes = np.zeros((_ROWS_MIN, SEEN_LEN), np.uint64)
        self.buckets = Buckets()
        self.orders = Orders()
        self.erasures = Erasures()
        #: By row: whether the user was erased and came back. Their events are looked up: one may be from before.
        self.returned: Mask = np.zeros(_ROWS_MIN, bool)
        #: Erased users who still had a value in the changelog: a crash or a replaced worker left it there.
        self.leftover: list[str] = []
        #: Row → source offsets, ascending, of accepted reviews that have no sentiment yet. A replay needs them to know
        #: which reviews were accepted: the offset of a user's last event does not say which earlier ones were repeats.
        self.awaited: dict[int, list[int]] = {}
        #: Largest event time seen, in seconds: the partition's watermark before lateness.
        self.watermark = 0

    def __len__(self) -> int:
        """Rows, those of erased users included."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns that hold users, without the room for more."""
        row = self.users.itemsize + HISTORY_LEN * HISTORY.itemsize + SEEN_LEN * self.seen.itemsize
        return len(self) * row + self.buckets.nbytes + self.orders.nbytes

    def rows_of(self, users: list[str]) -> Rows:
        """The rows of these users; shape ``(len(users),)``. A new user gets a row."""
        rows = self.index.rows(users)
        self._make_missing(users, rows)
        return rows

    def _make_missing(self, users: list[str], rows: Rows) -> None:
        """Make a row for each of these users who has none (-1 in ``rows``), and write it into ``rows``."""
        if len(rows) and rows.min() < 0:
            new = np.flatnonzero(rows < 0)
            names = [users[i] for i in new.tolist()] if len(new) < len(users) else users
            each_once = list(dict.fromkeys(names))
            added = self.add(each_once)
            rows[new] = added if len(each_once) == len(names) else self.index.rows(names)

    def add(self, users: list[str]) -> Rows:
        """Make rows for users who have none; shape ``(len(users),)``. Each user is named once."""
        first, end = len(self), len(self) + len(users)
        if end > len(self.history):
            self._grow(max(end, 2 * len(self.history)))
        self.index.add(users, first)
        self.ids += users
        opaque(self.users)[first:end] = opaque(self._fresh_user)
        if len(self.erasures):
            self.returned[first:end] = [self.erasures.marker_of(user) is not None for user in users]
        return np.arange(first, end)

    def make_room(self, n_users: int) -> None:
        """Make room for this many users at once."""
        if n_users > len(self.history):
            self._grow(n_users)
        self.index.make_room(n_users)

    def fault_in(self, n_users: int) -> None:
        """Let the system give the memory of this many users now, in the order of rows; may run in another thread."""
        columns: tuple[Numbers, ...] = (self.history, self.seen, self.users)
        for first in range(0, n_users, _FAULT_IN_ROWS):
            for column in columns:
                fault_in(column, first, min(first + _FAULT_IN_ROWS, n_users))

    def _grow(self, rows: int) -> None:
        """Make room for this many users.

        The histories are the largest column, so they decide how much room there is; the others get at least as much.
        """
        self.history = grown(self.history, rows)
        self.users = grown(self.users, len(self.history))
        self.seen = grown(self.seen, len(self.history))
        self.returned = grown(self.returned, len(self.history))

    # -- events -------------------------------------------------------------------------------------------

    def apply(self, batch: EventBatch) -> Applied:
        """Add a batch of events, in offset order. Replayed, repeated, late and erased events leave no trace."""
        late = self._late(batch.rows["time"])
        names, users = batch.users, self.index.rows(batch.users)
        erased = self._erased(batch, users) if len(self.erasures) else np.zeros(len(batch), bool)
        on_time = (~(late | erased)).nonzero()[0]
        if len(on_time) < len(names):
            names, users = [names[i] for i in on_time.tolist()], users[on_time]
        self._make_missing(names, users)

        order = order_by_user(users)
        users, accepted = users[order], on_time[order]
        fresh: Mask = batch.rows["offset"][accepted] > self.users["applied_offset"][users]
        users, accepted = _kept(fresh, users, accepted)
        n_fresh = len(users)
        users, accepted = _kept(
            first_seen(self.seen, self.users, users, batch.rows["identity"][accepted]), users, accepted
        )
        users, accepted, events = self.orders.settle(users, accepted, batch)
        runs = Runs.within(users)
        if len(users):
            self._add_accepted(users, runs, events)
        return Applied(
            late=(late & ~erased).nonzero()[0],
            n_accepted=len(accepted),
            n_duplicate=n_fresh - len(accepted),
            n_replayed=len(on_time) - n_fresh,
            n_erased=int(np.count_nonzero(erased)),
            rows=runs.rows,
            accepted=accepted,
            users=users,
            events=events,
        )

    def _late(self, times: Numbers) -> Mask:
        """Which events are further behind the newest event before them than the lateness allows."""
        if not len(times):
            return np.zeros(0, bool)
        before, self.watermark = self.watermark, max(self.watermark, int(times.max()))
        if int(times.min()) >= self.watermark - self.lateness_s:
            return np.zeros(len(times), bool)
        newest = np.maximum.accumulate(np.concatenate(([before], times[:-1].astype(np.int64))))
        late: Mask = times < newest - self.lateness_s
        return late

    def _add_accepted(self, users: Rows, runs: Runs, events: EventRows) -> None:
        """Add accepted events, grouped by user. Their users are gathered once, changed, and put back."""
        rows = opaque(self.users)
        changed: UserRows = rows[runs.rows].view(USER)
        note_seen(self.seen, users, runs, changed=changed, identities=events["identity"])
        pushed_out = remember(self.history, users, runs, changed=changed, events=events)
        add_events(runs, changed, events)
        rows[runs.rows] = opaque(changed)
        self._bucket(*pushed_out)

    def _bucket(self, users: Rows, entries: Opaque) -> None:
        """Count history entries that were pushed out, unless they are too old for every bucket."""
        if not len(users):
            return
        newest, times = self.users["last_time"][users].astype(np.int64), entries.view(HISTORY)["time"]
        in_reach = newest // DAY_S - times // DAY_S < _BUCKET_SPAN_S // DAY_S
        self.buckets.add(users[in_reach], entries[in_reach].view(HISTORY))

    # -- sentiments ---------------------------------------------------------------------------------------

    def await_sentiment(self, row: int, offset: int) -> None:
        """Remember that the review at this offset was accepted and has no sentiment yet."""
        self.awaited.setdefault(row, []).append(offset)

    def note_sentiments(self, rows: Rows, offsets: Offsets, sentiments: Numbers) -> None:
        """Add the sentiments of reviews to their users, as :func:`stream.state.totals.add_sentiments`."""
        changed, last = add_sentiments(self.users, rows, offsets, sentiments)
        for row, noted in zip(changed.tolist(), last.tolist(), strict=True):
            self._still_awaited(row, noted)

    def _still_awaited(self, row: int, noted: int) -> None:
        later = [offset for offset in self.awaited.pop(row, ()) if offset > noted]
        if later:
            self.awaited[row] = later

    # -- forgetting ---------------------------------------------------------------------------------------

    def erase(self, erasure: Erasure) -> int:
        """Forget a user, and from now on drop the events that the erasure covers.

        Returns the row that the user had; -1 if there was none, or if the user came back. A user who has newer events
        than the erasure came back: the erasure was read before, and the user stays.
        """
        self.erasures.note(erasure)
        row = self.index.row(erasure.user)
        if row < 0 or self.users["applied_offset"][row] > erasure.offset:
            return -1
        self._forget(row)
        return row

    def _forget(self, row: int) -> None:
        """Empty a row for good. Queue, scorers and checkpoint may still hold its number, so nobody else gets it."""
        self.index.discard(self.ids[row])
        self.ids[row] = ""
        self.users[row] = _ERASED_USER[0]
        self.history[row] = np.zeros(1, HISTORY)[0]
        self.seen[row] = 0
        self.awaited.pop(row, None)
        self.buckets.clear(np.array([row]))
        self.orders.clear(np.array([row]))

    def _erased(self, batch: EventBatch, rows: Rows) -> Mask:
        """Which of these events an erasure covers. Only new users (row -1) and returned users are looked up."""
        erased = np.zeros(len(batch), bool)
        for i in np.flatnonzero((rows < 0) | self.returned[rows]).tolist():
            event = batch.rows[i]
            erased[i] = self.erasures.covers(batch.users[i], int(event["time"]), int(event["offset"]))
        return erased

    def drop_erased(self, rows: Rows) -> None:
        """Forget those of these rows, just read from a changelog, that an erasure covers.

        A user who has newer events than the erasure came back and stays.
        """
        for row in rows.tolist():
            user = self.ids[row]
            marker = self.erasures.marker_of(user)
            self.returned[row] = marker is not None
            if marker is not None and self.users["applied_offset"][row] <= marker.offset:
                self._forget(row)
                self.leftover.append(user)

    def living(self, rows: Rows) -> Mask:
        """Which of these rows are users, and not emptied by an erasure; shape ``(len(rows),)``."""
        living: Mask = self.users["idle_stage"][rows] < len(IDLE_AGES_S)
        return living

    # -- reading ------------------------------------------------------------------------------------------

    def snapshot(self, rows: Rows) -> Snapshot:
        """Copy these rows out; shapes as in :class:`Snapshot`."""
        users: UserRows = opaque(self.users)[rows].view(USER)
        history = oldest_first(self.history, rows, users["history_next"] * (users["history_len"] == HISTORY_LEN))
        ids = [self.ids[row] for row in rows.tolist()]
        return Snapshot(ids, users, history, *self.buckets.take(rows))

    def idle_stages(self, event_now: int) -> Slots:
        """For every user, the index into ``IDLE_AGES_S`` of the last age of silence reached; shape ``(len,)``."""
        age: Seconds = event_now - self.users["last_time"][: len(self)].astype(np.int64)
        return np.maximum(np.searchsorted(IDLE_AGES_S, age, side="right") - 1, 0)

    def unscored(self) -> Rows:
        """Rows of users with an event, or the sentiment of a review, that their last score has not seen."""
        users = self.users[: len(self)]
        return np.flatnonzero(
            (users["scored_offset"] < users["applied_offset"]) | (users["scored_sentiment"] < users["sentiment_offset"])
        )


def _kept(keep: Mask, users: Rows, accepted: Slots) -> tuple[Rows, Slots]:
    return (users, accepted) if keep.all() else (users[keep], accepted[keep])
