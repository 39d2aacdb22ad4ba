"""Pending reviews: a sentiment comes beside ingestion, and after any crash none is lost and none counts twice."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.checkpoint import changelog
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews
from stream.checkpoint.position import Position
from stream.clock import ManualClock
from stream.decode.decoder import Decoder, Money
from stream.errors import ScoringError
from stream.metrics import Metrics
from stream.pipeline import Pipeline, Stages
from stream.score.decide import Decided, score_id
from stream.score.queue import ScoreQueue
from stream.state.partition_state import PartitionState, Snapshot
from tests.state.test_partition_state import packed
from tests.test_pipeline import TOPICS, MemorySink, Record

LATENESS_S = 3_600


def sentiment_of(text: str) -> float:
    """Make up a sentiment that depends only on the text."""
    return (xxhash.xxh3_64_intdigest(text.encode()) % 201 - 100) / 100


@dataclass
class Texts:
    """A sentiment model that returns made-up sentiments. It fails while ``failing`` is set."""

    read: list[list[str]] = field(default_factory=list)
    failing: bool = False

    def run(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self.failing:
            raise ScoringError("no")
        self.read.append(list(texts))
        return np.array([sentiment_of(text) for text in texts], np.float32)


class Untold:
    """A model and decider that keep the users they were asked for, and say nothing about them."""

    manifest = SimpleNamespace(labels=SimpleNamespace(eligible_days=30))

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, snapshot: Snapshot, as_of: Any) -> Untold:
        return self

    def decide(self, snapshot: Snapshot, as_of: Any, raw: Any) -> Decided:
        self.asked += snapshot.ids
        zeros = np.zeros(len(as_of))
        return Decided(
            scores=[],
            alerts=[],
            alerted=np.zeros(0, np.int64),
            churn=zeros,
            purchase=zeros,
            ltv=zeros,
            alert_band=zeros,
            alert_time=zeros,
        )


def a_decoder() -> Decoder:
    return Decoder("flat", Money("USD"), bytes_max=10_000, future_skew_s=300)


class Bench:
    """The memory of a worker, and what outlives it: the log of events, the changelog and the committed position."""

    def __init__(self, model: Texts | None, pending_max: int = 100) -> None:
        self.model, self.pending_max = model, pending_max
        self.clock, self.log = ManualClock(), []
        self.changelog: dict[bytes, bytes] = {}
        self.committed = Position()
        self.metrics = Metrics()
        self.start()

    def start(self) -> None:
        """Start from what is durable, as after a crash."""
        self.sink, self.untold = MemorySink(), Untold()
        self.reviews = Reviews(self.model, self.pending_max, self.metrics, self.clock)
        both: Any = self.untold
        self.pipeline = Pipeline(
            Stages(a_decoder(), self.reviews, both, both),
            sink=self.sink,
            topics=TOPICS,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.partition = Partition(0, PartitionState(LATENESS_S), ScoreQueue(0.0))
        changelog.load(self.partition.state, [k.decode() for k in self.changelog], list(self.changelog.values()))
        self.partition.resume(self.committed)

    @property
    def user(self) -> Any:
        """Return the first user's state."""
        return self.partition.state.users[0]

    def write(self, *events: dict[str, Any]) -> None:
        """Write events to the log: a review if the event has a text, else a view."""
        for event in events:
            value = {"type": "review" if "text" in event else "view", "ts": self.clock.time(), **event}
            value = {"user_id": "u", "event_id": f"e{len(self.log)}", **value}
            self.log.append(Record(len(self.log), json.dumps(value).encode(), int(self.clock.time() * 1000)))

    def ingest(self, n: int = 1_000) -> None:
        """Take in the next ``n`` records of the log."""
        start = self.partition.next_offset
        self.pipeline.ingest(self.partition, self.log[start : start + n])

    async def note(self) -> int:
        return await self.reviews.score([self.partition])

    async def checkpoint(self, commit: bool = True) -> None:
        """Make the state durable and commit the position. Without ``commit``, a crash comes in between."""
        position, users, _ = await self.pipeline.checkpoint(self.partition)
        self.changelog.update(zip(users.keys, users.values, strict=True))
        self.committed = position if commit else self.committed

    async def finish(self) -> dict[str, bytes]:
        """Take in the rest of the log and return the packed state."""
        self.ingest(len(self.log))
        while await self.note():
            pass
        return packed(self.partition.state)


# Sentiments into state -------------------------------------------------------------------------------


