"""Queue: the most urgent users come first, each at most once per interval, and nobody is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stream.contract.events import EventType
from stream.score.queue import OLDEST_SHARE, OWED, SILENCE, YIELD_S, YIELDING_SHARE, ScoreQueue, priorities

REFRESH_S = 1.0


def push(queue: ScoreQueue, user: int, kind: EventType, now: float, arrival: float = 0.0) -> None:
    queue.push(np.array([user]), priorities(np.array([kind])), now, np.array([arrival]))


def take(queue: ScoreQueue, n: int, now: float) -> list[int]:
    rows, _ = queue.take(n, now)
    queue.release(rows, now)
    return [*rows.tolist()]


def test_purchases_come_before_carts_before_all_else_before_silence() -> None:
    urgency = dict(zip(EventType, priorities(np.array(EventType)).tolist(), strict=True))
    purchase, cart, view = (urgency[kind] for kind in (EventType.PURCHASE, EventType.CART, EventType.VIEW))
    assert purchase > cart > view > SILENCE > 0
    assert {kind for kind, p in urgency.items() if p == purchase} == {EventType.PURCHASE, EventType.REFUND}
    assert {kind for kind, p in urgency.items() if p == cart} == {EventType.CART, EventType.UNCART}
    assert set(urgency.values()) == {purchase, cart, view}


def test_most_urgent_users_are_taken_first_and_among_equals_those_who_wait_longest() -> None:
    queue = ScoreQueue(REFRESH_S)
    queue.push(np.array([9]), SILENCE, 0.0, np.inf)
    for now, (user, kind) in enumerate([(5, EventType.VIEW), (4, EventType.CART), (3, EventType.PURCHASE)], start=1):
        push(queue, user, kind, now)
    for now, (user, kind) in enumerate([(2, EventType.PURCHASE), (1, EventType.CART), (0, EventType.SEARCH)], start=4):
        push(queue, user, kind, now)
    assert [take(queue, 2, 10.0) for _ in range(5)] == [[3, 2], [4, 1], [5, 0], [9], []]


def test_waiting_user_becomes_as_urgent_as_their_most_urgent_event_and_keeps_their_age() -> None:
    queue = ScoreQueue(REFRESH_S)
    push(queue, 1, EventType.VIEW, 0.0)
    push(queue, 2, EventType.PURCHASE, 1.0)
    push(queue, 1, EventType.PURCHASE, 2.0)
    push(queue, 1, EventType.VIEW, 3.0)
    assert take(queue, 9, 4.0) == [1, 2]


def test_user_is_taken_once_per_interval_however_many_events_arrive() -> None:
    queue = ScoreQueue(REFRESH_S)
    taken = []
    for tenth in range(50):
        push(queue, 7, EventType.VIEW, tenth / 10)
        taken += [tenth / 10] * len(take(queue, 9, tenth / 10))
    assert taken == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert take(queue, 9, 4.95) == []
    assert take(queue, 9, 5.0) == [7]


def test_earliest_arrival_is_kept_until_the_user_is_taken() -> None:
    queue = ScoreQueue(REFRESH_S)
    queue.push(np.array([1, 1, 1]), np.array([2, 2, 2]), 0.0, np.array([30.0, 10.0, 20.0]))
    push(queue, 1, EventType.VIEW, 0.0, arrival=15.0)
    rows, arrivals = queue.take(9, 0.0)
    queue.release(rows, 0.0)
    assert arrivals.tolist() == [10.0]
    push(queue, 1, EventType.VIEW, 0.5, arrival=40.0)
    assert queue.take(9, 1.0)[1].tolist() == [40.0]


def test_silent_user_has_no_arrival() -> None:
    queue = ScoreQueue(REFRESH_S)
    queue.push(np.array([1, 2]), SILENCE, 0.0, np.inf)
    push(queue, 2, EventType.VIEW, 0.0, arrival=5.0)
    assert dict(zip(*(a.tolist() for a in queue.take(9, 0.0)), strict=True)) == {1: math.inf, 2: 5.0}


def test_oldest_wait_is_that_of_the_user_who_waits_longest() -> None:
    queue = ScoreQueue(REFRESH_S)
    assert queue.oldest_wait_s(0.0) == 0.0
    push(queue, 1, EventType.VIEW, 0.0)
    push(queue, 2, EventType.VIEW, 0.2)
    assert queue.oldest_wait_s(0.25) == 0.25
    take(queue, 9, 0.25)
    push(queue, 1, EventType.VIEW, 0.5)
    assert queue.oldest_wait_s(1.0) == 0.5


def test_user_is_not_taken_again_while_their_score_is_being_made() -> None:
    queue = ScoreQueue(refresh_interval_s=0.0)
    push(queue, 1, EventType.VIEW, 0.0)
    rows, _ = queue.take(9, 0.0)
    push(queue, 1, EventType.PURCHASE, 0.1)
    assert queue.take(9, 99.0)[0].tolist() == []
    queue.release(rows, 0.0)
    assert queue.take(9, 99.0)[0].tolist() == [1]


def test_user_is_as_urgent_as_before_after_their_score_failed() -> None:
    queue = ScoreQueue(refresh_interval_s=0.0)
    push(queue, 1, EventType.PURCHASE, 0.0, arrival=7.0)
    rows, arrivals = queue.take(9, 0.0)
    queue.put_back(rows, 1.0, arrivals)
    queue.release(rows, 0.0)
    push(queue, 2, EventType.CART, 0.5)
    users, arrivals = queue.take(9, 2.0)
    assert (users.tolist(), arrivals[0]) == ([1, 2], 7.0)


# More than can be scored ---------------------------------------------------------------------------------


def scored(users: range, now: float, refresh_interval_s: float = 0.0) -> ScoreQueue:
    """A queue from which these users have been taken before."""
    queue = ScoreQueue(refresh_interval_s)
    queue.push(np.array(users), OWED, now, 0.0)
    take(queue, len(users), now)
    return queue


def test_user_who_was_just_scored_yields_while_others_wait_and_is_as_urgent_as_ever_after_that() -> None:
    queue = scored(range(2), now=0.0)
    push(queue, 1, EventType.PURCHASE, 0.1)
    push(queue, 2, EventType.VIEW, 0.2)
    assert take(queue, 1, YIELD_S - 0.1) == [2]
    assert take(queue, 1, YIELD_S - 0.1) == [1]
    push(queue, 1, EventType.PURCHASE, 1.0)
    push(queue, 3, EventType.VIEW, 1.0)
    assert take(queue, 1, 2 * YIELD_S) == [1]


def test_burst_of_a_few_users_costs_the_others_one_score_per_second_and_user_at_most() -> None:
    queue, taken = scored(range(100), now=0.0), []
    for step in range(1, 101):
        now = step / 100
        queue.push(np.arange(100), priorities(np.array([EventType.PURCHASE])), now, 0.0)
        queue.push(100 + 20 * step + np.arange(20), OWED, now, 0.0)
        taken += take(queue, 20, now)
    assert sum(user < 100 for user in taken) <= 100
    assert len({user for user in taken if user >= 100}) >= 1_900


def test_burst_of_a_few_users_does_not_make_the_takes_of_the_others_long() -> None:
    queue = scored(range(200), now=0.0)
    queue.push(np.arange(200), OWED, 0.1, 0.0)
    push(queue, 300, EventType.VIEW, 0.1)
    users = take(queue, 64, 0.1)
    assert users[0] == 300
    assert len(users) == 1 + 64 // YIELDING_SHARE
    assert len(take(queue, 64, 0.1 + YIELD_S)) == 64


def test_flood_of_new_users_does_not_hold_up_those_who_have_scores() -> None:
    queue = scored(range(10), now=0.0)
    queue.push(np.arange(1_000, 9_000), OWED, 5.0, 0.0)
    push(queue, 3, EventType.VIEW, 6.0)
    assert take(queue, 8, 6.0)[0] == 3


def test_nobody_waits_for_ever_behind_the_more_urgent() -> None:
    queue = ScoreQueue(refresh_interval_s=0.0)
    queue.push(np.arange(10), SILENCE, 0.0, np.inf)
    taken = []
    for step in range(10):
        fresh = np.arange(100 * (step + 1), 100 * (step + 1) + 16)
        queue.push(fresh, priorities(np.array([EventType.PURCHASE])), 1.0 + step, 0.0)
        taken.append(take(queue, 8, 1.0 + step))
    assert all(len([user for user in rows if user >= 100]) >= 6 for rows in taken)
    assert {user for rows in taken[: 10 * OLDEST_SHARE // 8] for user in rows if user < 100} == set(range(10))


def test_take_looks_at_only_a_part_of_the_waiting_users(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = ScoreQueue(refresh_interval_s=0.0)
    queue.push(np.arange(100_000), np.arange(100_000) % 3 + OWED, 0.0, 0.0)
    assert len(take(queue, 64, 0.0)) == 64
    looked_at, choose = [], queue._choose

    def spy(rows: np.ndarray, n: int, now: float) -> np.ndarray:
        looked_at.append(len(rows))
        return choose(rows, n, now)

    monkeypatch.setattr(queue, "_choose", spy)
    for step in range(50):
        push(queue, 200_000 + step, EventType.VIEW, 1.0)
        assert len(take(queue, 64, 1.0)) == 64
    assert max(looked_at) < 1_000
    assert len(queue) == 100_000 + 50 - 51 * 64


@pytest.mark.parametrize("size", [1, 1_023, 1_024, 1_025, 5_000, 100_000])
def test_any_number_of_users_fits(size: int) -> None:
    queue = ScoreQueue(REFRESH_S)
    queue.push(np.arange(size), 2, 0.0, 0.0)
    assert len(queue) == size
    assert sorted(take(queue, size - 1, 0.0) + take(queue, size, 0.0)) == list(range(size))


@dataclass
class Waiting:
    """What the test's model knows about a user in the queue."""

    priority: int
    since: float
    arrival: float


