"""The worker as a process on real Kafka: commits, crashes, bad records, its end."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from stream import changelog
from stream.contract.columns import USER
from stream.service.settings import Settings
from stream.service.topics import changelog_topic
from stream.state import PartitionState
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess, produce, track, wait_for

pytestmark = pytest.mark.broker

NAMES = ("Product Viewed", "Product Viewed", "Products Searched", "Product Added", "Order Completed")
#: Columns of USER that scoring writes; how often a user is scored on the way depends on the machine's speed.
SCORED = ("scored_offset", "idle_stage", "churn", "purchase", "ltv", "alert_band", "alert_time")


def shoppers(n: int, users: int, seed: int = 1, repeat: float = 0.02) -> list[Message]:
    """Events of the last half hour, some of them sent twice."""
    rng = random.Random(seed)
    start = time.time() - 1_800
    messages: list[Message] = []
    for i in range(n):
        user = f"user-{rng.randrange(users)}"
        name = rng.choice(NAMES)
        extra = {"total": 20.5, "order_id": f"o{seed}-{i}"} if name == "Order Completed" else {}
        at = start + 1_800 * i / n - rng.randrange(60)
        value = track(user, name, round(at, 3), f"m{seed}-{i}", product_id=f"p{i % 50}", category="shoes", **extra)
        messages.append((user.encode(), value))
        if rng.random() < repeat:
            messages.append(messages[-1])
    return messages


def states_of(settings: Settings) -> dict[str, bytes]:
    """Last changelog value of every user, with the columns that scoring writes set to nothing."""
    return {
        user: _without_scores(value)
        for user, value in harness.last_values(harness.read_topic(settings, changelog_topic(settings))).items()
    }


def expected_states(partitions: dict[int, PartitionState]) -> dict[str, bytes]:
    return {
        user: _without_scores(value)
        for state in partitions.values()
        for user, value in zip(state.ids, changelog.pack(state, np.arange(len(state))), strict=True)
    }


def _without_scores(value: bytes) -> bytes:
    head = np.frombuffer(value[1 : 1 + USER.itemsize], USER).copy()
    for name in SCORED:
        head[name] = 0
    return head.tobytes() + value[1 + USER.itemsize :]


def assert_as_undisturbed(settings: Settings) -> None:
    """State and last scores are those of the oracle, and a score that was sent twice is the same to the byte."""
    expected = harness.oracle(settings)
    assert states_of(settings) == expected_states(expected.partitions)
    records = harness.read_topic(settings, settings.scores_topic)
    assert harness.last_values(records) == expected.scores
    by_id = defaultdict(set)
    for record in records:
        by_id[json.loads(record.value)["score_id"]].add(record.value)
    assert all(len(values) == 1 for values in by_id.values())


def test_every_offset_is_committed_and_a_restart_reads_none_again(make_settings, tmp_path: Path) -> None:
    settings = make_settings()
    produce(settings, shoppers(300_000, users=2_000, repeat=0))
    with WorkerProcess(settings, tmp_path / "log", VALUESTREAM_REFRESH_INTERVAL_S="30") as worker:
        worker.wait_ready()
        wait_for(
            "300,000 events to be applied",
            lambda: worker.alive() and worker.metric('valuestream_events_total{outcome="applied"}') == 300_000,
            timeout_s=180,
        )
        wait_for(
            "all to be committed", lambda: harness.committed(settings) == harness.end_offsets(settings), timeout_s=5
        )
        assert worker.terminate() == 0
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        produce(settings, shoppers(100, users=2_000, seed=2, repeat=0))
        wait_for("the new events", lambda: worker.metric('valuestream_events_total{outcome="applied"}') == 100)
        assert worker.metric('valuestream_events_total{outcome="replayed"}') == 0


def test_state_and_scores_after_kill_9_are_those_of_an_undisturbed_run(make_settings, tmp_path: Path) -> None:
    settings = make_settings()
    messages = shoppers(60_000, users=1_500)
    for part in range(3):
        produce(settings, messages[part * 20_000 : (part + 1) * 20_000])
        with WorkerProcess(settings, tmp_path / "log", VALUESTREAM_CHECKPOINT_INTERVAL_S="0.2") as worker:
            worker.wait_ready()
            wait_for(
                "some to be applied", lambda: worker.metric('valuestream_events_total{outcome="applied"}') > 4_000
            )
            worker.kill()
    produce(settings, messages[60_000:])
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        time.sleep(1.5)
        worker.wait_idle(settings)
        assert worker.terminate() == 0
    assert_as_undisturbed(settings)


def test_sigterm_in_mid_stream_ends_in_time_with_everything_committed(make_settings, tmp_path: Path) -> None:
    settings = make_settings()
    produce(settings, shoppers(100_000, users=1_000))
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        wait_for("some to be applied", lambda: worker.metric('valuestream_events_total{outcome="applied"}') > 4_000)
        started = time.monotonic()
        assert worker.terminate() == 0, worker.log()
        assert time.monotonic() - started < 10
    positions = harness.committed(settings)
    newest = defaultdict(int)
    for record in harness.read_topic(settings, changelog_topic(settings)):
        head = np.frombuffer(record.value[1 : 1 + USER.itemsize], USER)
        newest[record.partition] = max(newest[record.partition], int(head["applied_offset"][0]))
    assert positions
    assert all(newest[p] < offset for p, offset in positions.items())
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.metric('valuestream_events_total{outcome="replayed"}') == 0
