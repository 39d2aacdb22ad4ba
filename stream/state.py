"""State: what is known of each user of one partition, as numpy columns with a row per user.

Every event is in exactly one of two places: among the user's last :data:`HISTORY_LEN` events, or, once newer
events have pushed it out, counted in the user's event-time buckets. A window is the sum of both, so it is exact
to its bucket boundary however the events arrived. Most users never fill their history and need no buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.buckets import Buckets
from stream.contract.columns import (
    DAY_S,
    FRESH_USER,
    HISTORY,
    HISTORY_LEN,
    IDLE_AGES_S,
    SEEN_LEN,
    SENTIMENT_SCALE,
    USER,
)
from stream.contract.events import EventBatch, EventType
from stream.erasure import Erasure, Erasures

__all__ = ["Applied", "PartitionState", "Snapshot"]

Array = npt.NDArray[Any]
_ROWS_MIN = 1024
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of some users, safe to use while the state goes on.

    ``users`` is ``(n,)`` of ``USER``; ``history`` is ``(n, HISTORY_LEN)`` of ``HISTORY``, oldest first, valid in
    its first ``users["history_len"]`` entries; ``buckets`` is ``(m, BUCKET_SLOTS)`` of ``BUCKET`` for the users at
    ``bucketed`` (indices into ``users``).
    """

    ids: list[str]
    users: Array
    history: Array
    bucketed: Array
    buckets: Array

    def take(self, which: Array) -> Snapshot:
        """The users at these indices, which ascend."""
        bucketed = np.isin(self.bucketed, which)
        return Snapshot(
            [self.ids[i] for i in which.tolist()],
            self.users[which],
            self.history[which],
            np.searchsorted(which, self.bucketed[bucketed]),
            self.buckets[bucketed],
        )

    @classmethod
    def joined(cls, snapshots: Sequence[Snapshot]) -> Snapshot:
        """The users of several snapshots, one after the other."""
        starts = np.cumsum([0, *(len(s.users) for s in snapshots[:-1])]).tolist()
        return cls(
            [user for s in snapshots for user in s.ids],
            np.concatenate([s.users for s in snapshots]),
            np.concatenate([s.history for s in snapshots]),
            np.concatenate([s.bucketed + start for s, start in zip(snapshots, starts, strict=True)]),
            np.concatenate([s.buckets for s in snapshots]),
        )


