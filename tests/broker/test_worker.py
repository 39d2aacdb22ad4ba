"""Tests of the worker as a process on a real Kafka: commits, crashes, bad records, and its end."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from stream.contract.columns import USER
from stream.kafka.topics import changelog_topic
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess, produce, wait_for
from tests.broker.undisturbed import assert_as_undisturbed, shoppers

pytestmark = pytest.mark.broker


def test_every_offset_is_committed_and_a_restart_reads_no_event_again(make_settings, tmp_path: Path) -> None:
    settings = make_settings(instance_id="w")
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


@pytest.mark.parametrize(
    ("instance_id", "disk_lost"),
    [("", False), ("w", False), ("w", True)],
    ids=["dynamic member", "static member", "disk lost as well"],
)
def test_state_and_scores_after_kill_9_are_those_of_an_undisturbed_run(
    make_settings, tmp_path: Path, instance_id: str, disk_lost: bool
) -> None:
    settings = make_settings(instance_id=instance_id)
    messages = shoppers(36_000, users=1_000)
    for part in range(3):
        produce(settings, messages[part * 12_000 : (part + 1) * 12_000])
        with WorkerProcess(settings, tmp_path / "log", VALUESTREAM_CHECKPOINT_INTERVAL_S="0.2") as worker:
            worker.wait_ready()
            wait_for("some to be applied", lambda: worker.metric('valuestream_events_total{outcome="applied"}') > 4_000)
            worker.kill()
        if disk_lost:
            shutil.rmtree(settings.data_dir)
    produce(settings, messages[36_000:])
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        time.sleep(1.5)
        worker.wait_idle(settings)
        assert worker.terminate() == 0
    assert_as_undisturbed(settings)


def test_worker_ends_in_time_after_sigterm_with_everything_committed(make_settings, tmp_path: Path) -> None:
    settings = make_settings(instance_id="w")
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


def bad_records(now: float) -> dict[str, tuple[bytes | None, str]]:
    """Kinds of records that cannot be used, each with the reason of its dead letter."""

    def at(**changed: object) -> bytes:
        event = {"type": "track", "event": "Product Viewed", "messageId": "b", "userId": "bad", "timestamp": now - 60}
        return json.dumps({**event, **changed}).encode()

    return {
        "null": (None, "null"),
        "empty": (b"", "malformed"),
        "not json": (b"<xml/>", "malformed"),
        "cut off": (at()[:-10], "malformed"),
        "invalid utf-8": (at().replace(b"bad", b"\xff\xfe"), "malformed"),
        "oversized": (at(note="x" * 300_000), "oversized"),
        "too deep": (at(note=0).replace(b"0}", b"[" * 50_000 + b"]" * 50_000 + b"}"), "too_deep"),
        "wrong type": (at(type=[1, 2]), "schema"),
        "nobody": (at(userId="undefined"), "user"),
        "no user": (at(userId=None), "user"),
        "no time": (at(timestamp=None), "timestamp"),
        "far future": (at(timestamp=now + 7 * 86_400), "future"),
        "before 1970": (at(timestamp=-5), "timestamp"),
        "confluent": (b"\0\0\0\0\x07\x06bad", "confluent"),
        "not a number": (at(event="Order Completed", properties={"total": "much"}), "amount"),
        "one or a thousand": (at(event="Order Completed", properties={"total": "1,234"}), "amount"),
        "currency": (at(event="Order Completed", properties={"total": 5, "currency": "XTS"}), "currency"),
    }


def test_bad_records_become_dead_letters_and_do_not_affect_good_ones(make_settings, tmp_path: Path) -> None:
    settings = make_settings()
    good = shoppers(15_000, users=300, repeat=0)
    bad = [(f"bad-{i}".encode(), value, reason) for i, (value, reason) in enumerate(bad_records(time.time()).values())]
    mixed: list[Message] = []
    for i, message in enumerate(good):
        mixed.append(message)
        if i % 100 == 50:
            mixed.append(bad[(i // 100) % len(bad)][:2])
    injected = [bad[i % len(bad)] for i in range(150)]
    produce(settings, mixed)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.metric('valuestream_events_total{outcome="applied"}') == 15_000
        assert worker.terminate() == 0
    dead = harness.read_topic(settings, settings.dlq_topic)
    assert len(dead) == len(injected)
    sources = {(r.partition, r.offset): r for r in harness.read_topic(settings, settings.events_topic)}
    for record in dead:
        headers = {name: value.decode() for name, value in record.headers}
        source = sources[(int(headers["valuestream.source.partition"]), int(headers["valuestream.source.offset"]))]
        assert (record.key, record.value, record.partition) == (source.key, source.value, source.partition)
        assert headers["valuestream.source.topic"] == settings.events_topic
        assert headers["valuestream.error.message"]
        assert headers["valuestream.attempt"] == "1"
        _, _, reason = bad[int(record.key.decode().removeprefix("bad-"))]
        assert headers["valuestream.error.reason"] == reason, headers["valuestream.error.message"]
    assert_as_undisturbed(settings)


def test_two_workers_share_the_partitions_and_lose_nothing_when_one_leaves(make_settings, tmp_path: Path) -> None:
    first, second = make_settings(instance_id="a"), make_settings(instance_id="b")
    messages = shoppers(40_000, users=800)
    half = len(messages) // 2
    produce(first, messages[:half])
    with WorkerProcess(first, tmp_path / "a") as one:
        one.wait_ready()
        with WorkerProcess(second, tmp_path / "b") as two:
            two.wait_ready()
            wait_for(
                "both to have two partitions",
                lambda: [w.metric("valuestream_partitions_assigned") for w in (one, two)] == [2, 2],
            )
            produce(first, messages[half:])
            wait_for("the second to work", lambda: two.metric('valuestream_events_total{outcome="applied"}') > 1_000)
            assert two.terminate() == 0, two.log()
        wait_for("the first to have all again", lambda: one.metric("valuestream_partitions_assigned") == 4)
        one.wait_ready()
        one.wait_idle(first)
        assert one.terminate() == 0, one.log()
    assert_as_undisturbed(first)
