"""Tests of the watchdog: it ends a worker that is stuck, and leaves all others alone."""

from __future__ import annotations

import itertools
import threading

from stream.clock import ManualClock
from stream.service.health import STALL_TIMEOUT_S, Check, Health
from stream.service.watchdog import Watchdog

WAIT_S = 10.0


class Watched:
    """The watchdog of a worker that serves, and what it has done."""

    def __init__(self, grace_s: float = WAIT_S) -> None:
        self.clock = ManualClock()
        self.health = Health(self.clock)
        self.health.started()
        self.health.assigned(4)
        self.health.recovered(True)
        self.reasons: list[str] = []
        self.told, self.killed = threading.Event(), threading.Event()
        self.dog = Watchdog(self.health, self.end, grace_s=grace_s, interval_s=0.001, kill=self.killed.set)
        self.dog.start()

    def end(self, reason: str) -> None:
        self.reasons.append(reason)
        self.told.set()


def test_worker_that_commits_nothing_while_records_wait_is_ended_with_the_reason() -> None:
    watched = Watched()
    watched.health.lag(7)
    watched.clock.advance(seconds=STALL_TIMEOUT_S + 1)
    watched.health.beat()
    assert watched.told.wait(WAIT_S)
    watched.dog.stop()
    assert watched.reasons == ["7 records wait and nothing was committed for 61 s"]
    assert not watched.killed.is_set()


def test_worker_with_a_blocked_loop_is_killed_after_the_grace() -> None:
    watched = Watched(grace_s=0.001)
    watched.clock.advance(seconds=11)
    assert watched.killed.wait(WAIT_S)
    assert watched.reasons == ["the loop last turned 11 s ago, expected each second"]


def test_worker_that_ends_too_slowly_is_killed_but_not_reported_as_stuck() -> None:
    watched = Watched(grace_s=0.001)
    watched.dog.ending()
    assert watched.killed.wait(WAIT_S)
    assert not watched.reasons


def test_worker_that_ends_in_time_is_left_alone() -> None:
    watched = Watched()
    watched.dog.ending()
    watched.dog.stop()
    watched.dog._thread.join(WAIT_S)
    assert not watched.dog._thread.is_alive()
    assert not watched.killed.is_set()


def test_worker_that_was_paused_is_not_stuck_when_its_loop_runs_again() -> None:
    watched = Watched()
    answers = itertools.chain([Check(False, "the loop last turned 3600 s ago")] * 2, itertools.repeat(Check(True, "")))
    looks = threading.Semaphore(0)

    def live() -> Check:
        looks.release()
        return next(answers)

    watched.health.live = live  # type: ignore[method-assign]
    for _ in range(6):
        assert looks.acquire(timeout=WAIT_S)
    assert not watched.told.is_set()
    watched.dog.stop()
