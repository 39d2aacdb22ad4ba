"""Pipeline: the way of one event, on one screen.

::

    records ─ decode ─ state ─┬─ queue ─ features, encode ─ score ─ decide ─ publish scores, alerts
                              ├─ reviews ─ sentiment ─ state, queue
                              └─ checkpoint: changelog and dead letters acknowledged ─ position

``ingest`` never waits for a score; ``score`` marks a user as scored only when the broker has the score;
``checkpoint`` says how far the source is done only when the broker has everything that came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from stream.checkpoint import changelog
from stream.checkpoint.journal_blocks import Users
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews
from stream.checkpoint.position import Position
from stream.contract.columns import DAY_S, IDLE_AGES_S
from stream.decode.dead_letters import dead_letter
from stream.decode.decoder import DeadLetter, Decoded, Decoder
from stream.decode.pseudonyms import check_key
from stream.errors import LeaseError, ScoringError
from stream.outgoing import Outgoing, OutgoingLike
from stream.score.decide import Decided, Decider, encode_json
from stream.score.encode import encode
from stream.score.explain.explainer import Explainer
from stream.score.features import features
from stream.score.queue import priorities
from stream.score.scorer import RawScores, Scorer
from stream.state.partition_state import Applied, PartitionState, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Histogram

    from stream.clock import Clock
    from stream.metrics import Metrics

__all__ = ["Pipeline", "Sink", "Topics"]

Array = npt.NDArray[Any]
#: Where more users wait for a score, alerts go out without reasons.
EXPLAIN_QUEUE_MAX: Final = 256
#: An inference that takes longer would hold the event loop up.
_AT_ONCE_S: Final = 0.010


class Sink(Protocol):
    """Where records go; see :class:`stream.kafka.publisher.Publisher`."""

    async def send(self, topic: str, partition: int, records: Iterable[OutgoingLike]) -> int | None:
        """Send records and wait for their acknowledgement; the last offset."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topic of events, and of the topics written to."""

    events: str
    changelog: str
    scores: str
    alerts: str
    dlq: str


class Taken(NamedTuple):
    """Users of one partition who are being scored: state rows, and when their oldest event arrived."""

    partition: Partition
    rows: Array
    arrivals: Array


class _Timed:
    """Observes how long its block took, where it did not fail."""

    __slots__ = ("_clock", "_seconds", "_start")

    def __init__(self, seconds: Histogram, clock: Clock) -> None:
        self._seconds, self._clock = seconds, clock

    def __enter__(self) -> None:
        self._start = self._clock.monotonic()

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._seconds.observe(self._clock.monotonic() - self._start)


class _Run(NamedTuple):
    """How long the model took for a batch with so many events."""

    seconds: float
    n_events: int