async def test_review_gets_its_sentiment_and_its_user_is_scored_again() -> None:
    bench = Bench(Texts())
    bench.write({"text": "fits well"})
    bench.ingest()
    await bench.pipeline.score([bench.partition], 10)
    assert (bench.user["reviews"], bench.partition.state.unscored().tolist()) == (0, [])
    assert await bench.note() == 1
    assert (bench.user["reviews"], bench.user["sentiment_sum"]) == (1, round(100 * sentiment_of("fits well")))
    assert bench.user["sentiment_offset"] == 0
    assert bench.partition.state.unscored().tolist() == [0]
    await bench.pipeline.score([bench.partition], 10)
    assert bench.untold.asked == ["u", "u"]
    assert bench.partition.state.unscored().tolist() == []
    assert b'scores_total{trigger="review"} 1.0' in bench.metrics.render()[0]


async def test_user_with_a_sentiment_during_their_scoring_stays_stale() -> None:
    bench = Bench(Texts())
    bench.write({"text": "fits well"})
    bench.ingest()
    decide = bench.untold.decide

    def meanwhile(snapshot: Snapshot, as_of: Any, raw: Any) -> Decided:
        bench.partition.state.note_sentiments(np.array([0]), np.array([0]), np.array([0.5]))
        return decide(snapshot, as_of, raw)

    bench.untold.decide = meanwhile  # type: ignore[method-assign]
    await bench.pipeline.score([bench.partition], 10)
    assert bench.partition.state.unscored().tolist() == [0]


def test_score_id_depends_on_the_sentiments_seen_and_is_the_old_one_without_any() -> None:
    ids = [score_id("u", 12, 1_700_000_000, "a" * 64, sentiment_offset=offset) for offset in (-1, 0, 3, 12)]
    assert len(set(ids)) == 4
    assert ids[0] == score_id("u", 12, 1_700_000_000, "a" * 64)


async def test_only_an_accepted_review_with_a_text_waits_for_a_sentiment() -> None:
    bench = Bench(Texts())
    late = {"text": "late", "ts": bench.clock.time() - LATENESS_S - 1}
    bench.write({"text": "once", "event_id": "e"}, {"text": "once", "event_id": "e"}, late, {"text": " "}, {})
    bench.ingest(1)
    bench.ingest()
    assert await bench.note() == 1
    assert await bench.note() == 0
    assert (bench.model.read, bench.user["reviews"], bench.user["n_events"]) == ([["once"]], 1, 3)


async def test_without_a_model_a_review_does_not_hold_the_position() -> None:
    bench = Bench(None)
    bench.write({"text": "fits well"}, {})
    bench.ingest()
    assert await bench.note() == 0
    assert (bench.partition.position().offset, bench.partition.state.awaited) == (2, {})
    assert (bench.user["reviews"], bench.user["n_events"]) == (0, 2)


async def test_failed_inference_loses_no_review_and_is_counted() -> None:
    bench = Bench(Texts(failing=True))
    bench.write({"text": "fits well"})
    bench.ingest()
    for _ in range(2):
        with pytest.raises(ScoringError):
            await bench.note()
    assert bench.partition.position().offset == 0
    assert b"sentiment_errors_total 2.0" in bench.metrics.render()[0]
    bench.model.failing = False
    assert await bench.note() == 1
    assert bench.user["reviews"] == 1


async def test_reviews_of_all_partitions_share_a_batch() -> None:
    bench, other = Bench(Texts()), Partition(1, PartitionState(LATENESS_S), ScoreQueue(0.0))
    bench.write(*({"text": f"t{i}", "user_id": f"u{i}"} for i in range(100)))
    bench.ingest()
    bench.pipeline.ingest(other, bench.log[:3])
    assert await bench.reviews.score([bench.partition, other]) == 16 + 3
    assert (len(bench.partition.reviews), len(other.reviews)) == (84, 0)
    assert other.state.users["reviews"][:3].tolist() == [1, 1, 1]


# The position ----------------------------------------------------------------------------------------


async def test_position_stays_before_the_oldest_pending_review() -> None:
    bench = Bench(Texts())
    bench.write({}, {"text": "a"}, {}, {"text": "b"}, {})
    bench.ingest()
    await bench.checkpoint()
    assert (bench.committed.offset, bench.partition.next_offset) == (1, 5)
    await bench.note()
    await bench.checkpoint()
    assert bench.committed.offset == 5


async def test_position_moves_with_each_batch_of_sentiments_within_one_fetch() -> None:
    bench = Bench(Texts())
    bench.write(*({"text": f"t{i}", "user_id": f"u{i % 7}"} for i in range(100)))
    bench.ingest()
    offsets = []
    while await bench.note():
        offsets.append(bench.partition.position().offset)
    assert offsets == [32, 64, 96, 100]


