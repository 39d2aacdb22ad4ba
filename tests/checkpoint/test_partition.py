"""Partition: its event time, the ages of silence, and how scores are written into its state."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given

from stream.checkpoint.partition import QUIET_AFTER_S, Partition
from stream.checkpoint.position import Position
from stream.clock import ManualClock
from stream.contract.columns import IDLE_AGES_S
from stream.score.decide import Decided
from stream.score.queue import ScoreQueue
from stream.state.partition_state import PartitionState
from tests.checkpoint.test_position import POSITIONS
from tests.state.reference import Plain
from tests.state.test_partition_state import DAY, batch

IDLE_STAGE_MAX = len(IDLE_AGES_S) - 1


@dataclass
class Bench:
    """A partition with a clock that the test moves and made-up scores."""

    clock: ManualClock = field(default_factory=ManualClock)
    partition: Partition = field(default_factory=lambda: Partition(0, PartitionState(40 * DAY), ScoreQueue(1.0)))

    @property
    def event_now(self) -> int:
        return self.partition.event_now(self.clock.time())

    def events(self, *users: str, ago_s: int = 0) -> None:
        """Take in one event of each user, as the pipeline does."""
        p, now = self.partition, self.clock.time()
        identities = range(p.next_offset + 1, p.next_offset + 1 + len(users))
        events = [Plain(int(now) - ago_s, user, i, 2) for user, i in zip(users, identities, strict=True)]
        applied = p.state.apply(batch(events, p.next_offset))
        p.next_offset, p.arrival, p.highwater = p.next_offset + len(users), now, p.next_offset + len(users)
        p.queue.push(applied.rows, 2, self.clock.monotonic(), now)
        p.dirty.append(applied.rows)

    def score(self, meanwhile: tuple[str, ...] = ()) -> list[str]:
        """Score all who wait. The users in ``meanwhile`` get an event before the scores are acknowledged."""
        p = self.partition
        rows, _ = p.queue.take(1_000, self.clock.monotonic())
        stages = p.idle_stage_at(rows, self.event_now, IDLE_STAGE_MAX)
        snapshot = p.state.snapshot(rows)
        if meanwhile:
            self.events(*meanwhile)
        p.note_scores(rows, snapshot, stages, decided(len(rows)))
        p.queue.release(rows, self.clock.monotonic())
        return snapshot.ids

    def sweep(self) -> list[str]:
        """Look for silent users and score them."""
        self.partition.queue_silent(self.event_now, IDLE_STAGE_MAX, self.clock.monotonic())
        return self.score()


def decided(n: int, churn: float = 0.25) -> Decided:
    zeros = np.zeros(n)
    return Decided(
        scores=[],
        alerts=[],
        alerted=np.zeros(0, np.int64),
        churn=np.full(n, churn),
        purchase=zeros + 0.5,
        ltv=zeros + 9,
        alert_band=zeros.astype(np.uint8) + 1,
        alert_time=zeros + 7,
    )


# Event time ------------------------------------------------------------------------------------------


def test_event_time_stands_still_while_events_flow() -> None:
    bench = Bench()
    bench.events("u", ago_s=3_600)
    watermark = bench.partition.state.watermark
    assert bench.event_now == watermark
    bench.clock.advance(seconds=QUIET_AFTER_S - 0.5)
    assert bench.event_now == watermark


def test_event_time_goes_on_with_the_wall_clock_when_the_topic_is_quiet() -> None:
    bench = Bench()
    bench.events("u", ago_s=3_600)
    bench.clock.advance(seconds=QUIET_AFTER_S)
    assert bench.event_now == bench.partition.state.watermark + QUIET_AFTER_S
    bench.clock.advance(seconds=3 * DAY)
    assert bench.event_now == bench.partition.state.watermark + QUIET_AFTER_S + 3 * DAY


def test_event_time_stands_still_behind_a_backlog_even_if_nothing_arrives() -> None:
    bench = Bench()
    bench.events("u")
    bench.clock.advance(seconds=30 * DAY)
    for highwater in (None, bench.partition.next_offset + 1):
        bench.partition.highwater = highwater
        assert bench.event_now == bench.partition.state.watermark
    bench.partition.highwater = bench.partition.next_offset
    assert bench.event_now == bench.partition.state.watermark + 30 * DAY


def test_new_partition_has_event_time_0_at_any_wall_clock_time() -> None:
    bench = Bench()
    assert bench.event_now == 0
    bench.partition.highwater = 0
    assert bench.event_now == 0


def test_event_time_does_not_go_back_with_the_wall_clock() -> None:
    bench = Bench()
    bench.events("u")
    assert bench.partition.event_now(bench.clock.time() - 30 * DAY) == bench.partition.state.watermark


def test_lag_counts_the_records_that_were_not_taken_in() -> None:
    partition = Partition(0, PartitionState(0), ScoreQueue(1.0), next_offset=5)
    for highwater, lag in ((None, 0), (5, 0), (9, 4), (3, 0)):
        partition.highwater = highwater
        assert partition.lag == lag


# Resuming --------------------------------------------------------------------------------------------


@given(POSITIONS)
def test_partition_resumes_at_the_committed_position(position: Position) -> None:
    partition = Partition(0, PartitionState(0), ScoreQueue(1.0))
    partition.resume(position)
    assert partition.position() == partition.durable == position


def test_silence_goes_on_through_a_restart() -> None:
    before = Bench()
    before.events("u")
    after = Bench(clock=before.clock)
    after.partition.resume(Position.read(1, before.partition.position().metadata()))
    after.partition.highwater = 1
    before.clock.advance(seconds=2 * DAY)
    assert after.event_now == before.event_now == before.partition.state.watermark + 2 * DAY


# Ages of silence -------------------------------------------------------------------------------------


def test_silent_user_is_scored_once_at_each_age_while_others_go_on() -> None:
    bench = Bench()
    bench.events("silent")
    assert bench.score() == ["silent"]
    hours = []
    for hour in range(1, 40 * 24 + 1):
        bench.clock.advance(seconds=3_600)
        bench.events("busy")
        hours += [hour for user in bench.sweep() if user == "silent"]
    assert hours == [24 * days for days in (1, 3, 7, 14, 30)]


def test_silent_topic_scores_its_user_once_at_each_age() -> None:
    bench = Bench()
    bench.events("u")
    assert bench.score() == ["u"]
    hours = []
    for hour in range(1, 40 * 24 + 1):
        bench.clock.advance(seconds=3_600)
        hours += [hour] * len(bench.sweep())
    assert hours == [24 * days for days in (1, 3, 7, 14, 30)]


def test_user_who_passed_several_ages_at_once_is_scored_once_at_the_last() -> None:
    bench = Bench()
    bench.events("u")
    bench.score()
    bench.clock.advance(seconds=8 * DAY)
    assert bench.sweep() == ["u"]
    assert bench.partition.state.users["idle_stage"][0] == IDLE_AGES_S.tolist().index(7 * DAY)
    assert bench.sweep() == []


def test_silence_of_a_user_who_came_back_is_counted_from_zero() -> None:
    bench = Bench()
    bench.events("u")
    bench.score()
    for _ in range(2):
        bench.clock.advance(seconds=3 * DAY)
        assert bench.sweep() == ["u"]
        bench.events("u")
        assert bench.score() == []
        bench.clock.advance(seconds=1)
        assert bench.score() == ["u"]
        assert bench.sweep() == []


def test_user_is_not_scored_at_ages_above_the_largest_of_the_model() -> None:
    bench = Bench()
    bench.events("u")
    bench.score()
    bench.clock.advance(seconds=40 * DAY)
    partition = bench.partition
    assert partition.queue_silent(bench.event_now, 2, bench.clock.monotonic()) == 1
    rows, _ = partition.queue.take(9, bench.clock.monotonic())
    stages = partition.idle_stage_at(rows, bench.event_now, 2)
    assert stages.tolist() == [2]
    partition.note_scores(rows, partition.state.snapshot(rows), stages, decided(1))
    assert partition.queue_silent(bench.event_now, 2, bench.clock.monotonic()) == 0


def test_sweep_that_finds_nobody_queues_nobody() -> None:
    bench = Bench()
    assert bench.partition.queue_silent(bench.event_now, IDLE_STAGE_MAX, 0.0) == 0
    bench.events("u")
    bench.score()
    assert bench.partition.queue_silent(bench.event_now, IDLE_STAGE_MAX, 0.0) == 0
    assert len(bench.partition.queue) == 0


# Scores into state -----------------------------------------------------------------------------------


def test_acknowledged_scores_are_noted_and_make_their_users_dirty() -> None:
    bench = Bench()
    bench.events("a", "b", "c")
    bench.partition.take_dirty()
    bench.score()
    users = bench.partition.state.users[:3]
    assert users["scored_sentiment"].tolist() == users["sentiment_offset"].tolist()
    assert users["scored_offset"].tolist() == users["applied_offset"].tolist() == [0, 1, 2]
    assert users[["churn", "purchase", "ltv", "alert_band", "alert_time"]].tolist() == [(0.25, 0.5, 9.0, 1, 7)] * 3
    assert bench.partition.state.unscored().tolist() == []
    assert bench.partition.take_dirty().tolist() == [0, 1, 2]
    assert bench.partition.take_dirty().tolist() == []


def test_only_users_with_an_event_meanwhile_stay_stale() -> None:
    bench = Bench()
    bench.events("a", "b", "c")
    bench.clock.advance(seconds=1)
    bench.score(meanwhile=("b",))
    assert bench.partition.state.unscored().tolist() == [1]
    bench.clock.advance(seconds=1)
    assert bench.score() == ["b"]
    assert bench.partition.state.unscored().tolist() == []


def test_event_during_the_scoring_of_silence_resets_the_idle_stage() -> None:
    bench = Bench()
    bench.events("u")
    bench.score()
    bench.clock.advance(seconds=DAY)
    bench.partition.queue_silent(bench.event_now, IDLE_STAGE_MAX, bench.clock.monotonic())
    bench.score(meanwhile=("u",))
    assert bench.partition.state.users["idle_stage"][0] == 0
    assert bench.partition.state.unscored().tolist() == [0]


def test_row_that_changes_often_is_dirty_once() -> None:
    bench = Bench()
    for users in (("b", "a"), ("a",), ("c", "a")):
        bench.events(*users)
    assert bench.partition.take_dirty().tolist() == [0, 1, 2]
