"""Erasure: whatever is replayed, re-sent, in flight or crashes, an erased user is gone, and no other is touched."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.checkpoint import changelog
from stream.checkpoint.packed_values import applied_offset
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews
from stream.checkpoint.position import Position
from stream.clock import ManualClock
from stream.contract.columns import USER
from stream.contract.score import Churn, LifetimeValue, ModelRef, Score
from stream.errors import ContractError
from stream.metrics import Metrics
from stream.outgoing import Outgoing, OutgoingLike
from stream.pipeline import Pipeline
from stream.score.decide import Decided
from stream.score.queue import ScoreQueue
from stream.state.erasure import COMMAND_HEADER, ERASE, Erasure, Erasures, Marker, marker_key, read_marker
from stream.state.partition_state import PartitionState
from tests.checkpoint.test_pending_reviews import Texts, Untold, a_decoder
from tests.state.reference import Plain
from tests.state.test_partition_state import START, batch
from tests.test_pipeline import TOPICS, MemorySink, Record

NEVER_LATE_S = 10_000 * 86_400
#: Columns of ``USER`` that scoring writes; which scores are made on the way depends on crashes.
SCORED = ("scored_offset", "scored_sentiment", "idle_stage", "churn", "purchase", "ltv", "alert_band", "alert_time")
ERASE_HEADERS = ((COMMAND_HEADER, ERASE),)


def rows_by_user(state: PartitionState) -> dict[str, int]:
    """The users that there are."""
    rows = state.index.rows(state.ids).tolist()
    return {user: row for user, row in zip(state.ids, rows, strict=True) if row >= 0}


class Told(Untold):
    """A scorer and decider whose score of a user says which event it has seen."""

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
        return Decided(scores, [], np.zeros(0, np.int64), zeros + 0.5, zeros, zeros, zeros, zeros)


@dataclass
class Gate:
    """Where a score waits on its way: before it lands in the topic, or for its acknowledgement after that."""

    lands_first: bool
    opened: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Topics(MemorySink):
    """Topics that outlive the worker; the next score meets the gate, if there is one."""

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
    """A worker's memory, and what outlives it: the log of records, the topics, and the committed position."""

    def __init__(self, model: Texts | None = None) -> None:
        self.clock, self.log, self.topics, self.metrics = ManualClock(START), [], Topics(), Metrics()
        self.committed, self.model = Position(), model
        self.scorings: list[tuple[Gate, asyncio.Task[int]]] = []
        self.start()

    def start(self) -> None:
        """Begin with what is durable, as after a crash."""
        both: Any = Told()
        reviews = Reviews(self.model, 100, self.metrics, self.clock)
        self.reviews = reviews
        self.pipeline = Pipeline(a_decoder(), both, both, self.topics, TOPICS, self.metrics, self.clock, reviews)
        self.partition = Partition(0, PartitionState(NEVER_LATE_S), ScoreQueue(0.0))
        durable = self.topics.compacted("changelog")
        # In parts, and in the order of a store that sorts its keys.
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
        """Take in all that is left, and score everybody who is to be scored."""
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


# The oracle -------------------------------------------------------------------------------------------


def accepted(log: list[Record]) -> dict[str, list[Plain]]:
    """What an undisturbed reader keeps of the log, one record after the other; ``item`` stands for the offset."""
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


def without_scores(value: bytes) -> bytes:
    head = np.frombuffer(value[1 : 1 + USER.itemsize], USER).copy()
    for name in SCORED:
        head[name] = 0
    return head.tobytes() + value[1 + USER.itemsize :]


def undisturbed(log: list[Record]) -> dict[str, bytes]:
    """Packed users as the pure state code makes them of the accepted events alone, each user in a state of its own."""
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
    """State, changelog and scores hold the oracle's users, and nobody else."""
    expected = undisturbed(bench.log)
    assert held(bench.partition.state) == expected
    durable = {k: v for k, v in bench.topics.compacted("changelog").items() if not Erasures.is_marker(k)}
    assert {user: without_scores(value) for user, value in durable.items()} == expected
    scores = {user: msgspec.json.decode(v, type=Score) for user, v in bench.topics.compacted("scores").items()}
    last = {user: max(event.item for event in events) for user, events in accepted(bench.log).items()}
    assert {user: score.applied_offset for user, score in scores.items()} == last


# Any interleaving -------------------------------------------------------------------------------------

