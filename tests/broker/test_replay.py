"""Tests of the commands ``replay`` and ``simulate``: they send all events through a real broker, and end in order."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from stream.clock import ManualClock
from stream.commands.replay import replay
from stream.commands.simulate import parse_start, simulate
from stream.datasets.events import event_stream
from stream.datasets.formats import read_events
from stream.errors import ConfigError
from stream.settings import Settings
from tests.broker.harness import events_of

NOW_S = 1_735_689_600


def arguments(settings: Settings) -> list[str]:
    return ["--bootstrap-servers", settings.bootstrap_servers, "--events-topic", settings.events_topic]


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


@pytest.mark.broker
def test_replay_command_sends_the_file_and_says_what_was_dropped(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "tmall.csv"
    file.write_text("user_id,brand_id,type,visit_datetime\n1,10,0,6-4\n2,11,1,6-3\n1,10,9,6-4\n1,12,2,6-5\n")
    run = CliRunner().invoke(replay, [*arguments(settings), str(file), "--format", "tmall"], catch_exceptions=False)
    assert run.exit_code == 0
    assert "3 events sent in" in run.stdout and "dropped: 1 unreadable" in run.stdout
    expected = [value for _, value, _ in event_stream(read_events(file, "tmall"))]
    assert sorted(record.value for record in events_of(settings)) == sorted(expected)


@pytest.mark.broker
def test_replay_limit_sends_the_first_events_only(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f'{{"userId":"u","n":{n}}}\n' for n in range(10)))
    command = [*arguments(settings), str(file), "--format", "jsonl", "--limit", "4", "--rate", "1000"]
    assert CliRunner().invoke(replay, command, catch_exceptions=False).exit_code == 0
    assert [json.loads(record.value)["n"] for record in events_of(settings)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a,b\n1,2\n", "found columns a,b"), ("user_id,brand_id,type,visit_datetime\n", "has no events")],
)
def test_replay_refuses_a_useless_file_before_it_connects_to_a_broker(
    tmp_path: Path, content: str, expected: str
) -> None:
    file = tmp_path / "x.csv"
    file.write_text(content)
    run = CliRunner().invoke(replay, ["--bootstrap-servers", "127.0.0.1:1", str(file), "--format", "tmall"])
    assert isinstance(run.exception, ConfigError)
    assert expected in str(run.exception)


@pytest.mark.broker
def test_simulate_writes_the_truth_about_every_user_it_has_sent(settings: Settings, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    command = [*arguments(settings), "--users", "30", "--seed", "9", "--start", "2024-01-01", "--events", "2000"]
    run = CliRunner().invoke(simulate, [*command, "--truth", str(truth)], catch_exceptions=False)
    assert run.exit_code == 0
    assert "2,000 events sent in" in run.stdout
    shoppers = {shopper["user_id"]: shopper for shopper in map(json.loads, truth.read_text().splitlines())}
    events = [json.loads(record.value) for record in events_of(settings)]
    assert len(events) == 2_000
    assert {event["userId"] for event in events} == set(shoppers)
    for event in events:
        assert event["timestamp"] < shoppers[event["userId"]]["churned_at"]


@pytest.mark.broker
def test_simulated_events_are_never_in_the_future(settings: Settings) -> None:
    command = [*arguments(settings), "--users", "20000", "--start", "-0.1d", "--seconds", "5"]
    run = CliRunner().invoke(simulate, command, catch_exceptions=False)
    assert run.exit_code == 0
    events = [json.loads(record.value) for record in events_of(settings)]
    now = datetime.now(UTC)
    newest = max(datetime.fromisoformat(event["timestamp"]) for event in events)
    # The simulation has caught up with the clock, but not passed it.
    assert now - timedelta(minutes=10) < newest <= now


@pytest.mark.broker
@pytest.mark.data
def test_uci_online_retail_arrives_complete(settings: Settings, data_dir: Path) -> None:
    file = data_dir / "uci_online_retail.parquet"
    command = [*arguments(settings), str(file), "--format", "uci-online-retail"]
    run = CliRunner().invoke(replay, command, catch_exceptions=False)
    assert run.exit_code == 0
    assert "22,190 events sent" in run.stdout and "135,080 without customer" in run.stdout
    records = events_of(settings)
    assert (len(records), len({record.key for record in records})) == (22_190, 4_372)
