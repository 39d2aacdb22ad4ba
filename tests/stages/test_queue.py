"""Queue: most urgent first, a user is in it once and out at most once per interval, and nobody is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stream.contract.events import EventType
from stream.queue import SILENCE, ScoreQueue, priorities

REFRESH_S = 1.0


def push(queue: ScoreQueue, user: int, kind: EventType, now: float, arrival: float = 0.0) -> None:
    queue.push(np.array([user]), priorities(np.array([kind])), now, np.array([arrival]))


def take(queue: ScoreQueue, n: int, now: float) -> list[int]:
    rows, _ = queue.take(n, now)
    queue.release(rows, now)
    return rows.tolist()


def test_purchases_come_before_carts_before_all_else_before_silence() -> None:
    urgency = dict(zip(EventType, priorities(np.array(EventType)).tolist(), strict=True))
    purchase, cart, view = (urgency[kind] for kind in (EventType.PURCHASE, EventType.CART, EventType.VIEW))
    assert purchase > cart > view > SILENCE > 0
    assert {kind for kind, p in urgency.items() if p == purchase} == {EventType.PURCHASE, EventType.REFUND}
    assert {kind for kind, p in urgency.items() if p == cart} == {EventType.CART, EventType.UNCART}
    assert set(urgency.values()) == {purchase, cart, view}


def test_most_urgent_leave_first_and_among_equals_those_who_wait_longest() -> None:
    queue = ScoreQueue(REFRESH_S)
    queue.push(np.array([9]), SILENCE, 0.0, np.inf)
    for now, (user, kind) in enumerate([(5, EventType.VIEW), (4, EventType.CART), (3, EventType.PURCHASE)], start=1):
        push(queue, user, kind, now)
    for now, (user, kind) in enumerate([(2, EventType.PURCHASE), (1, EventType.CART), (0, EventType.SEARCH)], start=4):
        push(queue, user, kind, now)
    assert [take(queue, 2, 10.0) for _ in range(5)] == [[3, 2], [4, 1], [5, 0], [9], []]


def test_user_who_waits_becomes_as_urgent_as_the_most_urgent_event_and_keeps_the_place() -> None:
    queue = ScoreQueue(REFRESH_S)
    push(queue, 1, EventType.VIEW, 0.0)
    push(queue, 2, EventType.PURCHASE, 1.0)
    push(queue, 1, EventType.PURCHASE, 2.0)
    push(queue, 1, EventType.VIEW, 3.0)
    assert take(queue, 9, 4.0) == [1, 2]


def test_user_leaves_once_per_interval_however_many_events_arrive() -> None:
    queue = ScoreQueue(REFRESH_S)
    taken = []
    for tenth in range(50):
        push(queue, 7, EventType.VIEW, tenth / 10)
        taken += [tenth / 10] * len(take(queue, 9, tenth / 10))
    assert taken == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert take(queue, 9, 4.95) == []
    assert take(queue, 9, 5.0) == [7]


def test_earliest_arrival_is_kept_until_the_user_leaves() -> None:
    queue = ScoreQueue(REFRESH_S)
    queue.push(np.array([1, 1, 1]), np.array([2, 2, 2]), 0.0, np.array([30.0, 10.0, 20.0]))
    push(queue, 1, EventType.VIEW, 0.0, arrival=15.0)
    rows, arrivals = queue.take(9, 0.0)
    queue.release(rows, 0.0)
    assert arrivals.tolist() == [10.0]
    push(queue, 1, EventType.VIEW, 0.5, arrival=40.0)
    assert queue.take(9, 1.0)[1].tolist() == [40.0]


def test_silence_has_no_arrival() -> None:
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


def test_user_whose_score_is_under_way_is_not_given_out_again_before_it_is_done() -> None:
    queue = ScoreQueue(refresh_interval_s=0.0)
    push(queue, 1, EventType.VIEW, 0.0)
    rows, _ = queue.take(9, 0.0)
    push(queue, 1, EventType.PURCHASE, 0.1)
    assert queue.take(9, 99.0)[0].tolist() == []
    queue.release(rows, 0.0)
    assert queue.take(9, 99.0)[0].tolist() == [1]


def test_user_whose_score_failed_is_as_urgent_as_before() -> None:
    queue = ScoreQueue(refresh_interval_s=0.0)
    push(queue, 1, EventType.PURCHASE, 0.0, arrival=7.0)
    rows, arrivals = queue.take(9, 0.0)
    queue.put_back(rows, 1.0, arrivals)
    queue.release(rows, 0.0)
    push(queue, 2, EventType.CART, 0.5)
    users, arrivals = queue.take(9, 2.0)
    assert (users.tolist(), arrivals[0]) == ([1, 2], 7.0)


@pytest.mark.parametrize("size", [1, 1_023, 1_024, 1_025, 5_000, 100_000])
def test_any_number_of_users_fits(size: int) -> None:
    queue = ScoreQueue(REFRESH_S)
    queue.push(np.arange(size), 2, 0.0, 0.0)
    assert len(queue) == size
    assert sorted(take(queue, size - 1, 0.0) + take(queue, size, 0.0)) == list(range(size))


@dataclass
class Waiting:
    """What the model knows of a user in the queue."""

    priority: int
    since: float
    arrival: float


class QueueAgainstDict(RuleBasedStateMachine):
    """The queue does what a dict of waiting users does, at any order of pushes, takes and time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue = ScoreQueue(REFRESH_S)
        self.waiting: dict[int, Waiting] = {}
        self.not_before: dict[int, float] = {}

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
        due = [u for u in self.waiting if self.not_before.get(u, -math.inf) <= self.now]
        expected = sorted(due, key=lambda u: (-self.waiting[u].priority, self.waiting[u].since))[:n]
        ranks = [(self.waiting[u].priority, self.waiting[u].since) for u in users.tolist()]
        assert ranks == [(self.waiting[u].priority, self.waiting[u].since) for u in expected]
        assert set(users.tolist()) <= set(due)
        assert len(set(users.tolist())) == len(users)
        for user, arrival in zip(users.tolist(), arrivals.tolist(), strict=True):
            assert self.waiting.pop(user).arrival == arrival
            self.not_before[user] = self.now + REFRESH_S

    @invariant()
    def holds_who_waits(self) -> None:
        assert len(self.queue) == len(self.waiting)
        oldest = max((self.now - w.since for w in self.waiting.values()), default=0.0)
        assert self.queue.oldest_wait_s(self.now) == oldest

    def teardown(self) -> None:
        self.now += REFRESH_S
        assert sorted(self.queue.take(99, self.now)[0].tolist()) == sorted(self.waiting)


QueueAgainstDict.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestQueueAgainstDict = QueueAgainstDict.TestCase
