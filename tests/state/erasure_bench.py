"""A bench for erasures: a worker in memory, topics that outlive it, and an oracle that says what must remain."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from stream.checkpoint import changelog
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews
from stream.checkpoint.position import Position
from stream.clock import ManualClock
from stream.contract.score import Churn, LifetimeValue, ModelRef, Score
from stream.metrics import Metrics
from stream.outgoing import Outgoing, OutgoingLike
from stream.pipeline import Pipeline, Stages
from stream.score.decide import Decided
from stream.score.queue import ScoreQueue
from stream.state.erasure import COMMAND_HEADER, ERASE, Erasures
from stream.state.partition_state import PartitionState
from tests.checkpoint.test_pending_reviews import Texts, Untold, a_decoder
from tests.contract.packed_users import without_scores
from tests.state.reference import Plain
from tests.state.test_partition_state import START
from tests.test_pipeline import TOPICS, MemorySink, Record

NEVER_LATE_S = 10_000 * 86_400


ERASE_HEADERS = ((COMMAND_HEADER, ERASE),)


def rows_by_user(state: PartitionState) -> dict[str, int]:
    """The row of every user who is not erased."""
    rows = state.index.rows(state.ids).tolist()
    return {user: row for user, row in zip(state.ids, rows, strict=True) if row >= 0}


class Told(Untold):
    """A model and decider. Each score says which event of its user it has seen."""

    def decide(self, snapshot: Any, as_of: Any, raw: Any) -> Decided:
        scores = [
            Score(
                score_id="id",
                user_id=user,
                as_of="2025-01-01T00:00:00Z",
                model=ModelRef("m", "1", "0"),
                n_events=int(row["n_events"]),
                data_sufficiency="ok",
                churn=Churn(0.5, "medium", 14),
                purchase=[],
                ltv=LifetimeValue(1.0, 0.5, "USD", 30),
                applied_offset=int(row["applied_offset"]),
            )
            for user, row in zip(snapshot.ids, snapshot.users, strict=True)
        ]
        zeros = np.zeros(len(as_of))
        return Decided(
            scores=scores,
            alerts=[],
            alerted=np.zeros(0, np.int64),
            churn=zeros + 0.5,
            purchase=zeros,
            ltv=zeros,
            alert_band=zeros,
            alert_time=zeros,
        )


@dataclass
class Gate:
    """Where a score waits: before it lands in the topic, or after that for its acknowledgement."""

    lands_first: bool
    opened: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Topics(MemorySink):
    """Topics that outlive the worker. If there is a gate, the next score waits at it."""

    gate: Gate | None = None
    refused: str = ""

    async def send(self, topic: str, partition: int, records: Iterable[OutgoingLike]) -> int | None:
        records = list(map(Outgoing._make, records))
        if topic == self.refused:
            raise ConnectionError("refused")
        gate = self.gate
        if topic != "scores" or gate is None or not any(record.value for record in records):
            return await super().send(topic, partition, records)
        self.gate = None
        offset = await super().send(topic, partition, records) if gate.lands_first else None
        await gate.opened.wait()
        return offset if gate.lands_first else await super().send(topic, partition, records)

    def compacted(self, topic: str) -> dict[str, bytes]:
        """The newest value of each key, without tombstones."""
        newest = {(r.key or b"").decode(): r.value for r in self.sent.get(topic, [])}
        return {key: value for key, value in newest.items() if value is not None}


class Bench:
    """The memory of a worker, and what outlives it: the log of records, the topics and the committed position."""

    def __init__(self, model: Texts | None = None) -> None:
        self.clock, self.log, self.topics, self.metrics = ManualClock(START), [], Topics(), Metrics()
        self.committed, self.model = Position(), model
        self.scorings: list[tuple[Gate, asyncio.Task[int]]] = []
        self.start()

    def start(self) -> None:
        """Start with what is durable, like after a crash."""
        both: Any = Told()
        reviews = Reviews(self.model, 100, self.metrics, self.clock)
        self.reviews = reviews
        self.pipeline = Pipeline(
            Stages(a_decoder(), reviews, both, both),
            sink=self.topics,
            topics=TOPICS,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.partition = Partition(0, PartitionState(NEVER_LATE_S), ScoreQueue(0.0))
        durable = self.topics.compacted("changelog")
        # One by one, in the order of a store that sorts its keys.
        for key in sorted(durable):
            changelog.load(self.partition.state, [key], [durable[key]])
        self.partition.resume(self.committed)
        self.partition.queue.push(self.partition.state.unscored(), 2, self.clock.monotonic(), 0.0)

    @property
    def users(self) -> set[str]:
        return set(rows_by_user(self.partition.state))

    def event(self, user: str, ago_s: int = 0, **more: Any) -> None:
        value = {"type": "view", "user_id": user, "ts": int(self.clock.time()) - ago_s, "event_id": f"e{len(self.log)}"}
        self._write(json.dumps({**value, **more}).encode(), user)

    def again(self, i: int) -> None:
        """Send an earlier record once more, as a replay of a file or of the dead letters does."""
        if self.log and (old := self.log[i % len(self.log)]).value is not None:
            self._write(old.value, "again")

    def erase(self, user: str) -> None:
        self._write(None, user, ERASE_HEADERS)

    def _write(self, value: bytes | None, key: str, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self.log.append(Record(len(self.log), value, int(self.clock.time() * 1000), key.encode(), headers))

    def ingest(self, n: int = 1_000) -> None:
        start = self.partition.next_offset
        self.pipeline.ingest(self.partition, self.log[start : start + n])

    async def checkpoint(self, commit: bool = True) -> None:
        position, _, _ = await self.pipeline.checkpoint(self.partition)
        self.committed = position if commit else self.committed

    async def begin_score(self, lands_first: bool) -> None:
        """Score until the scores are on their way, and hold them there."""
        self.topics.gate = gate = Gate(lands_first)
        scoring = asyncio.create_task(self.score())
        while not scoring.done() and self.topics.gate:
            await asyncio.sleep(0)
        self.topics.gate = None
        self.scorings.append((gate, scoring))

    async def score(self) -> int:
        return await self.pipeline.score([self.partition], 100)

    async def end_score(self, which: int = 0) -> None:
        if self.scorings:
            gate, scoring = self.scorings.pop(which % len(self.scorings))
            gate.opened.set()
            await scoring

    async def crash(self) -> None:
        for _, scoring in self.scorings:
            scoring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await scoring
        self.scorings, self.topics.refused = [], ""
        self.start()

    async def finish(self) -> None:
        """Read the rest of the log, and score every stale user."""
        self.ingest(len(self.log))
        while self.scorings:
            await self.end_score()
        for _ in range(3):
            await self.checkpoint()
            self.clock.advance(seconds=1)
            await self.score()
        await self.checkpoint()

    def outcome(self, name: str) -> float:
        return float(self.metrics.events.labels(name)._value.get())


# The oracle ------------------------------------------------------------------------------------------


def accepted(log: list[Record]) -> dict[str, list[Plain]]:
    """The events that a reader without crashes keeps of the log. ``item`` holds the offset of each."""
    kept: dict[str, list[Plain]] = {}
    erased: dict[str, tuple[int, int]] = {}
    for record in log:
        if record.value is None:
            user = (record.key or b"").decode()
            kept.pop(user, None)
            erased[user] = (record.timestamp // 1000, record.offset)
            continue
        e = json.loads(record.value)
        user = e["user_id"]
        before = user in erased and e["ts"] <= erased[user][0]
        if not before and all(e["event_id"] != known.identity for known in kept.get(user, [])):
            kept.setdefault(user, []).append(Plain(e["ts"], user, e["event_id"], 2, item=record.offset))
    return kept


def undisturbed(log: list[Record]) -> dict[str, bytes]:
    """Packed users, made by the state code from the accepted events alone. Each user has a state of their own."""
    out = {}
    for user, events in accepted(log).items():
        state = PartitionState(NEVER_LATE_S)
        for event in events:
            decoded = a_decoder().decode([log[event.item]], 2e9)
            state.apply(decoded.batch)
        (value,) = changelog.pack(state, np.array([0]))
        out[user] = without_scores(value)
    return out


def held(state: PartitionState) -> dict[str, bytes]:
    users = rows_by_user(state)
    packed = changelog.pack(state, np.array(list(users.values()), np.int64))
    return {user: without_scores(v) for user, v in zip(users, packed, strict=True)}


def assert_undisturbed(bench: Bench) -> None:
    """State, changelog and scores hold the users of the oracle, and nobody else."""
    expected = undisturbed(bench.log)
    assert held(bench.partition.state) == expected
    durable = {k: v for k, v in bench.topics.compacted("changelog").items() if not Erasures.is_marker(k)}
    assert {user: without_scores(value) for user, value in durable.items()} == expected
    scores = {user: msgspec.json.decode(v, type=Score) for user, v in bench.topics.compacted("scores").items()}
    last = {user: max(event.item for event in events) for user, events in accepted(bench.log).items()}
    assert {user: score.applied_offset for user, score in scores.items()} == last