class PartitionState:
    """The users of one partition. ``apply`` and ``note_sentiments`` fold in; ``snapshot`` copies users out."""

    def __init__(self, lateness_s: float) -> None:
        self.lateness_s = int(lateness_s)
        self.ids: list[str] = []
        self.index: dict[str, int] = {}
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
        """Bytes of the hot columns."""
        return self.users.nbytes + self.history.nbytes + self.seen.nbytes + self.buckets.pool.nbytes

    def rows_of(self, users: list[str]) -> Array:
        """Rows of these users, made where they are new; shape ``(len(users),)``."""
        rows = self._known_rows(users)
        for i in np.flatnonzero(rows < 0).tolist():
            rows[i] = self._row(users[i])
        return rows

    def _known_rows(self, users: list[str]) -> Array:
        get = self.index.get
        return np.array([get(user, -1) for user in users], dtype=np.int64)

    def _row(self, user: str) -> int:
        row = self.index.get(user)
        if row is None:
            row = self.index[user] = len(self.ids)
            self.ids.append(user)
            if row >= len(self.users):
                self._grow(2 * len(self.users))
            self.users[row] = FRESH_USER[0]
            self.returned[row] = len(self.erasures) > 0 and self.erasures.of(user) is not None
        return row

    def _grow(self, size: int) -> None:
        self.users = _grown(self.users, size)
        self.history = _grown(self.history, size)
        self.seen = _grown(self.seen, size)
        self.returned = _grown(self.returned, size)

    # -- folding events in --------------------------------------------------------------------------------

    def apply(self, batch: EventBatch) -> Applied:
        """Fold a batch in offset order; replayed, repeated, late and erased events leave no trace."""
        late = self._late(batch.rows["time"])
        erased = self._erased(batch) if len(self.erasures) else np.zeros(len(batch), bool)
        on_time = np.flatnonzero(~(late | erased))
        events = batch.rows[on_time]
        users = self.rows_of(batch.users if len(on_time) == len(batch) else [batch.users[i] for i in on_time.tolist()])

        fresh = events["offset"] > self.users["applied_offset"][users]
        n_replayed = len(fresh) - int(fresh.sum())
        by_user = np.argsort(users, kind="stable")
        by_user = by_user[fresh[by_user]]
        accepted = by_user[self._first_seen(users[by_user], events["identity"][by_user])]
        users, events = users[accepted], events[accepted]
        rows, starts, counts = _groups(users)
        if len(rows):
            self._count(rows, starts, counts, events)
            self._remember(users, starts, counts, events)
        return Applied(
            late=np.flatnonzero(late & ~erased),
            n_accepted=len(accepted),
            n_duplicate=len(by_user) - len(accepted),
            n_replayed=n_replayed,
            n_erased=int(erased.sum()),
            rows=rows,
            accepted=on_time[accepted],
            users=users,
        )

    def _late(self, times: Array) -> Array:
        """Which events are further behind the newest event before them than the lateness allows."""
        if not len(times):
            return np.zeros(0, bool)
        newest = np.maximum.accumulate(times.astype(np.int64))
        before = np.concatenate(([self.watermark], np.maximum(newest[:-1], self.watermark)))
        self.watermark = max(self.watermark, int(newest[-1]))
        late: Array = times < before - self.lateness_s
        return late

    def _first_seen(self, users: Array, identity: Array) -> Array:
        """Which of these events (grouped by user, in arrival order) are not repeats; notes their identities."""
        repeat = (self.seen[users] == identity[:, None]).any(axis=1)
        mixed = identity ^ (users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        order = np.argsort(mixed, kind="stable")
        repeat[order[1:][mixed[order[1:]] == mixed[order[:-1]]]] = True
        keep = np.ones(len(users), bool)
        for user in np.unique(users[repeat]).tolist():
            first, last = np.searchsorted(users, (user, user + 1))
            keep[first:last] = self._first_seen_exactly(user, identity[first:last].tolist())
        self._note_seen(users[keep], identity[keep])
        return keep

    def _first_seen_exactly(self, user: int, identities: list[int]) -> list[bool]:
        """One user's events one by one: a repeat is one whose identity is among the last SEEN_LEN accepted."""
        recent = _unrolled(self.seen[user], self.users[user]["seen_len"], self.users[user]["seen_next"]).tolist()
        keep = []
        for identity in identities:
            keep.append(identity not in recent)
            if keep[-1]:
                recent.append(identity)
                del recent[:-SEEN_LEN]
        return keep

    def _note_seen(self, users: Array, identity: Array) -> None:
        rows, starts, counts = _groups(users)
        rank, from_end = _ranks(starts, counts)
        last = from_end < SEEN_LEN
        slots = (self.users["seen_next"][users] + rank) % SEEN_LEN
        self.seen[users[last], slots[last]] = identity[last]
        self.users["seen_next"][rows] = (self.users["seen_next"][rows] + counts) % SEEN_LEN
        self.users["seen_len"][rows] = np.minimum(self.users["seen_len"][rows] + counts, SEEN_LEN)

    def _count(self, rows: Array, starts: Array, counts: Array, events: Array) -> None:
        """Update the per-user scalars; every one is a sum, a minimum or a maximum, so order does not matter."""
        users = self.users
        times = events["time"]
        is_order = events["type"] == EventType.PURCHASE
        first = np.minimum.reduceat(times, starts)
        users["first_time"][rows] = np.where(
            users["n_events"][rows] == 0, first, np.minimum(users["first_time"][rows], first)
        )
        users["last_time"][rows] = np.maximum(users["last_time"][rows], np.maximum.reduceat(times, starts))
        users["last_order_time"][rows] = np.maximum(
            users["last_order_time"][rows], np.maximum.reduceat(times * is_order, starts)
        )
        users["n_events"][rows] += counts.astype(np.uint32)
        users["orders"][rows] += np.add.reduceat(is_order.astype(np.uint32), starts)
        users["revenue"][rows] += np.add.reduceat(events["value"].astype(np.int64), starts)
        users["applied_offset"][rows] = np.maximum.reduceat(events["offset"], starts)
        users["idle_stage"][rows] = 0

    def _remember(self, users: Array, starts: Array, counts: Array, events: Array) -> None:
        """Put events into the histories, each kept in (time, content) order; what falls out goes to the buckets."""
        entries = np.zeros(len(events), HISTORY)
        for name in HISTORY.names or ():
            entries[name] = events[name]
        keys = _order_keys(entries)
        order = np.lexsort((keys, users))
        users, entries, keys = users[order], entries[order], keys[order]
        rows = users[starts]
        newest = self.history[rows, (self.users["history_next"][rows] - 1) % HISTORY_LEN]
        behind = (keys[starts] < _order_keys(newest)) & (self.users["history_len"][rows] > 0)
        merged = np.repeat(behind, counts)
        evicted = [
            self._append(users[~merged], entries[~merged]),
            self._merge(users[merged], entries[merged]),
        ]
        self._bucket(np.concatenate([u for u, _ in evicted]), np.concatenate([e for _, e in evicted]))

    def _append(self, users: Array, entries: Array) -> tuple[Array, Array]:
        """Add entries that are newer than all that their users have; returns what they push out."""
        rows, starts, counts = _groups(users)
        if not len(rows):
            return users, entries
        rank, from_end = _ranks(starts, counts)
        last = from_end < HISTORY_LEN
        at, slots = users[last], ((self.users["history_next"][users] + rank) % HISTORY_LEN)[last]
        taken = slots < self.users["history_len"][at]
        pushed_out = self.history[at[taken], slots[taken]]
        self.history[at, slots] = entries[last]
        self.users["history_next"][rows] = (self.users["history_next"][rows] + counts) % HISTORY_LEN
        self.users["history_len"][rows] = np.minimum(self.users["history_len"][rows] + counts, HISTORY_LEN)
        return np.concatenate((at[taken], users[~last])), np.concatenate((pushed_out, entries[~last]))

    def _merge(self, users: Array, entries: Array) -> tuple[Array, Array]:
        """Add entries that came out of order: sort them together with their users' histories."""
        rows = np.unique(users)
        if not len(rows):
            return users, entries
        old_row, old_slot = np.nonzero(np.arange(HISTORY_LEN) < self.users["history_len"][rows][:, None])
        users = np.concatenate((rows[old_row], users))
        entries = np.concatenate((self.history[rows[old_row], old_slot], entries))
        order = np.lexsort((_order_keys(entries), users))
        users, entries = users[order], entries[order]
        _, starts, counts = _groups(users)
        _, from_end = _ranks(starts, counts)
        kept = from_end < HISTORY_LEN
        lengths = np.minimum(counts, HISTORY_LEN)
        self.history[users[kept], (np.repeat(lengths, lengths) - 1 - from_end[kept])] = entries[kept]
        self.users["history_len"][rows] = lengths
        self.users["history_next"][rows] = lengths % HISTORY_LEN
        return users[~kept], entries[~kept]

    def _bucket(self, users: Array, entries: Array) -> None:
        newest = self.users["last_time"][users].astype(np.int64)
        in_reach = newest // DAY_S - entries["time"] // DAY_S < _BUCKET_SPAN_S // DAY_S
        self.buckets.add(users[in_reach], entries[in_reach])

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
        users, starts, counts = _groups(rows[fresh])
        if not len(users):
            return
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
        row = self.index.get(erasure.user, -1)
        if row < 0 or self.users["applied_offset"][row] > erasure.offset:
            return -1
        self._forget(row)
        return row

    def _forget(self, row: int) -> None:
        """Empty a row for good: queue, scorers and checkpoint may still hold its number, so it is not given again."""
        del self.index[self.ids[row]]
        self.ids[row] = ""
        self.users[row] = _NOBODY[0]
        self.history[row] = np.zeros(1, HISTORY)[0]
        self.seen[row] = 0
        self.awaited.pop(row, None)
        having, buckets = self.buckets.take(np.array([row]))
        if len(having):
            self.buckets.put(row, np.zeros_like(buckets[0]))

    def _erased(self, batch: EventBatch) -> Array:
        """Which of these events an erasure covers; only those of new and of returned users need a look."""
        rows = self._known_rows(batch.users)
        erased = np.zeros(len(batch), bool)
        for i in np.flatnonzero((rows < 0) | self.returned[rows]).tolist():
            event = batch.rows[i]
            erased[i] = self.erasures.covers(batch.users[i], int(event["time"]), int(event["offset"]))
        return erased

    def drop_erased(self, rows: Array) -> None:
        """Forget those of these rows, just read from a changelog, that an erasure covers; the others came back."""
        for row in rows.tolist():
            user = self.ids[row]
            marker = self.erasures.of(user)
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
        users = self.users[rows]
        start = np.where(users["history_len"] == HISTORY_LEN, users["history_next"], 0)
        slots = (start[:, None] + np.arange(HISTORY_LEN)) % HISTORY_LEN
        bucketed, buckets = self.buckets.take(rows)
        return Snapshot(
            [self.ids[i] for i in rows.tolist()], users, self.history[rows[:, None], slots], bucketed, buckets
        )

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


def _order_keys(entries: Array) -> Array:
    """Sort keys: event time first, then content, so that equal seconds sort alike however they arrived."""
    content = (
        entries["type"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        + entries["category"].astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        + entries["item"].astype(np.uint64) * np.uint64(0x165667B19E3779F9)
        + entries["value"].astype(np.int64).view(np.uint64) * np.uint64(0x27D4EB2F165667C5)
    )
    keys: Array = (entries["time"].astype(np.uint64) << np.uint64(32)) | (content >> np.uint64(32))
    return keys


def _groups(users: Array) -> tuple[Array, Array, Array]:
    """Rows, start and length of each run of equal values in an array that is grouped by user."""
    if not len(users):
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1])))
    return users[starts], starts, np.diff(np.append(starts, len(users)))


def _ranks(starts: Array, counts: Array) -> tuple[Array, Array]:
    """Position of each element in its group, from the front and from the end."""
    rank = np.arange(int(counts.sum())) - np.repeat(starts, counts)
    return rank, np.repeat(counts, counts) - 1 - rank


def _unrolled(ring: Array, length: int, following: int) -> Array:
    """The valid entries of one ring, oldest first."""
    return np.roll(ring, -int(following))[-int(length) :] if length == len(ring) else ring[: int(length)]


def _grown(array: Array, size: int) -> Array:
    out = np.zeros((size, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out
