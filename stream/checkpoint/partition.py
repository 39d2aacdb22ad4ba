"""Partition: the state, queue and unfinished business of one source partition while it is ours."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.contract.columns import IDLE_AGES_S
from stream.decode.decoder import DeadLetter
from stream.score.decide import Decided
from stream.score.queue import OWED, SILENCE, ScoreQueue
from stream.state.erasure import Erasure
from stream.state.partition_state import PartitionState, Snapshot
from stream.state.runs import distinct

__all__ = ["Partition", "Position", "Review"]

Array = npt.NDArray[Any]
#: After this long without an event the partition's event time goes on with the wall clock.
QUIET_AFTER_S = 10.0
_METADATA = re.compile(r"v1:([0-9]{1,10}):([0-9]{1,10}\.[0-9]{3})")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition's source is done up to, and the clock that belongs to it, kept in the commit's metadata.

    ``offset`` is the next to be read; ``watermark`` the largest event time before it, ``arrival`` when the last
    of those events was taken in, both in seconds. Lateness is judged by the watermark, so a replay from ``offset``
    must start with the watermark of ``offset``, not with the one that the state had reached.
    """

    offset: int = 0
    watermark: int = 0
    arrival: float = 0.0

    def metadata(self) -> str:
        """As text for Kafka's commit metadata.

        >>> Position.read(7, Position(7, 1_700_000_000, 1.5).metadata())
        Position(offset=7, watermark=1700000000, arrival=1.5)
        """
        return f"v1:{self.watermark}:{self.arrival:.3f}"

    @classmethod
    def read(cls, offset: int, metadata: str) -> Position:
        """The reverse of :meth:`metadata`; a commit made by another tool has no clock."""
        ours = _METADATA.fullmatch(metadata)
        return cls(offset, int(ours[1]), float(ours[2])) if ours else cls(offset)


class Review(NamedTuple):
    """A review whose sentiment is still to come: state row, source offset, and the position just ``before`` it."""

    row: int
    offset: int
    text: str
    before: Position


class Erased(NamedTuple):
    """An erasure that is not settled: the user, the row that was theirs (-1: none), and a position ``before`` it."""

    user: str
    row: int
    before: Position


