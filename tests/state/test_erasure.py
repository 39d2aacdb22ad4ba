"""Erasure: after any replay, repeat, crash or score under way the erased user is gone, and no other is touched."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import pytest

from stream.checkpoint import changelog
from stream.checkpoint.packed_values import applied_offset
from stream.contract.score import Score
from stream.errors import ContractError
from stream.outgoing import Outgoing
from stream.state.erasure import Erasure, Erasures, Marker, marker_key, read_marker
from stream.state.partition_state import PartitionState
from tests.checkpoint.test_pending_reviews import Texts
from tests.state.erasure_bench import (
    NEVER_LATE_S,
    Bench,
    assert_undisturbed,
    held,
    rows_by_user,
)
from tests.state.reference import Plain
from tests.state.test_partition_state import START, batch

# Markers and state -----------------------------------------------------------------------------------


def test_marker_takes_36_bytes_and_one_of_another_version_is_refused() -> None:
    assert len(marker_key("ann" * 99).encode()) + len(Marker(2**32 - 1, 2**62).packed()) == 36
    with pytest.raises(ContractError, match="version 130"):
        read_marker(b"\x82" + Marker(1, 1).packed()[1:])


def test_release_without_markers_refuses_them_as_newer_state() -> None:
    with pytest.raises(ContractError, match="state version is 129"):
        changelog.load(PartitionState(0), ["ann"], [Marker(1, 1).packed()])


def test_several_markers_of_a_user_keep_the_largest_time_and_offset_in_any_order() -> None:
    erasures = Erasures()
    for marker in (Marker(50, 9), Marker(70, 3), Marker(10, 1)):
        erasures.put(marker_key("ann"), marker)
    assert erasures.marker_of("ann") == Marker(70, 9)


def test_applied_offset_of_a_marker_is_the_offset_of_the_erasure() -> None:
    assert applied_offset(Marker(1_700_000_000, 123_456).packed()) == 123_456


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


def test_erasure_that_is_read_again_leaves_a_user_who_came_back_unchanged() -> None:
    state, erasure = PartitionState(NEVER_LATE_S), Erasure("ann", START, 1)
    state.apply(batch([Plain(START, "ann", 1, 2)], 0))
    assert state.erase(erasure) == 0
    state.apply(batch([Plain(START + 9, "ann", 2, 2)], 2))
    state.users["alert_time"][1] = START
    assert state.erase(erasure) == -1
    assert (rows_by_user(state), state.users["alert_time"][1]) == ({"ann": 1}, START)


def test_no_marker_is_looked_up_if_nobody_was_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.state.erasure.blake2b", None)
    state = PartitionState(NEVER_LATE_S)
    state.apply(batch([Plain(START, f"u{i}", i + 1, 2) for i in range(50)], 0))
    assert len(state) == 50


# Through the pipeline --------------------------------------------------------------------------------


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
    """A bench with a user who was erased and came back. A score from before is being sent and has not landed."""
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
async def test_score_from_before_the_erasure_does_not_replace_the_score_of_a_user_who_came_back(crashes: bool) -> None:
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


async def test_user_who_came_back_is_scored_again_if_an_older_score_lands_before_the_acknowledgement() -> None:
    bench = await came_back_with_a_score_under_way()
    await bench.begin_score(lands_first=True)
    await bench.end_score(0)
    await bench.checkpoint()
    await bench.end_score()
    await bench.checkpoint()
    await bench.crash()
    await bench.finish()
    assert_undisturbed(bench)


async def test_user_who_comes_back_and_is_scored_while_the_tombstone_is_sent_keeps_a_score() -> None:
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


async def test_events_from_before_are_dropped_in_every_replay_and_newer_ones_begin_a_new_user() -> None:
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


async def test_late_events_of_an_erased_user_are_not_dead_letters() -> None:
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


async def test_buckets_of_an_erased_user_are_erased() -> None:
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


async def test_value_that_a_replaced_worker_left_behind_is_dropped_and_gets_a_tombstone() -> None:
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


async def test_neither_silence_nor_the_queue_brings_an_erased_user_back() -> None:
    bench = Bench()
    bench.event("ann")
    bench.ingest()
    bench.erase("ann")
    bench.ingest()
    assert bench.partition.queue_silent(int(bench.clock.time()) + 40 * 86_400, 5, bench.clock.monotonic()) == 0
    assert await bench.score() == 0
    assert bench.partition.state.unscored().tolist() == []
