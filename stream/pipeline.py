"""Pipeline: the way of one event, on one screen.

::

    records ─ decode ─ state ─┬─ queue ─ features, encode ─ infer ─ decide ─ publish scores, alerts
                              ├─ pending reviews ─ sentiment ─ state, queue
                              └─ checkpoint: changelog and dead letters acknowledged ─ position

``ingest`` never waits for a score. ``score`` marks a user as scored only when the broker has the score. ``checkpoint``
says how far the source is done only when the broker has everything that came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from stream.checkpoint import changelog
from stream.checkpoint.journal_blocks import Users
from stream.checkpoint.partition import Partition
from stream.checkpoint.position import Position
from stream.contract.columns import DAY_S, IDLE_AGES_S
from stream.counting import FirstRecords, count_events, count_scores
from stream.decode.dead_letters import dead_letter
from stream.decode.decoder import DeadLetter, Decoded, Decoder
from stream.decode.pseudonyms import check_key
from stream.errors import LeaseError
from stream.outgoing import Outgoing, OutgoingLike
from stream.score.decide import Decided, Decider, encode_json
from stream.score.queue import priorities
from stream.score_batch import ScoreBatch, ScoreShare
from stream.state.currency import check_currency
from stream.state.partition_state import Applied, PartitionState

if TYPE_CHECKING:
    from stream.arrays import Rows, Seconds
    from stream.checkpoint.pending_reviews import Reviews
    from stream.clock import Clock
    from stream.contract.manifest import Manifest
    from stream.contract.score import Alert, Score
    from stream.metrics import Metrics
    from stream.score.explain.alert_reasons import AlertReasons
    from stream.score.scorer import RawScores
    from stream.state.snapshot import Snapshot

__all__ = ["Checkpoint", "Model", "Pipeline", "Sink", "Stages", "Topics"]


class Sink(Protocol):
    """Takes records to their topics; see :class:`stream.kafka.publisher.Publisher`."""

    async def send(self, topic: str, partition: int, records: Iterable[OutgoingLike]) -> int | None:
        """Send records and wait for their acknowledgement. Returns the last offset, None if there were no records."""


class Model(Protocol):
    """Scores users; see :class:`stream.score.inference.Inference`."""

    @property
    def manifest(self) -> Manifest:
        """What the model promises: its labels, and who is eligible for a score."""

    async def run(self, snapshot: Snapshot, as_of: Seconds) -> RawScores:
        """Raw scores of the ``n`` users of ``snapshot`` at the instants ``as_of (n,)``. Raises ScoringError."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topic of events, and of the topics written to."""

    events: str
    changelog: str
    scores: str
    alerts: str
    dlq: str


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages that have settings or a model of their own. Without ``reasons``, alerts go out unexplained."""

    decoder: Decoder
    reviews: Reviews
    model: Model
    decider: Decider
    reasons: AlertReasons | None = None
    #: The bytes of a score or an alert that go to Kafka.
    encode: Callable[[Score | Alert], bytes] = encode_json


class Checkpoint(NamedTuple):
    """What one checkpoint made durable: the position, the users written, and the changelog offset of the last user.

    ``offset`` is None if no user was written.
    """

    position: Position
    users: Users
    offset: int | None


class Pipeline:
    """The stages of one worker, put together."""

    def __init__(self, stages: Stages, *, sink: Sink, topics: Topics, metrics: Metrics, clock: Clock) -> None:
        self._decoder, self._reviews, self._reasons = stages.decoder, stages.reviews, stages.reasons
        self._model, self._decider, self._encode = stages.model, stages.decider, stages.encode
        self._sink, self._topics, self._metrics, self._clock = sink, topics, metrics, clock
        self._first_records = FirstRecords(topics.events)
        eligible_s = stages.model.manifest.labels.eligible_days * DAY_S
        #: The last age of silence at which a user is still eligible, as an index into IDLE_AGES_S.
        self.idle_stage_max: Final = int(np.searchsorted(IDLE_AGES_S, eligible_s, side="left")) - 1

    def check_state(self, state: PartitionState) -> None:
        """Refuse a state just read if its users or its money are not as ours will be. Raises ContractError."""
        check_key(state.ids, self._decoder.pseudonyms)
        check_currency(state.users[: len(state)], state.currency)

    # -- records to state -----------------------------------------------------------------------------------

    def ingest(self, partition: Partition, records: Sequence[Any]) -> None:
        """Take one fetch of a partition into its state, and queue its users for scoring."""
        if records and records[0].offset < partition.next_offset:
            records = [r for r in records if r.offset >= partition.next_offset]
        if not records:
            return
        self._metrics.records_bytes.inc(sum(len(r.value or b"") for r in records))
        now = self._clock.time()
        with self._metrics.timed("decode", self._clock):
            decoded = self._decoder.decode(records, now)
        before = partition.reached()
        # An erasure covers all that stands before it, so it may as well come before all events of its fetch.
        for erasure in decoded.erasures:
            partition.erase(erasure, before)
        with self._metrics.timed("state", self._clock):
            applied = partition.state.apply(decoded.batch)
        partition.next_offset = records[-1].offset + 1
        if partition.state.watermark > before.watermark:
            partition.arrival = now
        late = _late(decoded, applied, partition) if len(applied.late) else []
        partition.dead += decoded.dead + late
        partition.dirty.append(applied.rows)
        self._queue(partition, decoded, applied)
        self._reviews.take_in(partition, before, decoded, applied)
        count_events(self._metrics, decoded, late, applied)
        self._first_records.note(len(records), decoded)

    def _queue(self, partition: Partition, decoded: Decoded, applied: Applied) -> None:
        urgency = priorities(decoded.batch.rows["type"][applied.accepted])
        arrival = np.array([record.timestamp for record in decoded.records], np.int64)[applied.accepted] / 1000
        partition.queue.push(applied.users, urgency, self._clock.monotonic(), arrival)

    # -- state to scores ------------------------------------------------------------------------------------

    async def score(self, partitions: Sequence[Partition], users_max: int) -> int:
        """Score the most urgent users of all partitions in one inference. Returns how many.

        Raises if the model or the broker fails. The users are then queued again as they were.
        """
        with ScoreBatch.take(partitions, users_max, self._clock, self._metrics) as batch:
            if not batch.taken:
                return 0
            snapshot, as_of = batch.snapshot(self.idle_stage_max)
            raw = await self._model.run(snapshot, as_of)
            with self._metrics.timed("decide", self._clock):
                decided = self._decider.decide(snapshot, as_of, raw)
            if decided.alerts and self._reasons:
                decided = await self._reasons.add(decided, snapshot, as_of, n_waiting=batch.n_waiting)
            with self._metrics.timed("publish", self._clock):
                await self._publish(batch, decided)
            count_scores(self._metrics, snapshot, decided, batch.arrivals, as_of, self._clock.time())
        return len(as_of)

    async def _publish(self, batch: ScoreBatch, decided: Decided) -> None:
        """Send the share of each partition. A share that arrives counts even if another fails."""
        ended = await asyncio.gather(*map(self._publish_share, batch.shares(decided)), return_exceptions=True)
        for error in filter(None, ended):
            raise error

    async def _publish_share(self, share: ScoreShare) -> None:
        """Send the scores and alerts of one partition. Only then do its users count as scored."""
        await self._send_scores(share.taken.partition, share.decided)
        share.note()

    async def _send_scores(self, partition: Partition, decided: Decided) -> None:
        scores = [Outgoing(s.user_id.encode(), self._encode(s)) for s in decided.scores]
        alerts = [Outgoing(a.score.user_id.encode(), self._encode(a)) for a in decided.alerts]
        await self._send(self._topics.scores, partition, scores)
        await self._send(self._topics.alerts, partition, alerts)

    async def _send(self, topic: str, partition: Partition, records: Iterable[OutgoingLike]) -> int | None:
        if partition.given_up:
            raise LeaseError(f"partition {partition.number} was given up, expected it to be ours; its next owner sends")
        return await self._sink.send(topic, partition.number, records)

    # -- state to changelog ---------------------------------------------------------------------------------

    async def checkpoint(self, partition: Partition) -> Checkpoint:
        """Make everything taken in so far durable.

        Raises if the broker does not acknowledge all of it. Then all of it is still to be made durable.
        """
        position, dead = partition.position(), partition.dead
        settling = partition.settling(self._clock.monotonic())
        rows = partition.take_dirty()
        partition.dead = []
        users = _packed(partition, rows)
        gone = [Outgoing(key, None) for key, value in zip(users.keys, users.values, strict=True) if value is None]
        try:
            await self._send(
                self._topics.dlq, partition, [dead_letter(one, self._topics.events, partition.number) for one in dead]
            )
            offset = await self._send(self._topics.changelog, partition, changelog.records_of(users))
            await self._send(self._topics.scores, partition, gone)
        except Exception:
            partition.dirty.append(rows)
            partition.dead = dead + partition.dead
            raise
        partition.settle(settling)
        partition.durable = position
        return Checkpoint(position, users, offset)


def _late(decoded: Decoded, applied: Applied, partition: Partition) -> list[DeadLetter]:
    """The dead letters of late events: one for each record, and none for a record that has one already."""
    dead = {letter.record.offset for letter in decoded.dead}
    records = {record.offset: record for record in map(decoded.records.__getitem__, applied.late.tolist())}
    message = (
        f"event is more than {partition.state.lateness_s} s behind the newest of its partition; "
        "raise --lateness-s if events may arrive this late"
    )
    return [
        DeadLetter(record, "late", message, stage="state") for offset, record in records.items() if offset not in dead
    ]


def _packed(partition: Partition, rows: Rows) -> Users:
    """The changed users as changelog and journal hold them: those of ``rows``, and what erasures leave."""
    state = partition.state
    erased = changelog.erased(state, (erasure.user for erasure in partition.erasures))
    keys = [*map(str.encode, map(state.ids.__getitem__, rows.tolist())), *(key for key, _ in erased)]
    values = [*changelog.pack(state, rows), *(value for _, value in erased)]
    return Users(keys, values, np.concatenate((rows, np.full(len(erased), -1, np.int64))))