async def test_position_before_a_pending_review_has_the_watermark_and_arrival_of_the_event_before_it() -> None:
    bench = Bench(Texts())
    start = bench.clock.time()
    bench.write({"ts": start})
    bench.ingest()
    bench.clock.advance(seconds=60)
    bench.write({"text": "a", "ts": start + 50}, {"text": "b", "ts": start + 40}, {"ts": start + 60})
    bench.ingest()
    assert [review.before for review in bench.partition.reviews] == [
        Position(1, int(start), start),
        Position(2, int(start) + 50, start + 60),
    ]


async def test_pending_review_is_read_again_after_a_crash_but_not_its_repeat() -> None:
    bench = Bench(Texts())
    bench.write({"text": "a", "event_id": "a"}, {"text": "b", "event_id": "b"}, {"text": "a", "event_id": "a"}, {})
    bench.ingest(1)
    await bench.note()
    bench.ingest()
    await bench.checkpoint()
    assert bench.committed.offset == 1
    bench.start()
    assert bench.user["reviews"] == 1
    await bench.finish()
    assert bench.model.read == [["a"], ["b"]]
    assert bench.user["sentiment_sum"] == round(100 * sentiment_of("a")) + round(100 * sentiment_of("b"))


async def test_sentiment_that_was_durable_but_not_committed_counts_once() -> None:
    bench = Bench(Texts())
    bench.write({"text": "a"}, {})
    bench.ingest()
    await bench.checkpoint()
    await bench.note()
    await bench.checkpoint(commit=False)
    bench.start()
    assert bench.committed.offset == 0
    await bench.finish()
    assert (bench.model.read, bench.user["reviews"]) == ([["a"]], 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_state_after_any_crashes_is_that_of_a_run_without_crashes(seed: int) -> None:
    asyncio.run(crashes(random.Random(seed)))


async def crashes(rng: random.Random) -> None:
    """Do fetches, sentiments, checkpoints, commits and crashes in any order, over reviews, repeats and late events."""
    crashing = Bench(Texts())
    n = rng.randrange(1, 150)
    for i in range(n):
        about = {"event_id": f"e{rng.randrange(i + 1)}", "user_id": f"u{rng.randrange(4)}"}
        about["ts"] = crashing.clock.time() - rng.choice([0, 60, LATENESS_S - 5, LATENESS_S + 5]) + i
        if rng.random() < 0.6:
            about["text"] = f"text {rng.randrange(50)}"
        crashing.write(about)
    for _ in range(rng.randrange(40)):
        step = rng.choice(["ingest", "ingest", "note", "note", "checkpoint", "uncommitted", "crash"])
        if step == "ingest":
            crashing.ingest(rng.randrange(1, 30))
        elif step == "note":
            await crashing.note()
        elif step == "crash":
            crashing.start()
        else:
            await crashing.checkpoint(commit=step == "checkpoint")
        awaited = [offset for offsets in crashing.partition.state.awaited.values() for offset in offsets]
        assert crashing.partition.position().offset <= min(awaited, default=n)
    assert await crashing.finish() == undisturbed(crashing.log, crashing.clock.time())


def undisturbed(log: list[Record], now: float) -> dict[str, bytes]:
    """Return the packed state after taking in one event at a time, with the sentiment of each review at once."""
    state, decoder = PartitionState(LATENESS_S), a_decoder()
    for record in log:
        decoded = decoder.decode([record], now)
        applied = state.apply(decoded.batch)
        for _, text in decoded.reviews if applied.n_accepted else ():
            state.note_sentiments(applied.users, np.array([record.offset]), np.array([sentiment_of(text)]))
    return packed(state)


# The bound -------------------------------------------------------------------------------------------


async def test_ingestion_waits_at_the_bound_for_sentiments(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="stream.checkpoint.pending_reviews")
    bench = Bench(Texts(), pending_max=3)
    bench.write(*({"text": f"t{i}"} for i in range(6)))
    partitions = {0: bench.partition}
    for waits in (1, 2):
        bench.ingest(2)
        await bench.reviews.room(partitions.values)
        bench.ingest(1)
        room = asyncio.create_task(bench.reviews.room(partitions.values))
        while f"reviews_waits_total {waits}.0".encode() not in bench.metrics.render()[0]:
            await asyncio.sleep(0)
        assert not room.done()
        await bench.note()
        await room
    assert len([r for r in caplog.records if "reviews wait" in r.message]) == 1


async def test_ingestion_does_not_wait_for_the_reviews_of_revoked_partitions() -> None:
    bench = Bench(Texts(), pending_max=1)
    bench.write({"text": "a"})
    bench.ingest()
    partitions = {0: bench.partition}
    room = asyncio.create_task(bench.reviews.room(partitions.values))
    await asyncio.sleep(0)
    assert not room.done()
    partitions.clear()
    await room
