"""Partition: the state and queue of one source partition while it is ours, and what is not durable yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from stream.arrays import Instants, Rows, Slots
from stream.checkpoint.position import Position
from stream.contract.columns import IDLE_AGES_S
from stream.decode.decoder import DeadLetter
from stream.score.decide import Decided
from stream.score.queue import OWED, SILENCE, ScoreQueue
from stream.state.erasure import Erasure
from stream.state.partition_state import PartitionState, Snapshot
from stream.state.runs import distinct

__all__ = ["Partition", "Review"]

#: After this long without an event, the event time of a partition goes on with the wall clock.
QUIET_AFTER_S: Final = 10.0


class Review(NamedTuple):
    """A review without a sentiment yet: the user's row, source offset, text, and the position just ``before`` it."""

    row: int
    offset: int
    text: str
    before: Position


class UnsettledErasure(NamedTuple):
    """An erasure that each checkpoint writes again until it is settled.

    ``row`` is the row that the user had when they were erased (-1: none). ``before`` is a position from which the
    erasure would be read again.
    """

    user: str
    row: int
    before: Position


@dataclass(slots=True)
class Partition:
    """One source partition. ``next_offset`` is the first offset that it has not taken in."""

    number: int
    state: PartitionState
    queue: ScoreQueue
    next_offset: int = 0
    #: When the event that raised the watermark last was taken in, in seconds since 1970.
    arrival: float = 0.0
    #: The offset after the last record that the broker has; None if it is not known.
    highwater: int | None = None
    #: Rows of users whose state has changed since the last checkpoint.
    dirty: list[Rows] = field(default_factory=list)
    #: Dead letters that are not written yet.
    dead: list[DeadLetter] = field(default_factory=list)
    #: Reviews that wait for their sentiment, in offset order.
    reviews: deque[Review] = field(default_factory=deque)
    #: Erasures that are not settled.
    erasures: list[UnsettledErasure] = field(default_factory=list)
    #: Rows of users who are being scored, an array for each batch.
    scoring: list[Rows] = field(default_factory=list)
    #: Whether we have lost the partition. Nothing more is sent for it then.
    given_up: bool = False
    #: The position that the last checkpoint made durable.
    durable: Position = field(default_factory=Position)

    # -- position -------------------------------------------------------------------------------------------

    @property
    def lag(self) -> int:
        """How many records the broker has that this partition has not taken in."""
        return 0 if self.highwater is None else max(0, self.highwater - self.next_offset)

    def reached(self) -> Position:
        """Return how far the source was taken in."""
        return Position(self.next_offset, self.state.watermark, self.arrival)

    def position(self) -> Position:
        """Return the position that a checkpoint may commit: how far the source is done.

        It stays before a review that waits for its sentiment, because only the source has the text. It also stays
        before an erasure whose user is being scored: after a crash the erasure is read again, and that score is erased
        as well.
        """
        bounds = [erasure.before for erasure in self._erased_while_scored()]
        if self.reviews:
            bounds.append(self.reviews[0].before)
        return min(bounds, key=lambda position: position.offset) if bounds else self.reached()

    @property
    def has_news(self) -> bool:
        """Whether there is something that no checkpoint has made durable yet."""
        return bool(self.dirty or self.dead or self.erasures) or self.position() != self.durable

    def pass_gap(self, offset: int) -> None:
        """Go on to ``offset``, because the source has no records before it.

        Transaction markers and compaction leave offsets without a record.
        """
        self.next_offset = max(self.next_offset, offset)

    def resume(self, position: Position) -> None:
        """Go on from a committed position."""
        self.next_offset, self.arrival, self.durable = position.offset, position.arrival, position
        self.state.watermark = position.watermark
        self.erasures = [UnsettledErasure(user, -1, position) for user in self.state.leftover]

    def event_now(self, now: float) -> int:
        """Return the event time at wall time ``now``: the watermark, and in a silent topic the time since it as well.

        The wall clock counts only if everything that the broker has was taken in. Behind a backlog we have not heard
        from a user yet, but the user need not be silent.
        """
        quiet_s = now - self.arrival
        caught_up = self.highwater is not None and self.next_offset >= self.highwater
        if not caught_up or not self.arrival or quiet_s < QUIET_AFTER_S:
            return self.state.watermark
        return self.state.watermark + int(quiet_s)

    def take_dirty(self) -> Rows:
        """Return the rows that have changed since the last call."""
        rows = distinct(np.concatenate(self.dirty)) if self.dirty else np.zeros(0, np.int64)
        self.dirty = []
        return rows[self.state.living(rows)]

    # -- scores ---------------------------------------------------------------------------------------------

    def queue_silent(self, event_now: int, idle_stage_max: int, now: float) -> int:
        """Queue the users who have reached another age of silence since their last score. Returns how many."""
        state = self.state
        stages = np.minimum(state.idle_stages(event_now), idle_stage_max)
        rows = np.flatnonzero(stages > state.users["idle_stage"][: len(state)])
        self.queue.push(rows, SILENCE, now, np.inf)
        return len(rows)

    def idle_stage_at(self, rows: Rows, event_now: int, idle_stage_max: int) -> Slots:
        """Return the idle stage, an index into ``IDLE_AGES_S``, that each of these users is to be scored at."""
        age = event_now - self.state.users["last_time"][rows].astype(np.int64)
        return np.minimum(np.maximum(IDLE_AGES_S.searchsorted(age, "right") - 1, 0), idle_stage_max)

    def take(self, n: int, now: float) -> tuple[Rows, Instants]:
        """Take up to ``n`` users from the queue, the most urgent ones. Returns their rows and arrivals.

        They count as being scored until :meth:`release`.
        """
        rows, arrivals = self.queue.take(n, now)
        living = self.state.living(rows)
        if not living.all():
            rows, arrivals = rows[living], arrivals[living]
        if len(rows):
            self.scoring.append(rows)
        return rows, arrivals

    def release(self, rows: Rows, taken_at: float) -> None:
        """Note that these users are not being scored any more, whether or not they got a score."""
        self.scoring = [batch for batch in self.scoring if batch[0] != rows[0]]
        self.queue.release(rows, taken_at)

    def note_scores(self, rows: Rows, snapshot: Snapshot, stages: Slots, decided: Decided) -> None:
        """Write scores that the broker has acknowledged into the state.

        A user who got events or sentiments meanwhile stays stale. For a user who was erased meanwhile, nothing is
        written.
        """
        users, seen, living = self.state.users, snapshot.users, self.state.living(rows)
        kept = slice(None) if living.all() else living
        rows, stages, applied = rows[kept], stages[kept], seen["applied_offset"][kept]
        users["scored_offset"][rows] = applied
        users["scored_sentiment"][rows] = seen["sentiment_offset"][kept]
        unchanged = users["applied_offset"][rows] == applied
        users["idle_stage"][rows[unchanged]] = stages[unchanged]
        users["churn"][rows] = decided.churn[kept]
        users["purchase"][rows] = decided.purchase[kept]
        users["ltv"][rows] = decided.ltv[kept]
        users["alert_band"][rows] = decided.alert_band[kept]
        users["alert_time"][rows] = decided.alert_time[kept]
        self.dirty.append(rows)

    # -- erasures -------------------------------------------------------------------------------------------

    def erase(self, erasure: Erasure, before: Position) -> None:
        """Forget a user and the texts of their reviews.

        ``before`` is a position from which the erasure would be read again.
        """
        row = self.state.erase(erasure)
        # A review stays in the line even without its text: sentiments that are being made now are matched by place.
        if row >= 0:
            self.reviews = deque(r._replace(text="") if r.row == row else r for r in self.reviews)
        self.erasures.append(UnsettledErasure(erasure.user, row, before))

    def _erased_while_scored(self) -> list[UnsettledErasure]:
        """Return the erasures whose user is being scored, with the row from before or one that they came back with.

        Their score may reach the broker after the tombstone.
        """
        scoring = {row for rows in self.scoring for row in rows.tolist()}
        return [e for e in self.erasures if not scoring.isdisjoint((e.row, self.state.index.row(e.user)))]

    def settling(self, now: float) -> dict[UnsettledErasure, int]:
        """Return the erasures that a checkpoint settles if it begins now.

        Each has the row of the user if they came back since (-1: they did not). A user who came back is queued again,
        because an older score or the tombstone may have followed their newer score.
        """
        unready = self._erased_while_scored()
        settling = {e: self.state.index.row(e.user) for e in self.erasures if e not in unready}
        returned = np.array([row for row in settling.values() if row >= 0], np.int64)
        if len(returned):
            self.state.users["scored_offset"][returned] = -1
            self.queue.push(returned, OWED, now, np.inf)
            self.dirty.append(returned)
        return settling

    def settle(self, settling: dict[UnsettledErasure, int]) -> None:
        """Note that the checkpoint is durable. An erasure whose user came back during it waits for the next one."""
        self.erasures = [e for e in self.erasures if settling.get(e) != self.state.index.row(e.user)]
