"""Tests of dead letters on a real Kafka: they are counted, shown, and count once when they are replayed."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient

from stream.contract.columns import USER
from stream.errors import ValuestreamError
from stream.kafka.clients import kafka_python_config
from stream.settings import Settings
from tests.broker.dead_letters import (
    counted,
    dead,
    event_of,
    events_in,
    put,
    record,
    run,
    text_headers,
)
from tests.broker.harness import WorkerProcess, produce, track, wait_for
from tests.broker.undisturbed import states_of

pytestmark = pytest.mark.broker

DAY_S = 86_400


# With a real worker ------------------------------------------------------------------------------------------


def shop(now: float, users: int) -> list[tuple[bytes, bytes]]:
    """A view, an order in a currency without a rate and a view of three days ago for each user; and no JSON."""
    names = [f"user-{i}" for i in range(users)]
    views = [track(u, "Product Viewed", now - 60, f"view-{u}") for u in names]
    orders = [track(u, "Order Completed", now - 50, "", total=5, currency="XTS", order_id=f"o-{u}") for u in names]
    late = [track(u, "Product Viewed", now - 3 * DAY_S, f"late-{u}") for u in names]
    return [(u.encode(), value) for kind in (views, orders, late) for u, value in zip(names, kind, strict=True)] + [
        (b"user-0", b"<xml/>")
    ]


def test_dead_letters_replayed_twice_count_once_after_their_cause_is_fixed(make_settings, tmp_path: Path) -> None:
    settings, n = make_settings(instance_id="w"), 40
    produce(settings, shop(time.time(), n))
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        wait_for("the dead letters", lambda: counted(settings) == {"currency": n, "late": n, "malformed": 1})
        run(settings, "replay", "--reason", "currency", "--limit", "5", "--attempts-max", "1", "--rate", "1000")
        wait_for("what is not fixed to come back", lambda: counted(settings)["currency"] == n + 5)
        assert worker.terminate() == 0, worker.log()
    again = [r for r in events_in(settings, settings.dlq_topic) if text_headers(r)["valuestream.attempt"] == "2"]
    assert len(again) == 5
    assert {text_headers(r)["valuestream.error.reason"] for r in again} == {"currency"}
    fixed = {"VALUESTREAM_FX_RATES": '{"XTS": 2}', "VALUESTREAM_LATENESS_S": str(7 * DAY_S)}
    with WorkerProcess(settings, tmp_path / "log", **fixed) as worker:

        def outcome(name: str) -> float:
            return worker.metric(f'valuestream_events_total{{outcome="{name}"}}')

        worker.wait_ready()
        run(settings, "replay", "--rate", "5000")
        wait_for("the fixed ones", lambda: worker.alive() and outcome("applied") + outcome("duplicate") == 2 * n + 5)
        assert (outcome("applied"), outcome("duplicate")) == (2 * n, 5)
        worker.wait_idle(settings)
        states = states_of(settings)
        run(settings, "replay", "--rate", "5000")
        wait_for("their repeats", lambda: worker.alive() and outcome("duplicate") == 2 * n + 10)
        worker.wait_idle(settings)
        assert outcome("applied") == 2 * n
        assert worker.terminate() == 0, worker.log()
    assert states_of(settings) == states
    rows = np.concatenate([np.frombuffer(value, USER, count=1, offset=1) for value in states.values()])
    assert (rows["n_events"] == 3).all()
    assert (rows["revenue"] == 1_000).all()
    # The one that cannot be fixed came back once after the first replay, and twice after the second.
    assert counted(settings) == {"currency": n + 5, "late": n, "malformed": 4}


# list and show -------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(settings: Settings) -> Settings:
    """Dead letters with three reasons in three partitions, an hour apart. The newest is an hour old."""
    now_ms = int(time.time() * 1000)
    put(
        settings,
        [
            dead(settings, event_of(settings, "ann", partition=0), "currency", timestamp=now_ms - 3 * 3_600_000),
            dead(settings, event_of(settings, "bob", partition=0), "late", timestamp=now_ms - 2 * 3_600_000),
            dead(settings, event_of(settings, "eve", partition=2), "currency", timestamp=now_ms - 3_600_000),
            record(
                settings.dlq_topic, b"\xff", b"\xfe<html>", [("h", None)], partition=3, timestamp=now_ms - 3_600_000
            ),
        ],
    )
    return settings


SELECTIONS: list[tuple[list[str], dict[str, int]]] = [
    ([], {"currency": 2, "late": 1, "unknown": 1}),
    (["--reason", "late", "--reason", "unknown"], {"late": 1, "unknown": 1}),
    (["--since", "150m"], {"currency": 1, "late": 1, "unknown": 1}),
    (["--until", "150m"], {"currency": 1}),
    (["--since", "150m", "--until", "90m"], {"late": 1}),
    (["--since", "1m"], {}),
    (["--from", "0:1"], {"currency": 1, "late": 1, "unknown": 1}),
    (["--from", "3:0"], {"unknown": 1}),
    (["--limit", "1"], {"currency": 1}),
]


def test_list_counts_the_selected_dead_letters(letters: Settings) -> None:
    assert [(selected, counted(letters, *selected)) for selected, _ in SELECTIONS] == SELECTIONS


def test_list_says_where_to_find_each_reason_and_shows_no_event(letters: Settings) -> None:
    lines = run(letters, "list").splitlines()
    assert lines[0] == f"{letters.dlq_topic}: 4 dead letters"
    assert re.fullmatch(r"REASON +COUNT +STAGE +OLDEST +NEWEST +NEWEST AT", lines[1])
    assert re.fullmatch(r"currency +2 +decode +\S+ \S+ +\S+ \S+ +2:0", lines[2])
    each = run(letters, "list", "--each")
    assert [line.split()[0] for line in each.splitlines()] == ["0:0", "0:1", "2:0", "3:0"]
    assert "value of" not in each
    places = [json.loads(line)["place"] for line in run(letters, "list", "--each", "--json").splitlines()]
    assert places == ["0:0", "0:1", "2:0", "3:0"]


def test_reading_dead_letters_leaves_no_consumer_group(letters: Settings) -> None:
    with contextlib.closing(KafkaAdminClient(**kafka_python_config(letters))) as admin:
        before = {group["group_id"] for group in admin.list_groups()}
        run(letters, "list")
        run(letters, "show", "0:1")
        run(letters, "replay", "--dry-run")
        assert {group["group_id"] for group in admin.list_groups()} <= before | {""}


def test_show_prints_the_whole_event_and_escapes_bytes_that_are_no_text(letters: Settings) -> None:
    found = json.loads(run(letters, "show", "0:1", "--json"))
    assert (found["key"], found["value"], found["reason"]) == ("bob", "value of bob", "late")
    assert (found["source_topic"], found["source_partition"], found["attempt"]) == (letters.events_topic, 0, 1)
    words = run(letters, "show", "3:0")
    assert "\\xff" in words
    assert "\\xfe<html>" in words


IMPOSSIBLE = [
    (["show", "0:2"], "no dead letter at 0:2, expected one between 0:0 and 0:2"),
    (["show", "7:0"], "partition is 7, expected one of 0 to 3"),
    (["list", "--from", "7:0"], "partition is 7"),
    (["list", "--dlq-topic", "nowhere"], "topic 'nowhere' not found"),
    (["replay", "--reason", "nothing"], "found no dead letter to send (0 were left)"),
    (["replay", "--reason", "unknown"], "found no dead letter to send (1 were left)"),
    (["replay", "--to", "nowhere"], "topic 'nowhere' not found"),
]


def test_impossible_command_is_refused_in_one_line(letters: Settings) -> None:
    for command, expected in IMPOSSIBLE:
        with pytest.raises(ValuestreamError) as refused:
            run(letters, *command)
        assert expected in str(refused.value)
        assert "\n" not in str(refused.value)
    assert events_in(letters) == []


def test_dry_run_says_what_a_replay_then_does(letters: Settings) -> None:
    announced = run(letters, "replay", "--dry-run")
    assert announced.startswith(f"would send 3 ({letters.events_topic} 0: 2, {letters.events_topic} 2: 1)\n")
    assert "left 1 that name no source topic" in announced
    assert events_in(letters) == []
    done = run(letters, "replay")
    assert done == announced.replace("would send", "sent")
    assert {(r.partition, r.key) for r in events_in(letters)} == {(0, b"ann"), (0, b"bob"), (2, b"eve")}