@dataclass(slots=True)
class Partition:
    """One source partition. ``next_offset`` is the first record that it has not taken in."""

    number: int
    state: PartitionState
    queue: ScoreQueue
    next_offset: int = 0
    arrival: float = 0.0
    #: The broker's end of the partition, where known.
    highwater: int | None = None
    dirty: list[Array] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    #: Reviews that wait for their sentiment, in offset order.
    reviews: deque[Review] = field(default_factory=deque)
    #: Erasures of which something is still to be written: until then they are written again by each checkpoint.
    erasures: list[Erased] = field(default_factory=list)
    #: Rows that are being scored, an array for each batch.
    scoring: list[Array] = field(default_factory=list)
    #: Whether it is another's: what is under way for it is not sent any more.
    given_up: bool = False
    #: What the last checkpoint made durable.
    durable: Position = field(default_factory=Position)

    @property
    def lag(self) -> int:
        """Records that the broker has and this partition has not taken in."""
        return 0 if self.highwater is None else max(0, self.highwater - self.next_offset)

    def reached(self) -> Position:
        """How far the source was taken in."""
        return Position(self.next_offset, self.state.watermark, self.arrival)

    def position(self) -> Position:
        """How far the source is done: not past a review that waits for its sentiment, as its text is only there.

        Nor past an erasure whose user is being scored: after a crash it is read again, and that score erased as well.
        """
        held = [erased.before for erased in self._held()]
        if self.reviews:
            held.append(self.reviews[0].before)
        return min(held, key=lambda position: position.offset) if held else self.reached()

    @property
    def has_news(self) -> bool:
        """Whether there is something that no checkpoint has made durable yet."""
        return bool(self.dirty or self.dead or self.erasures) or self.position() != self.durable

    def pass_gap(self, offset: int) -> None:
        """Go on to ``offset``, as the source has no records before it: transaction markers, or what was compacted."""
        self.next_offset = max(self.next_offset, offset)

    def resume(self, position: Position) -> None:
        """Go on from what was committed."""
        self.next_offset, self.arrival, self.durable = position.offset, position.arrival, position
        self.state.watermark = position.watermark
        self.erasures = [Erased(user, -1, position) for user in self.state.leftover]

    def event_now(self, now: float) -> int:
        """Event time as of wall time ``now``: the watermark, and in a silent topic the time that passed since.

        The wall clock counts only when everything that the broker has was taken in: behind a backlog a user is
        not silent, only unheard.
        """
        quiet_s = now - self.arrival
        caught_up = self.highwater is not None and self.next_offset >= self.highwater
        if not caught_up or not self.arrival or quiet_s < QUIET_AFTER_S:
            return self.state.watermark
        return self.state.watermark + int(quiet_s)

    def take_dirty(self) -> Array:
        """Rows changed since the last call."""
        rows = distinct(np.concatenate(self.dirty)) if self.dirty else np.zeros(0, np.int64)
        self.dirty = []
        return rows[self.state.living(rows)]

    def queue_silent(self, event_now: int, idle_stage_max: int, now: float) -> int:
        """Queue the users who have reached an age of silence since their last score; returns how many."""
        state = self.state
        reached = np.minimum(state.idle_stages(event_now), idle_stage_max)
        rows = np.flatnonzero(reached > state.users["idle_stage"][: len(state)])
        self.queue.push(rows, SILENCE, now, np.inf)
        return len(rows)

    def idle_stage_at(self, rows: Array, event_now: int, idle_stage_max: int) -> Array:
        """The age of silence (index into ``IDLE_AGES_S``) at which these users are to be scored."""
        age = event_now - self.state.users["last_time"][rows].astype(np.int64)
        return np.minimum(np.maximum(IDLE_AGES_S.searchsorted(age, "right") - 1, 0), idle_stage_max)

    def take(self, n: int, now: float) -> tuple[Array, Array]:
        """Rows of up to ``n`` users, the most urgent, and their arrivals; being scored until they are released."""
        rows, arrivals = self.queue.take(n, now)
        living = self.state.living(rows)
        if not living.all():
            rows, arrivals = rows[living], arrivals[living]
        if len(rows):
            self.scoring.append(rows)
        return rows, arrivals

    def release(self, rows: Array, taken_at: float) -> None:
        """These users are not being scored any more, whatever came of it."""
        self.scoring = [taken for taken in self.scoring if taken[0] != rows[0]]
        self.queue.release(rows, taken_at)

    def note_scores(self, rows: Array, snapshot: Snapshot, stages: Array, decided: Decided) -> None:
        """Write acknowledged scores into the state. Events and sentiments that came meanwhile keep the user stale.

        Of users who were erased meanwhile nothing is written.
        """
        users, seen, living = self.state.users, snapshot.users, self.state.living(rows)
        of: Array | slice = slice(None) if living.all() else living
        rows, stages, applied = rows[of], stages[of], seen["applied_offset"][of]
        users["scored_offset"][rows] = applied
        users["scored_sentiment"][rows] = seen["sentiment_offset"][of]
        unchanged = users["applied_offset"][rows] == applied
        users["idle_stage"][rows[unchanged]] = stages[unchanged]
        users["churn"][rows] = decided.churn[of]
        users["purchase"][rows] = decided.purchase[of]
        users["ltv"][rows] = decided.ltv[of]
        users["alert_band"][rows] = decided.alert_band[of]
        users["alert_time"][rows] = decided.alert_time[of]
        self.dirty.append(rows)

    # -- erasures -------------------------------------------------------------------------------------------

    def erase(self, erasure: Erasure, before: Position) -> None:
        """Forget a user, the texts of their reviews too; ``before`` is a position from which it would be read again."""
        row = self.state.erase(erasure)
        # A review keeps its place in the queue: the sentiments that are being found now are told apart by it.
        if row >= 0:
            self.reviews = deque(r._replace(text="") if r.row == row else r for r in self.reviews)
        self.erasures.append(Erased(erasure.user, row, before))

    def _held(self) -> list[Erased]:
        """Erasures of users who are being scored, as who they were or came back: the score may follow the tombstone."""
        scoring = {row for rows in self.scoring for row in rows.tolist()}
        return [e for e in self.erasures if not scoring.isdisjoint((e.row, self.state.index.row(e.user)))]

    def settling(self, now: float) -> dict[Erased, int]:
        """The erasures that a checkpoint settles if it begins now, and the row of who came back since (-1: nobody).

        Who came back is to be scored again, as an older score or the tombstone may have followed theirs.
        """
        held = self._held()
        settling = {e: self.state.index.row(e.user) for e in self.erasures if e not in held}
        returned = np.array([row for row in settling.values() if row >= 0], np.int64)
        if len(returned):
            self.state.users["scored_offset"][returned] = -1
            self.queue.push(returned, OWED, now, np.inf)
            self.dirty.append(returned)
        return settling

    def settle(self, settling: dict[Erased, int]) -> None:
        """The checkpoint is durable; an erasure whose user came back during it waits for the next."""
        self.erasures = [e for e in self.erasures if settling.get(e) != self.state.index.row(e.user)]
