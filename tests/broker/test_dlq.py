"""Dead letters on real Kafka: counted, shown, and sent back so that nothing counts twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.partitioner.default import murmur2

from stream.clock import ManualClock
from stream.commands.dlq import replay as dlq_replay
from stream.commands.dlq.command import dlq
from stream.commands.dlq.letters import read_letter
from stream.commands.dlq.read import Place
from stream.commands.dlq.replay import Pace, Replayed, replay_letters
from stream.commands.dlq.route import Event
from stream.contract.columns import USER
from stream.decode.dead_letters import dead_letter
from stream.decode.decoder import DeadLetter
from stream.errors import ValuestreamError
from stream.kafka.clients import aiokafka_config, kafka_python_config
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import PARTITIONS, WorkerProcess, partition_of, produce, track, wait_for
from tests.broker.undisturbed import states_of

pytestmark = pytest.mark.broker

DAY_S = 86_400
Headers = list[tuple[str, bytes | None]]


def flags(settings: Settings) -> list[str]:
    named = ("bootstrap_servers", "dlq_topic", "events_topic")
    return [part for name in named for part in (f"--{name.replace('_', '-')}", getattr(settings, name))]


def run(settings: Settings, command: str, *more: str) -> str:
    """What ``valuestream dlq`` prints; its errors are raised."""
    ended = CliRunner().invoke(dlq, [command, *flags(settings), *more], catch_exceptions=False, standalone_mode=False)
    if ended.exception:
        raise ended.exception
    return ended.stdout


def counted(settings: Settings, *more: str) -> dict[str, int]:
    return {group["reason"]: group["count"] for group in json.loads(run(settings, "list", "--json", *more))["reasons"]}


def put(settings: Settings, records: Iterable[Any]) -> None:
    """Send records (topic, partition, key, value, headers, timestamp) one after the other."""

    async def send() -> None:
        producer = AIOKafkaProducer(**aiokafka_config(settings), acks="all")
        await producer.start()
        try:
            for r in records:
                await producer.send_and_wait(r.topic, r.value, r.key, r.partition, r.timestamp, list(r.headers))
        finally:
            await producer.stop()

    asyncio.run(send())


def record(topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None, **changed: Any) -> Any:
    place = {"partition": 0, "offset": 0, "timestamp": int(time.time() * 1000)}
    return SimpleNamespace(topic=topic, key=key, value=value, headers=headers or [], **{**place, **changed})


def dead(settings: Settings, event: Any, reason: str = "late", **changed: Any) -> Any:
    """The dead-letter record that the worker makes of an event."""
    out = dead_letter(DeadLetter(event, reason, "why"), event.topic, event.partition)
    changed = {"partition": event.partition, **changed}
    return record(settings.dlq_topic, out.key, out.value, list(out.headers), **changed)


def event_of(settings: Settings, user: str, offset: int = 0, **changed: Any) -> Any:
    return record(settings.events_topic, user.encode(), f"value of {user}".encode(), offset=offset, **changed)


def events_in(settings: Settings, topic: str | None = None) -> list[Any]:
    return harness.read_topic(settings, topic or settings.events_topic)


def users_in(settings: Settings) -> list[str]:
    return [r.key.decode() for r in events_in(settings)]


def text_headers(found: Any) -> dict[str, str]:
    return {name: content.decode() for name, content in found.headers}


# With a real worker ------------------------------------------------------------------------------------------


def shop(now: float, users: int) -> list[tuple[bytes, bytes]]:
    """Of each user a view, an order in a currency without a rate, and a view from three days before; and no JSON."""
    names = [f"user-{i}" for i in range(users)]
    views = [track(u, "Product Viewed", now - 60, f"view-{u}") for u in names]
    orders = [track(u, "Order Completed", now - 50, "", total=5, currency="XTS", order_id=f"o-{u}") for u in names]
    late = [track(u, "Product Viewed", now - 3 * DAY_S, f"late-{u}") for u in names]
    return [(u.encode(), value) for kind in (views, orders, late) for u, value in zip(names, kind, strict=True)] + [
        (b"user-0", b"<xml/>")
    ]


def test_dead_letters_replayed_twice_count_once_when_their_cause_is_mended(make_settings, tmp_path: Path) -> None:
    settings, n = make_settings(instance_id="w"), 40
    produce(settings, shop(time.time(), n))
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        wait_for("the dead letters", lambda: counted(settings) == {"currency": n, "late": n, "malformed": 1})
        run(settings, "replay", "--reason", "currency", "--limit", "5", "--attempts-max", "1", "--rate", "1000")
        wait_for("what is not mended to come back", lambda: counted(settings)["currency"] == n + 5)
        assert worker.terminate() == 0, worker.log()
    again = [r for r in events_in(settings, settings.dlq_topic) if text_headers(r)["valuestream.attempt"] == "2"]
    assert len(again) == 5
    assert {text_headers(r)["valuestream.error.reason"] for r in again} == {"currency"}
    mended = {"VALUESTREAM_FX_RATES": '{"XTS": 2}', "VALUESTREAM_LATENESS_S": str(7 * DAY_S)}
    with WorkerProcess(settings, tmp_path / "log", **mended) as worker:

        def outcome(name: str) -> float:
            return worker.metric(f'valuestream_events_total{{outcome="{name}"}}')

        worker.wait_ready()
        run(settings, "replay", "--rate", "5000")
        wait_for("the mended ones", lambda: worker.alive() and outcome("applied") + outcome("duplicate") == 2 * n + 5)
        assert (outcome("applied"), outcome("duplicate")) == (2 * n, 5)
        worker.wait_idle(settings)
        states = states_of(settings)
        run(settings, "replay", "--rate", "5000")
        wait_for("them again", lambda: worker.alive() and outcome("duplicate") == 2 * n + 10)
        worker.wait_idle(settings)
        assert outcome("applied") == 2 * n
        assert worker.terminate() == 0, worker.log()
    assert states_of(settings) == states
    rows = np.concatenate([np.frombuffer(value, USER, count=1) for value in states.values()])
    assert (rows["n_events"] == 3).all()
    assert (rows["revenue"] == 1_000).all()
    # The one that cannot be mended came back by the first, and it and its repeat by the second.
    assert counted(settings) == {"currency": n + 5, "late": n, "malformed": 4}


# list and show -------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(settings: Settings) -> Settings:
    """Three reasons in three partitions, an hour apart, as one may have them; the newest an hour ago."""
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


ASKED: list[tuple[list[str], dict[str, int]]] = [
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


def test_list_counts_those_asked_for(letters: Settings) -> None:
    assert [(asked, counted(letters, *asked)) for asked, _ in ASKED] == ASKED


def test_list_says_where_each_reason_is_to_be_seen_and_nothing_of_the_events(letters: Settings) -> None:
    lines = run(letters, "list").splitlines()
    assert lines[0] == f"{letters.dlq_topic}: 4 dead letters"
    assert re.fullmatch(r"REASON +COUNT +STAGE +OLDEST +NEWEST +NEWEST AT", lines[1])
    assert re.fullmatch(r"currency +2 +decode +\S+ \S+ +\S+ \S+ +2:0", lines[2])
    each = run(letters, "list", "--each")
    assert [line.split()[0] for line in each.splitlines()] == ["0:0", "0:1", "2:0", "3:0"]
    assert "value of" not in each
    places = [json.loads(line)["place"] for line in run(letters, "list", "--each", "--json").splitlines()]
    assert places == ["0:0", "0:1", "2:0", "3:0"]


def test_looking_leaves_no_group_and_commits_nothing(letters: Settings) -> None:
    with contextlib.closing(KafkaAdminClient(**kafka_python_config(letters))) as admin:
        before = {group["group_id"] for group in admin.list_groups()}
        run(letters, "list")
        run(letters, "show", "0:1")
        run(letters, "replay", "--dry-run")
        assert {group["group_id"] for group in admin.list_groups()} <= before | {""}


def test_show_gives_the_event_whole_and_escapes_what_is_not_text(letters: Settings) -> None:
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


def test_what_cannot_be_done_is_said_in_one_line(letters: Settings) -> None:
    for command, said in IMPOSSIBLE:
        with pytest.raises(ValuestreamError) as refused:
            run(letters, *command)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    assert events_in(letters) == []


# replay ------------------------------------------------------------------------------------------------------


def test_dry_run_says_what_a_replay_then_does(letters: Settings) -> None:
    said = run(letters, "replay", "--dry-run")
    assert said.startswith(f"would send 3 ({letters.events_topic} 0: 2, {letters.events_topic} 2: 1)\n")
    assert "left 1 that name no source topic" in said
    assert events_in(letters) == []
    done = run(letters, "replay")
    assert done == said.replace("would send", "sent")
    assert {(r.partition, r.key) for r in events_in(letters)} == {(0, b"ann"), (0, b"bob"), (2, b"eve")}


def test_event_goes_back_as_it_came_to_the_partition_it_came_from(settings: Settings) -> None:
    elsewhere = (partition_of("ann") + 1) % PARTITIONS
    own: Headers = [("trace", b"t1"), ("none", None), ("trace", b"t2")]
    keyed = record(settings.events_topic, b"ann", b"\x00\xff", own, partition=elsewhere, offset=7)
    keyless = record(settings.events_topic, None, b"{}", partition=partition_of("ann"), offset=8)
    put(settings, [dead(settings, keyed), dead(settings, keyless)])
    run(settings, "replay")
    back = {r.partition: r for r in events_in(settings)}
    origin = f"{settings.events_topic}/{elsewhere}/7".encode()
    assert (back[elsewhere].key, back[elsewhere].value) == (b"ann", b"\x00\xff")
    assert list(back[elsewhere].headers) == [*own, ("valuestream.origin", origin), ("valuestream.attempt", b"1")]
    assert (back[partition_of("ann")].key, back[partition_of("ann")].value) == (None, b"{}")


def test_elsewhere_the_partition_is_that_of_the_key(settings: Settings) -> None:
    to = f"{settings.events_topic}-again"
    with contextlib.closing(KafkaAdminClient(**kafka_python_config(settings))) as admin:
        admin.create_topics({to: {"num_partitions": 3, "replication_factor": 1}})
        admin.wait_for_topics([to])
    users = [f"user-{i}" for i in range(12)]
    put(settings, [dead(settings, event_of(settings, user, partition=3)) for user in users])
    said = run(settings, "replay", "--dry-run", "--to", to)
    expected = [(murmur2(user.encode()) & 0x7FFFFFFF) % 3 for user in users]
    for partition in range(3):
        assert f"{to} {partition}: {expected.count(partition)}" in said


def test_place_of_the_first_failure_outlives_further_ones(settings: Settings) -> None:
    put(settings, [dead(settings, event_of(settings, "ann", offset=7))])
    for attempt in (1, 2, 3):
        run(settings, "replay", "--from", f"0:{attempt - 1}")
        (newest,) = [r for r in events_in(settings) if r.offset == attempt - 1]
        assert text_headers(newest) == {
            "valuestream.origin": f"{settings.events_topic}/0/7",
            "valuestream.attempt": str(attempt),
        }
        put(settings, [dead(settings, newest)])
    assert "left 1 that failed more than 3 times" in run(settings, "replay", "--attempts-max", "3")
    assert len(users_in(settings)) == 6


def test_dead_letters_of_connect_and_spring_go_back_too(settings: Settings) -> None:
    connect: Headers = [
        ("__connect.errors.topic", settings.events_topic.encode()),
        ("__connect.errors.partition", b"1"),
        ("__connect.errors.offset", b"5"),
        ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ]
    spring: Headers = [
        ("kafka_dlt-original-topic", settings.events_topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", 2)),
        ("kafka_dlt-original-offset", struct.pack(">q", 6)),
        ("kafka_dlt-exception-fqcn", b"java.lang.IllegalStateException"),
    ]
    put(
        settings,
        [
            record(settings.dlq_topic, b"c", b"1", [("own", b"x"), *connect]),
            record(settings.dlq_topic, b"s", b"2", [("own", b"y"), *spring]),
        ],
    )
    assert counted(settings) == {"DataException": 1, "IllegalStateException": 1}
    run(settings, "replay")
    back = {r.partition: (r.key, text_headers(r)) for r in events_in(settings)}
    for partition, key, own, offset in ((1, b"c", "x", 5), (2, b"s", "y", 6)):
        origin = f"{settings.events_topic}/{partition}/{offset}"
        assert back[partition] == (key, {"own": own, "valuestream.origin": origin, "valuestream.attempt": "1"})


def test_cut_dead_letter_is_read_whole_from_its_source_while_that_has_it(settings: Settings) -> None:
    large = bytes(range(256)) * 8_192
    with contextlib.closing(
        KafkaProducer(**kafka_python_config(settings), compression_type="gzip", max_request_size=8_000_000)
    ) as producer:
        for key in (b"ann", b"bob"):
            headers = [("h", b"1"), ("valuestream.attempt", b"3")]
            producer.send(settings.events_topic, key=key, value=large, partition=0, headers=headers).get(30)
    whole = events_in(settings)
    # As from a topic that was there before this one: bob's place, but not his event.
    others = [record(settings.events_topic, *of, offset=1) for of in ((b"eve", large), (b"bob", large[1:]))]
    put(settings, [dead(settings, event, "oversized") for event in (*whole, *others)])
    said = run(settings, "replay")
    assert "sent 2" in said
    assert "2 were cut and read whole" in said
    assert "left 2 that are cut" in said
    back = events_in(settings)[2:]
    assert [(r.key, r.value) for r in back] == [(b"ann", large), (b"bob", large)]
    for offset, r in enumerate(back):
        origin = f"{settings.events_topic}/0/{offset}".encode()
        assert list(r.headers) == [("h", b"1"), ("valuestream.origin", origin), ("valuestream.attempt", b"4")]
    with contextlib.closing(KafkaAdminClient(**kafka_python_config(settings))) as admin:
        admin.delete_records({TopicPartition(settings.events_topic, 0): 4})
    with pytest.raises(ValuestreamError, match=r"found no dead letter to send \(4 were left\)"):
        run(settings, "replay")


def test_one_that_the_topic_refuses_is_named_and_the_rest_can_go_on_without_it(settings: Settings) -> None:
    to = f"{settings.events_topic}-small"
    with contextlib.closing(KafkaAdminClient(**kafka_python_config(settings))) as admin:
        small = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "1000"}}
        admin.create_topics({to: small})
        admin.wait_for_topics([to])
    noise = np.random.default_rng(1).bytes(5_000)
    values = [b"a", b"b", noise, *(bytes([i]) for i in range(20))]
    put(settings, [dead(settings, record(settings.events_topic, b"k", value)) for value in values])
    with pytest.raises(ValuestreamError, match="dead letter 0:2 was not acknowledged") as refused:
        run(settings, "replay", "--to", to, "--rate", "1000")
    at, behind = re.findall(r"--from (\S+) --until (\S+)", str(refused.value))
    assert (at[0], behind[0]) == ("0:2", "0:3")
    said = run(settings, "replay", "--to", to, "--from", behind[0], "--until", behind[1])
    assert said.startswith("sent 20 ")


class Bench:
    """A replay without a broker: a producer that notes when it is asked, and a stop whose waiting moves the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, silent_from: int | None = None) -> None:
        self.clock, self._silent_from = ManualClock(), silent_from
        self.asked_at: list[float] = []
        monkeypatch.setattr(dlq_replay, "AIOKafkaProducer", lambda **_: self)
        monkeypatch.setattr(dlq_replay, "_DELIVERY_TIMEOUT_S", 0.05)
        monkeypatch.setattr(dlq_replay, "_STOP_TIMEOUT_S", 0.05)

    async def start(self) -> None:
        pass

    async def send_and_wait(self, *_: Any, **__: Any) -> None:
        if len(self.asked_at) == self._silent_from:
            await asyncio.Event().wait()
        self.asked_at.append(self.clock.monotonic())

    async def stop(self) -> None:
        if self._silent_from is not None:
            await asyncio.Event().wait()

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        self.clock.advance(seconds=timeout)
        return False

    def replay(self, n: int, pace: Pace) -> Replayed:
        found = [read_letter(record("dlq", b"k", b"v", offset=10 * i)) for i in range(n)]
        router: Any = SimpleNamespace(route=lambda letter: Event(letter, "t", 0, letter.key, letter.value, []))
        progress: Any = lambda *_: None  # noqa: E731
        return asyncio.run(
            replay_letters(
                Settings(), found, router, pace, progress=progress, clock=self.clock, stop=self, dry_run=False
            )
        )