class Pipeline:
    """The stages of one worker, put together."""

    def __init__(
        self,
        decoder: Decoder,
        scorer: Scorer,
        decider: Decider,
        sink: Sink,
        topics: Topics,
        metrics: Metrics,
        clock: Clock,
        reviews: Reviews,
        explainer: Explainer | None = None,
    ) -> None:
        self._decoder, self._scorer, self._decider = decoder, scorer, decider
        self._sink, self._topics, self._metrics, self._clock = sink, topics, metrics, clock
        self._reviews, self._explainer = reviews, explainer
        self._inference = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._last_run: _Run | None = None
        eligible_s = scorer.manifest.labels.eligible_days * DAY_S
        #: The last age of silence at which a user is still eligible, as an index into IDLE_AGES_S.
        self.idle_stage_max: Final = int(np.searchsorted(IDLE_AGES_S, eligible_s, side="left")) - 1

    def check_state(self, state: PartitionState) -> None:
        """Refuse a state just read whose users are not named as ours will be. Raises ContractError."""
        check_key(state.ids, self._decoder.pseudonyms)

    # -- records to state -----------------------------------------------------------------------------------

    def ingest(self, partition: Partition, records: Sequence[Any]) -> None:
        """Take one fetch of a partition into its state and queue its users for scoring."""
        if records and records[0].offset < partition.next_offset:
            records = [r for r in records if r.offset >= partition.next_offset]
        if not records:
            return
        self._metrics.records_bytes.inc(sum(len(r.value or b"") for r in records))
        now = self._clock.time()
        with self._timed("decode"):
            decoded = self._decoder.decode(records, now)
        before = partition.reached()
        # An erasure covers all that stands before it, so it may as well come before all events of its fetch.
        for erasure in decoded.erasures:
            partition.erase(erasure, before)
        with self._timed("state"):
            applied = partition.state.apply(decoded.batch)
        partition.next_offset = records[-1].offset + 1
        if partition.state.watermark > before.watermark:
            partition.arrival = now
        late = [_late(decoded.records[i], partition) for i in applied.late.tolist()]
        partition.dead += decoded.dead + late
        partition.dirty.append(applied.rows)
        self._queue(partition, decoded, applied)
        self._reviews.take_in(partition, before, decoded, applied)
        self._count(decoded, late, applied)

    def _queue(self, partition: Partition, decoded: Decoded, applied: Applied) -> None:
        urgency = priorities(decoded.batch.rows["type"][applied.accepted])
        arrival = np.array([record.timestamp for record in decoded.records], np.int64)[applied.accepted] / 1000
        partition.queue.push(applied.users, urgency, self._clock.monotonic(), arrival)

    # -- state to scores ------------------------------------------------------------------------------------

    async def score(self, partitions: Sequence[Partition], users_max: int) -> int:
        """Score the most urgent users of all partitions in one inference; returns how many.

        Raises where the model or the broker fails, and then the users are queued again as they were.
        """
        taken_at = self._clock.monotonic()
        share = max(1, users_max // max(1, len(partitions)))
        taken = [Taken(p, *p.take(share, taken_at)) for p in partitions]
        taken = [t for t in taken if len(t.rows)]
        try:
            await self._score(taken)
        except Exception:
            self._metrics.scoring_errors.inc()
            for t in taken:
                t.partition.queue.put_back(t.rows, self._clock.monotonic(), t.arrivals)
            raise
        finally:
            for t in taken:
                t.partition.release(t.rows, taken_at)
        return sum(len(t.rows) for t in taken)

    async def _score(self, taken: Sequence[Taken]) -> None:
        if not taken:
            return
        now = self._clock.time()
        stages = [t.partition.idle_stage_at(t.rows, t.partition.event_now(now), self.idle_stage_max) for t in taken]
        snapshots = [t.partition.state.snapshot(t.rows) for t in taken]
        as_of = [
            s.users["last_time"].astype(np.int64) + IDLE_AGES_S[stage]
            for s, stage in zip(snapshots, stages, strict=True)
        ]
        snapshot, at = Snapshot.joined(snapshots), np.concatenate(as_of)
        raw = await self._infer(snapshot, at)
        with self._timed("decide"):
            decided = self._decider.decide(snapshot, at, raw)
        if decided.alerts and self._explainer:
            waiting = sum(len(t.partition.queue) for t in taken)
            decided = await self._explained(self._explainer, waiting, snapshot, at, decided)
        parts = decided.split([len(t.rows) for t in taken])
        with self._timed("publish"):
            ended = await asyncio.gather(*map(self._finish, taken, snapshots, stages, parts), return_exceptions=True)
        for error in filter(None, ended):
            raise error
        self._count_scores(snapshot, decided, np.concatenate([t.arrivals for t in taken]), at)

    async def _finish(self, taken: Taken, snapshot: Snapshot, stages: Array, decided: Decided) -> None:
        """A partition's share: scored is who the broker has the score of."""
        await self._publish(taken.partition, decided)
        taken.partition.note_scores(taken.rows, snapshot, stages, decided)

    async def _in_thread(self, work: Callable[..., Any], *given: Any) -> Any:
        """Run it beside the event loop; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._inference, work, *given)

    async def _explained(
        self, explainer: Explainer, waiting: int, snapshot: Snapshot, as_of: Array, decided: Decided
    ) -> Decided:
        """The same with reasons in its alerts; without them where others wait, or where the model fails."""
        unexplained = self._metrics.alerts_unexplained
        if waiting > EXPLAIN_QUEUE_MAX:
            unexplained.labels("load").inc(len(decided.alerts))
            return decided
        alerted = decided.alerted
        try:
            with self._timed("explain"):
                reasons = await self._in_thread(explainer.explain, snapshot.take(alerted), as_of[alerted])
        except ScoringError:
            unexplained.labels("error").inc(len(decided.alerts))
            return decided
        unexplained.labels("bound").inc(max(0, len(decided.alerts) - explainer.users_max))
        alerts = [msgspec.structs.replace(a, reasons=of) for a, of in zip(decided.alerts, reasons, strict=True)]
        return replace(decided, alerts=alerts)

    async def _infer(self, snapshot: Snapshot, as_of: Array) -> RawScores:
        with self._timed("features"):
            numbers = features(snapshot, as_of)
        with self._timed("encode"):
            tokens = encode(snapshot, as_of)
        n_events = int(snapshot.users["history_len"].sum())
        raw = await self._raw(tokens, numbers, n_events)
        self._metrics.batch_users.observe(len(as_of))
        self._metrics.batch_tokens.observe(raw.n_positions)
        self._metrics.padding_ratio.observe(1 - n_events / raw.n_positions)
        return raw

    async def _raw(self, tokens: Array, numbers: Array, n_events: int) -> RawScores:
        """Raw outputs: at once where that is quick, as another thread costs more, else beside the event loop."""
        last = self._last_run
        if last is not None and last.seconds * max(1.0, n_events / last.n_events) <= _AT_ONCE_S:
            return self._run(tokens, numbers, n_events)
        raw: RawScores = await self._in_thread(self._run, tokens, numbers, n_events)
        return raw

    def _run(self, tokens: Array, numbers: Array, n_events: int) -> RawScores:
        began = self._clock.monotonic()
        with self._timed("infer"):
            raw = self._scorer.run(tokens, numbers)
        self._last_run = _Run(self._clock.monotonic() - began, n_events)
        return raw

    async def _publish(self, partition: Partition, decided: Decided) -> None:
        scores = [Outgoing(s.user_id.encode(), encode_json(s)) for s in decided.scores]
        alerts = [Outgoing(a.score.user_id.encode(), encode_json(a)) for a in decided.alerts]
        await self._send(self._topics.scores, partition, scores)
        await self._send(self._topics.alerts, partition, alerts)

    async def _send(self, topic: str, partition: Partition, records: Iterable[OutgoingLike]) -> int | None:
        if partition.given_up:
            raise LeaseError(f"partition {partition.number} was given up, expected it to be ours; its next owner sends")
        return await self._sink.send(topic, partition.number, records)

    # -- state to changelog ---------------------------------------------------------------------------------

    async def checkpoint(self, partition: Partition) -> tuple[Position, Users, int | None]:
        """Make everything taken in so far durable.

        Returns the position that is now durable, the users written, and the changelog offset of the last of them.
        Raises if the broker does not acknowledge all of it; then all of it is still to be made durable.
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
        return position, users, offset

    # -- counting -------------------------------------------------------------------------------------------

    def _timed(self, stage: str) -> _Timed:
        return _Timed(self._metrics.stages[stage], self._clock)

    def _count(self, decoded: Decoded, late: list[DeadLetter], applied: Applied) -> None:
        outcomes = {
            "applied": applied.n_accepted,
            "duplicate": applied.n_duplicate,
            "replayed": applied.n_replayed,
            "late": len(late),
            "erased": applied.n_erased,
            "erasure": len(decoded.erasures),
            "dead_letter": len(decoded.dead),
            "ignored": decoded.n_ignored,
        }
        for outcome, n in outcomes.items():
            if n:
                self._metrics.events.labels(outcome).inc(n)
        for dead in (*decoded.dead, *late):
            self._metrics.dead_letters.labels(dead.reason).inc()

    def _count_scores(self, snapshot: Snapshot, decided: Decided, arrivals: Array, as_of: Array) -> None:
        users = snapshot.users
        by_event = users["scored_offset"] < users["applied_offset"]
        by_review = ~by_event & (users["scored_sentiment"] < users["sentiment_offset"])
        n_events, n_reviews = int(by_event.sum()), int(by_review.sum())
        self._metrics.scores.labels("event").inc(n_events)
        self._metrics.scores.labels("review").inc(n_reviews)
        self._metrics.scores.labels("silence").inc(len(users) - n_events - n_reviews)
        self._metrics.alerts.labels("churn_high").inc(len(decided.alerts))
        now = self._clock.time()
        for arrival, at in zip(arrivals[by_event].tolist(), as_of[by_event].tolist(), strict=True):
            self._metrics.ingest_to_score.observe(now - arrival)
            self._metrics.event_to_score.observe(now - at)


def _late(record: Any, partition: Partition) -> DeadLetter:
    message = (
        f"event is more than {partition.state.lateness_s} s behind the newest of its partition; "
        "raise --lateness-s if events may arrive this late"
    )
    return DeadLetter(record, "late", message, stage="state")


def _packed(partition: Partition, rows: Array) -> Users:
    """Users as the changelog and the store have them: those of these rows, and what erasures leave."""
    state = partition.state
    erased = changelog.erased(state, (of.user for of in partition.erasures))
    keys = [*map(str.encode, map(state.ids.__getitem__, rows.tolist())), *(key for key, _ in erased)]
    values = [*changelog.pack(state, rows), *(value for _, value in erased)]
    return Users(keys, values, np.concatenate((rows, np.full(len(erased), -1, np.int64))))