USERS = st.sampled_from(["ann", "bob", "eve"])
STEPS = st.one_of(
    st.tuples(st.just("event"), USERS, st.integers(-20, 40)),
    st.tuples(st.just("again"), st.integers(0, 60)),
    st.tuples(st.just("erase"), USERS),
    st.tuples(st.just("ingest"), st.integers(1, 9)),
    st.tuples(st.just("checkpoint"), st.booleans()),
    st.tuples(st.just("begin_score"), st.booleans()),
    st.tuples(st.just("end_score"), st.integers(0, 3)),
    st.tuples(st.just("score")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("broken_checkpoint"), st.sampled_from(["dlq", "changelog", "scores"])),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)


async def go_through(steps: list[tuple[Any, ...]]) -> Bench:
    bench = Bench()
    for name, *given_ in steps:
        if name == "wait":
            bench.clock.advance(seconds=given_[0])
        elif name == "broken_checkpoint":
            bench.topics.refused = given_[0]
            with contextlib.suppress(ConnectionError):
                await bench.checkpoint()
            await bench.crash()
        else:
            done = getattr(bench, name)(*given_)
            if asyncio.iscoroutine(done):
                await done
    await bench.finish()
    return bench


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=4, max_size=40))
@example(
    [
        *(("event", "ann", 0), ("ingest", 9), ("begin_score", False), ("erase", "ann"), ("ingest", 9)),
        *(("checkpoint", True), ("end_score", 0), ("crash",)),
    ]
)
@example([("event", "ann", -20), ("erase", "ann"), ("ingest", 9)])
def test_any_interleaving_of_events_erasures_scores_and_crashes_comes_to_what_an_undisturbed_reader_keeps(
    steps: list[tuple[Any, ...]],
) -> None:
    assert_undisturbed(asyncio.run(go_through(steps)))


# One by one -------------------------------------------------------------------------------------------


async def test_erased_user_leaves_state_changelog_and_scores_and_only_a_marker_stays() -> None:
    bench = Bench()
    bench.event("ann")
    bench.event("bob")
    await bench.finish()
    before = held(bench.partition.state)["bob"]
    bench.erase("ann")
    await bench.finish()
    assert (bench.users, set(bench.topics.compacted("scores"))) == ({"bob"}, {"bob"})
    durable = bench.topics.compacted("changelog")
    assert set(durable) == {"bob", marker_key("ann")}
    assert read_marker(durable[marker_key("ann")]) == Marker(int(bench.clock.time()) - 3, 2)
    assert held(bench.partition.state)["bob"] == before
    assert b"ann" not in b"".join(key.encode() + value for key, value in durable.items())
    assert bench.outcome("erasure") == 1


async def test_score_in_flight_while_its_user_is_erased_is_erased_after_it() -> None:
    for lands_first in (False, True):
        bench = Bench()
        bench.event("ann")
        bench.ingest()
        await bench.begin_score(lands_first)
        bench.erase("ann")
        bench.ingest()
        await bench.checkpoint()
        assert bench.committed.offset == 1, "the erasure was committed although a score may still follow it"
        await bench.end_score()
        assert "ann" in bench.topics.compacted("scores") or lands_first
        await bench.checkpoint()
        assert bench.committed.offset == 2
        assert not bench.topics.compacted("scores")
        assert not bench.users
        assert not bench.partition.state.users["churn"].any()


async def came_back_with_a_score_under_way() -> Bench:
    """A bench whose user was erased and came back while a score from before is sent, which has not landed."""
    bench = Bench()
    bench.event("ann")
    bench.ingest()
    await bench.begin_score(lands_first=False)
    bench.erase("ann")
    bench.clock.advance(seconds=5)
    bench.event("ann")
    bench.ingest()
    return bench


@pytest.mark.parametrize("crashes", [False, True])
async def test_score_of_who_was_erased_does_not_stay_in_the_place_of_who_came_back(crashes: bool) -> None:
    bench = await came_back_with_a_score_under_way()
    assert await bench.score() == 1
    await bench.checkpoint()
    await bench.end_score()
    assert msgspec.json.decode(bench.topics.compacted("scores")["ann"], type=Score).applied_offset == 0
    await bench.checkpoint()
    assert bench.committed.offset == 3
    if crashes:
        await bench.crash()
    await bench.finish()
    score = msgspec.json.decode(bench.topics.compacted("scores")["ann"], type=Score)
    assert (score.applied_offset, score.n_events) == (2, 1)