class QueueAgainstDict(RuleBasedStateMachine):
    """The queue does the same as a dict of waiting users, for any order of pushes, takes and time steps."""

    refresh_s = REFRESH_S
    unsorted_max = 4_096

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue = ScoreQueue(self.refresh_s, self.unsorted_max)
        self.waiting: dict[int, Waiting] = {}
        self.taken_at: dict[int, float] = {}

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 60.0]))
    def advance(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        events=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(EventType), st.integers(0, 99)), max_size=8),
        silent=st.booleans(),
    )
    def push(self, events: list[tuple[int, EventType, int]], silent: bool) -> None:
        users = np.array([user for user, _, _ in events], np.int64)
        urgency = priorities(np.array([kind for _, kind, _ in events], np.int64))
        arrivals = np.array([arrival for _, _, arrival in events], np.float64)
        if silent:
            self.queue.push(users, SILENCE, self.now, np.inf)
            urgency, arrivals = np.full(len(users), SILENCE), np.full(len(users), np.inf)
        else:
            self.queue.push(users, urgency, self.now, arrivals)
        for user, priority, arrival in zip(users.tolist(), urgency.tolist(), arrivals.tolist(), strict=True):
            known = self.waiting.setdefault(user, Waiting(priority, self.now, arrival))
            known.priority = max(known.priority, priority)
            known.arrival = min(known.arrival, arrival)

    @rule(n=st.integers(1, 15))
    def take(self, n: int) -> None:
        users, arrivals = self.queue.take(n, self.now)
        self.queue.release(users, self.now)
        due = sorted((u for u in self.waiting if self._since_taken(u) >= self.refresh_s), key=self._urgency)
        yielding = [u for u in due if self._since_taken(u) < YIELD_S]
        due = due[: len(due) - max(0, len(yielding) - max(1, n // YIELDING_SHARE))]
        oldest = sorted(map(self._wait, due))[: n // OLDEST_SHARE if len(due) > n else 0]
        most_urgent = sorted(map(self._urgency, due))[: n - len(oldest)]
        assert all(self._since_taken(u) >= self.refresh_s for u in users.tolist())
        assert len(set(users.tolist())) == len(users) == min(n, len(due))
        urgencies = [self._urgency(u) for u in users.tolist()]
        assert urgencies == sorted(urgencies)
        assert [urgency for urgency in most_urgent if urgency not in urgencies] == []
        assert sorted(map(self._wait, users.tolist()))[: len(oldest)] == oldest
        for user, arrival in zip(users.tolist(), arrivals.tolist(), strict=True):
            assert self.waiting.pop(user).arrival == arrival
            self.taken_at[user] = self.now

    def _since_taken(self, user: int) -> float:
        return self.now - self.taken_at.get(user, -math.inf)

    def _wait(self, user: int) -> tuple[bool, float]:
        yields = self._since_taken(user) < YIELD_S
        return yields, self.taken_at[user] if yields else self.waiting[user].since

    def _urgency(self, user: int) -> tuple[bool, int, bool, float]:
        """The user with the smallest one is to be taken first."""
        (yields, wait), known = self._wait(user), self.waiting[user]
        return yields, -known.priority * (not yields), user not in self.taken_at, wait

    @invariant()
    def holds_the_waiting_users(self) -> None:
        assert len(self.queue) == len(self.waiting)
        oldest = max((self.now - w.since for w in self.waiting.values()), default=0.0)
        assert self.queue.oldest_wait_s(self.now) == oldest

    def teardown(self) -> None:
        self.now += self.refresh_s
        assert sorted(self.queue.take(99, self.now)[0].tolist()) == sorted(self.waiting)


QueueAgainstDict.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestQueueAgainstDict = QueueAgainstDict.TestCase


class QueueWithoutInterval(QueueAgainstDict):
    """A user who was just scored may be taken at once, and yields."""

    refresh_s = 0.0


class QueueInLines(QueueAgainstDict):
    """The queue sorts users into lines, as it does when very many wait."""

    unsorted_max = 2


class QueueInLinesWithoutInterval(QueueWithoutInterval):
    """Users are in lines, and those who were just scored yield."""

    unsorted_max = 2


TestQueueWithoutInterval = QueueWithoutInterval.TestCase
TestQueueInLines = QueueInLines.TestCase
TestQueueInLinesWithoutInterval = QueueInLinesWithoutInterval.TestCase
for case in (TestQueueWithoutInterval, TestQueueInLines, TestQueueInLinesWithoutInterval):
    case.settings = TestQueueAgainstDict.settings
