"""Replay and simulation through a real broker, and the pace at which events go out."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream.clock import ManualClock, SystemClock
from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.replay import replay
from stream.commands.simulate import parse_start, simulate
from stream.datasets.events import Record, event_stream
from stream.datasets.formats import read_events
from stream.datasets.market import Market
from stream.errors import ConfigError, ValuestreamError
from stream.kafka import sender
from stream.kafka.clients import kafka_python_config
from stream.kafka.sender import Rate, paced, send_events
from stream.settings import Settings

NOW_S = 1_735_689_600


def records_at(*seconds: float) -> list[Record]:
    return [(b"k", str(i).encode(), round((NOW_S + s) * 1000)) for i, s in enumerate(seconds)]


def released(records: Iterable[Record], rate: str, clock: ManualClock, **bounds: Any) -> list[tuple[bytes, float]]:
    """Give each record's value and the second after the start at which it went out."""

    def wait(seconds: float) -> bool:
        assert 0 < seconds <= 1
        clock.advance(seconds=seconds)
        return False

    out = paced(records, Rate.parse(rate), clock, wait, **bounds)
    return [(value, clock.monotonic()) for _, value, _ in out]


def no_progress(n: int, elapsed_s: float, time_ms: int) -> None:
    """Show nothing."""


def consumed(settings: Settings) -> list[Any]:
    """All records of the events topic, partition by partition."""
    consumer = KafkaConsumer(**kafka_python_config(settings), auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        topic = settings.events_topic
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        records: list[Any] = []
        # Bounded: each poll of a topic that is complete brings records or takes its time once.
        for _ in range(1_000):
            if len(records) >= sum(ends.values()):
                break
            for batch in consumer.poll(timeout_ms=500).values():
                records += batch
        return records
    finally:
        consumer.close()


def arguments(settings: Settings) -> list[str]:
    return ["--bootstrap-servers", settings.bootstrap_servers, "--events-topic", settings.events_topic]


# Pace -------------------------------------------------------------------------------------------------


def test_rate_of_n_sends_n_events_a_second() -> None:
    out = released(records_at(*[0] * 21), "10", ManualClock())
    assert [at for _, at in out] == pytest.approx([n / 10 for n in range(21)])


def test_rate_of_xk_compresses_event_time_k_times() -> None:
    out = released(records_at(0, 60, 90, 90, 3600), "x60", ManualClock())
    assert [at for _, at in out] == pytest.approx([0, 1, 1.5, 1.5, 60])


def test_rate_max_never_waits() -> None:
    assert [at for _, at in released(records_at(0, 86_400, 10), "max", ManualClock())] == [0, 0, 0]


def test_future_events_are_held_back_until_their_time_at_any_rate() -> None:
    for rate in ("max", "1000000", "x1000000"):
        out = released(records_at(-90, -60, 0.001, 5, 7), rate, ManualClock(NOW_S), up_to_now=True)
        assert [at for _, at in out] == pytest.approx([0, 0, 0.001, 5, 7], abs=1e-3)


@given(
    offsets=st.lists(st.floats(-100, 100), max_size=30).map(sorted),
    rate=st.sampled_from(["max", "3", "x0.5", "x50"]),
)
def test_no_event_goes_out_before_its_time_and_order_is_kept(offsets: list[float], rate: str) -> None:
    out = released(records_at(*offsets), rate, ManualClock(NOW_S), up_to_now=True)
    assert [value for value, _ in out] == [str(i).encode() for i in range(len(offsets))]
    for offset, (_, at) in zip(offsets, out, strict=True):
        assert at >= offset - 0.001


def test_seconds_end_the_run_also_while_it_waits() -> None:
    clock = ManualClock(NOW_S)
    out = released(records_at(0, 2, 1_000), "max", clock, seconds=30, up_to_now=True)
    assert len(out) == 2
    assert clock.monotonic() == pytest.approx(30)


def test_stop_while_waiting_ends_the_records() -> None:
    clock = ManualClock(NOW_S)
    assert len(list(paced(records_at(0, 1_000), Rate(), clock, lambda _: True, up_to_now=True))) == 1


@pytest.mark.parametrize("rate", ["", "0", "x0", "-1", "fast", "x", "1e9", "nan", "500/s"])
def test_wrong_rate_is_a_config_error_that_says_what_is_allowed(rate: str) -> None:
    with pytest.raises(ConfigError, match="expected max, a number of events per second"):
        Rate.parse(rate)


def test_start_is_a_date_or_days_ago_and_never_in_the_future() -> None:
    clock = ManualClock(NOW_S)
    now = datetime.fromtimestamp(NOW_S, UTC)
    assert parse_start("-60d", clock) == now - timedelta(days=60)
    assert parse_start("2024-01-01", clock) == datetime(2024, 1, 1, tzinfo=UTC)
    assert parse_start("2024-01-01T00:00:00+02:00", clock) == datetime(2023, 12, 31, 22, tzinfo=UTC)
    for wrong in ("soon", "60d", "-xd", "2999-01-01"):
        with pytest.raises(ConfigError, match="--start"):
            parse_start(wrong, clock)


SIGNAL_STORM = """
import os, signal, threading
from stream.commands.console import stopped_by_signals

with stopped_by_signals() as stop:
    storm = threading.Thread(target=lambda: [os.kill(os.getpid(), n) for n in (2, 15) * 10000])
    storm.start()
    while storm.is_alive():
        for _ in range(1000):
            stop.wait(0)
    assert stop.wait(60)
    print("stopped")
"""


def test_signals_in_any_number_and_at_any_moment_stop_without_deadlock() -> None:
    run = subprocess.run([sys.executable, "-c", SIGNAL_STORM], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "stopped\n"), run.stderr


# Through the broker -----------------------------------------------------------------------------------


@pytest.mark.broker
def test_every_event_arrives_once_keyed_and_in_order_within_its_partition(settings: Settings) -> None:
    market = Market(50, datetime(2024, 1, 1, tzinfo=UTC), seed=1)
    stream = list(event_stream(islice(market.events(), 5_000)))
    sent = send_events(settings, stream, Rate(), no_progress, clock=SystemClock())
    assert (sent.events, sent.failed, sent.last_event_ms) == (5_000, 0, stream[-1][2])
    records = consumed(settings)
    assert Counter((r.key, r.value) for r in records) == Counter((key, value) for key, value, _ in stream)
    times = {value: time_ms for _, value, time_ms in stream}
    for partition in range(4):
        of_partition = [times[r.value] for r in records if r.partition == partition]
        assert of_partition == sorted(of_partition)
    partitions_of = {(r.key, r.partition) for r in records}
    assert len(partitions_of) == len({key for key, _ in partitions_of})


@pytest.mark.broker
def test_records_carry_the_time_of_sending_so_that_retention_keeps_old_events(settings: Settings) -> None:
    before_ms = datetime.now(UTC).timestamp() * 1000
    send_events(settings, [(b"u", b"{}", 1_000)], Rate(), no_progress, clock=SystemClock())
    (record,) = consumed(settings)
    assert record.timestamp >= before_ms - 1_000


@pytest.mark.broker
def test_record_the_broker_refuses_is_counted_and_the_others_arrive(settings: Settings) -> None:
    stream = [(b"u", b"{}", 0), (b"u", b"x" * 2_000_000, 0), (b"u", b"[]", 0)]
    sent = send_events(settings, stream, Rate(), no_progress, clock=SystemClock())
    assert (sent.events, sent.failed) == (2, 1)
    assert [record.value for record in consumed(settings)] == [b"{}", b"[]"]
    with pytest.raises(ValuestreamError, match="1 events were not delivered"):
        sent.require_all()


@pytest.mark.broker
def test_too_many_refused_records_end_the_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FAILED_MAX", 3)
    stream = [(b"u", b"x" * 2_000_000, 0)] * 10 + [(b"u", b"{}", 0)]
    sent = send_events(settings, stream, Rate(), no_progress, clock=SystemClock())
    assert (sent.events, sent.failed) == (0, 3)


@pytest.mark.broker
def test_no_more_events_are_in_flight_than_the_bound(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "IN_FLIGHT_MAX", 7)
    with contextlib.closing(KafkaProducer(**kafka_python_config(settings), linger_ms=50)) as producer:
        run = sender._Run(producer, settings.events_topic)
        in_flight: list[int] = []

        def records() -> Iterator[Record]:
            for i in range(100):
                in_flight.append(len(run._in_flight))
                yield (b"u", b"{}", i)

        assert run.send_all(records(), no_progress, SystemClock(), threading.Event()).events == 100
    assert max(in_flight) == 7


@pytest.mark.broker
def test_events_a_silent_broker_does_not_acknowledge_are_counted_as_failed(
    settings: Settings, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "DELIVERY_TIMEOUT_S", 2.0)

    def records() -> Iterator[Record]:
        yield (b"u", b"{}", 0)
        broker.pause()
        yield from [(b"u", b"{}", 0)] * 20

    try:
        sent = send_events(settings, records(), Rate(), no_progress, clock=SystemClock())
    finally:
        broker.resume()
    assert sent.failed >= 20
    assert sent.events + sent.failed == 21


@pytest.mark.broker
def test_stop_ends_an_endless_stream_with_everything_acknowledged(settings: Settings) -> None:
    stop, handed = threading.Event(), 0

    def endless() -> Iterable[Record]:
        nonlocal handed
        while True:
            handed += 1
            if handed == 500:
                stop.set()
            yield (b"u", str(handed).encode(), 0)

    sent = send_events(settings, endless(), Rate(), no_progress, clock=SystemClock(), stop=stop)
    assert sent.events == handed == 500
    assert len(consumed(settings)) == 500


@pytest.mark.broker
def test_missing_topic_is_one_line_with_the_next_step(settings: Settings) -> None:
    other = settings.model_copy(update={"events_topic": "not-there"})
    with pytest.raises(ConfigError, match=r"'not-there' not found .* `valuestream topics create`"):
        send_events(other, [], Rate(), no_progress, clock=SystemClock())


@pytest.mark.broker
def test_replay_command_sends_the_file_and_says_what_was_dropped(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "tmall.csv"
    file.write_text("user_id,brand_id,type,visit_datetime\n1,10,0,6-4\n2,11,1,6-3\n1,10,9,6-4\n1,12,2,6-5\n")
    run = CliRunner().invoke(replay, [*arguments(settings), str(file), "--format", "tmall"], catch_exceptions=False)
    assert run.exit_code == 0
    assert "3 events sent in" in run.stdout and "dropped: 1 unreadable" in run.stdout
    expected = [value for _, value, _ in event_stream(read_events(file, "tmall"))]
    assert sorted(record.value for record in consumed(settings)) == sorted(expected)


@pytest.mark.broker
def test_replay_limit_sends_the_first_events_only(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f'{{"userId":"u","n":{n}}}\n' for n in range(10)))
    command = [*arguments(settings), str(file), "--format", "jsonl", "--limit", "4", "--rate", "1000"]
    assert CliRunner().invoke(replay, command, catch_exceptions=False).exit_code == 0
    assert [json.loads(record.value)["n"] for record in consumed(settings)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [("a,b\n1,2\n", "found columns a,b"), ("user_id,brand_id,type,visit_datetime\n", "has no events")],
)
def test_replay_refuses_a_useless_file_before_it_looks_for_a_broker(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(content)
    run = CliRunner().invoke(replay, ["--bootstrap-servers", "127.0.0.1:1", str(file), "--format", "tmall"])
    assert isinstance(run.exception, ConfigError)
    assert said in str(run.exception)


@pytest.mark.broker
def test_simulate_writes_the_truth_of_all_whose_events_were_sent(settings: Settings, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    command = [*arguments(settings), "--users", "30", "--seed", "9", "--start", "2024-01-01", "--events", "2000"]
    run = CliRunner().invoke(simulate, [*command, "--truth", str(truth)], catch_exceptions=False)
    assert run.exit_code == 0
    assert "2,000 events sent in" in run.stdout
    shoppers = {shopper["user_id"]: shopper for shopper in map(json.loads, truth.read_text().splitlines())}
    events = [json.loads(record.value) for record in consumed(settings)]
    assert len(events) == 2_000
    assert {event["userId"] for event in events} == set(shoppers)
    for event in events:
        assert event["timestamp"] < shoppers[event["userId"]]["churned_at"]


@pytest.mark.broker
def test_simulated_events_are_never_in_the_future(settings: Settings) -> None:
    command = [*arguments(settings), "--users", "20000", "--start", "-0.1d", "--seconds", "5"]
    run = CliRunner().invoke(simulate, command, catch_exceptions=False)
    assert run.exit_code == 0
    events = [json.loads(record.value) for record in consumed(settings)]
    now = datetime.now(UTC)
    newest = max(datetime.fromisoformat(event["timestamp"]) for event in events)
    # It caught up with the clock, and did not pass it.
    assert now - timedelta(minutes=10) < newest <= now


@pytest.mark.broker
@pytest.mark.data
def test_uci_online_retail_arrives_completely(settings: Settings, data_dir: Path) -> None:
    file = data_dir / "uci_online_retail.parquet"
    command = [*arguments(settings), str(file), "--format", "uci-online-retail"]
    run = CliRunner().invoke(replay, command, catch_exceptions=False)
    assert run.exit_code == 0
    assert "22,190 events sent" in run.stdout and "135,080 without customer" in run.stdout
    records = consumed(settings)
    assert (len(records), len({record.key for record in records})) == (22_190, 4_372)