def test_events_go_out_at_the_rate_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    done = bench.replay(9, Pace(events_per_s=2.0, limit=5))
    assert bench.asked_at == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert (done.total, done.following) == (5, Place(0, 41))


def test_broker_that_falls_silent_ends_the_replay_at_the_event_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Bench(monkeypatch, silent_from=3).replay(9, Pace(events_per_s=1_000.0))
    assert (done.total, done.following) == (3, Place(0, 30))
    assert done.refused is not None
    assert done.refused.startswith("silence")


def test_replay_stopped_by_ctrl_c_says_how_to_go_on_and_going_on_sends_each_once(settings: Settings) -> None:
    users = [f"user-{i}" for i in range(60)]
    put(settings, [dead(settings, event_of(settings, user, partition=i % PARTITIONS)) for i, user in enumerate(users)])
    command = [sys.executable, "-m", "stream.commands.cli", "dlq", "replay", *flags(settings), "--rate", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for("some to be sent", lambda: process.poll() is not None or len(users_in(settings)) >= 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    sent = users_in(settings)
    assert 5 <= len(sent) < len(users)
    assert out.startswith(f"sent {len(sent)} ")
    assert f"after {len(sent)} were delivered" in err
    (start, until) = re.findall(r"--from (\S+) --until (\S+)", err)[0]
    run(settings, "replay", "--from", start, "--until", until, "--rate", "1000")
    assert sorted(users_in(settings)) == sorted(users)