async def test_score_of_who_came_back_is_made_again_when_an_older_one_lands_before_its_acknowledgement() -> None:
    bench = await came_back_with_a_score_under_way()
    await bench.begin_score(lands_first=True)
    await bench.end_score(0)
    await bench.checkpoint()
    await bench.end_score()
    await bench.checkpoint()
    await bench.crash()
    await bench.finish()
    assert_undisturbed(bench)


async def test_who_comes_back_and_is_scored_while_the_tombstone_is_sent_keeps_a_score() -> None:
    bench = Bench()
    bench.event("ann")
    await bench.finish()
    bench.erase("ann")
    bench.ingest()
    send = bench.topics.send

    async def meanwhile(topic: str, partition: int, records: Iterable[Outgoing]) -> int | None:
        if topic == "scores":
            bench.topics.send = send  # type: ignore[method-assign]
            bench.clock.advance(seconds=5)
            bench.event("ann")
            bench.ingest()
            await bench.score()
        return await send(topic, partition, records)

    bench.topics.send = meanwhile  # type: ignore[method-assign]
    await bench.checkpoint()
    assert "ann" not in bench.topics.compacted("scores")
    await bench.checkpoint()
    await bench.crash()
    await bench.finish()
    assert_undisturbed(bench)


async def test_events_from_before_stay_away_by_whatever_way_they_come_and_newer_ones_begin_anew() -> None:
    bench = Bench()
    bench.event("ann", category="shoes")
    bench.event("ann", ago_s=30)
    bench.erase("ann")
    await bench.finish()
    bench.again(0)
    bench.again(1)
    await bench.crash()
    await bench.finish()
    assert bench.users == set()
    assert bench.outcome("erased") == 4  # two covered in the fetch of the erasure, two sent again
    bench.clock.advance(seconds=10)
    bench.event("ann")
    bench.ingest()
    bench.again(0)
    await bench.finish()
    assert bench.partition.state.users["n_events"][bench.partition.state.index.row("ann")] == 1
    assert bench.outcome("erased") == 5
    assert_undisturbed(bench)


async def test_events_of_an_erased_user_are_no_dead_letters_however_late() -> None:
    bench = Bench()
    bench.partition.state.lateness_s = 60
    bench.event("ann", ago_s=100)
    bench.event("bob")
    bench.erase("ann")
    bench.again(0)
    bench.event("eve", ago_s=100)
    await bench.finish()
    assert len(bench.topics.sent["dlq"]) == 1
    assert (bench.outcome("erased"), bench.outcome("late")) == (2, 1)


def test_erasure_that_is_read_again_leaves_who_came_back_since_as_they_are() -> None:
    state, erasure = PartitionState(NEVER_LATE_S), Erasure("ann", START, 1)
    state.apply(batch([Plain(START, "ann", 1, 2)], 0))
    assert state.erase(erasure) == 0
    state.apply(batch([Plain(START + 9, "ann", 2, 2)], 2))
    state.users["alert_time"][1] = START
    assert state.erase(erasure) == -1
    assert (rows_by_user(state), state.users["alert_time"][1]) == ({"ann": 1}, START)


async def test_user_in_a_buckets_pool_takes_their_buckets_along() -> None:
    bench = Bench()
    for i in range(80):
        bench.event("ann", ago_s=800 - 10 * i)
    bench.ingest()
    (row,) = rows_by_user(bench.partition.state).values()
    assert bench.partition.state.buckets.take(np.array([row]))[1]["count"].sum() > 0
    bench.erase("ann")
    bench.ingest()
    state = bench.partition.state
    assert not state.buckets.take(np.array([row]))[1]["count"].any()
    assert not state.history[row].tobytes().strip(b"\0")
    assert not state.seen[row].any()


async def test_pending_review_is_blanked_and_its_sentiment_leaves_no_trace() -> None:
    bench = Bench(Texts())
    bench.event("ann", type="review", text="my secret")
    bench.event("bob", type="review", text="fits well")
    bench.ingest()
    bench.erase("ann")
    bench.ingest()
    assert await bench.reviews.score([bench.partition]) == 2
    assert bench.model is not None
    assert bench.model.read == [["", "fits well"]]
    await bench.finish()
    assert bench.users == {"bob"}
    assert bench.partition.state.users["reviews"][bench.partition.state.index.row("bob")] == 1


async def test_value_that_a_replaced_worker_left_behind_is_dropped_and_buried_again() -> None:
    bench = Bench()
    bench.event("ann")
    bench.ingest()
    (value,) = changelog.pack(bench.partition.state, np.array([0]))
    bench.erase("ann")
    await bench.finish()
    bench.topics.sent["changelog"].append(Outgoing(b"ann", value))
    await bench.crash()
    assert bench.users == set()
    assert bench.partition.has_news
    await bench.checkpoint()
    assert set(bench.topics.compacted("changelog")) == {marker_key("ann")}
    assert not bench.partition.has_news


@pytest.mark.parametrize("marker_first", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_markers_and_users_are_read_in_any_order_and_parts(marker_first: bool, at_once: bool) -> None:
    state = PartitionState(NEVER_LATE_S)
    state.apply(batch([Plain(START, "ann", 1, 2), Plain(START, "bob", 2, 2), Plain(START + 9, "eve", 3, 2)], 0))
    items = list(zip(state.ids, changelog.pack(state, np.arange(3)), strict=True))
    markers = [(marker_key("ann"), Marker(START, 0).packed()), (marker_key("eve"), Marker(START, 1).packed())]
    items = [*markers, *items] if marker_first else [*items, *markers]
    recovered = PartitionState(NEVER_LATE_S)
    for part in [items] if at_once else [[item] for item in items]:
        changelog.load(recovered, [key for key, _ in part], [value for _, value in part])
    assert (set(rows_by_user(recovered)), recovered.leftover) == ({"bob", "eve"}, ["ann"])
    applied = recovered.apply(
        batch([Plain(START, "eve", 9, 2), Plain(START, "ann", 8, 2), Plain(START, "bob", 7, 2)], 5)
    )
    assert (applied.n_erased, applied.n_accepted) == (2, 1)


async def test_silence_and_the_queue_do_not_bring_an_erased_user_back() -> None:
    bench = Bench()
    bench.event("ann")
    bench.ingest()
    bench.erase("ann")
    bench.ingest()
    assert bench.partition.queue_silent(int(bench.clock.time()) + 40 * 86_400, 5, bench.clock.monotonic()) == 0
    assert await bench.score() == 0
    assert bench.partition.state.unscored().tolist() == []


@pytest.mark.parametrize(
    ("key", "headers", "reason"),
    [
        (b"ann", (), "null"),
        (b"ann", ((COMMAND_HEADER, b"forget"),), "null"),
        (b"ann", (("other", ERASE),), "null"),
        (None, ERASE_HEADERS, "user"),
        (b"\xff", ERASE_HEADERS, "user"),
        (b"a\0b", ERASE_HEADERS, "user"),
        (b"a" * 257, ERASE_HEADERS, "user"),
    ],
)
def test_null_that_is_no_erasure_is_a_dead_letter(key: bytes | None, headers: Any, reason: str) -> None:
    decoded = a_decoder().decode([Record(0, None, 0, key, headers)], 1e9)
    assert decoded.erasures == []
    assert [dead.reason for dead in decoded.dead] == [reason]
    assert decoded.n_ignored == 0


@pytest.mark.parametrize(("timestamp_ms", "time"), [(-1, 0), (1_999, 1), (10**15, 1_300)])
def test_erasure_has_the_time_of_its_record_and_none_of_the_future(timestamp_ms: int, time: int) -> None:
    decoded = a_decoder().decode([Record(7, None, timestamp_ms, b"ann", ERASE_HEADERS)], now=1_000)
    assert decoded.erasures == [Erasure("ann", time, 7)]


def test_marker_takes_36_bytes_and_one_of_another_version_is_refused() -> None:
    assert len(marker_key("ann" * 99).encode()) + len(Marker(2**32 - 1, 2**62).packed()) == 36
    with pytest.raises(ContractError, match="version 130"):
        read_marker(b"\x82" + Marker(1, 1).packed()[1:])


def test_release_without_markers_refuses_them_as_newer_state() -> None:
    with pytest.raises(ContractError, match="state version is 129"):
        changelog.load(PartitionState(0), ["ann"], [Marker(1, 1).packed()])


def test_of_two_markers_each_reach_counts_whatever_their_order() -> None:
    erasures = Erasures()
    for marker in (Marker(50, 9), Marker(70, 3), Marker(10, 1)):
        erasures.put(marker_key("ann"), marker)
    assert erasures.marker_of("ann") == Marker(70, 9)


def test_applied_offset_of_a_marker_is_its_own() -> None:
    assert applied_offset(Marker(1_700_000_000, 123_456).packed()) == 123_456


def test_nobody_is_looked_up_where_nobody_was_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.state.erasure.blake2b", None)
    state = PartitionState(NEVER_LATE_S)
    state.apply(batch([Plain(START, f"u{i}", i + 1, 2) for i in range(50)], 0))
    assert len(state) == 50
