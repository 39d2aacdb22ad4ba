"""``scores tail`` and ``alerts tail`` on a real Kafka: what they show, and how they end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner, Result
from kafka import KafkaProducer

from stream.commands.alerts import alerts
from stream.commands.scores import scores
from stream.contract.score import Alert, Reason
from stream.errors import ConfigError
from stream.kafka.clients import kafka_python_config
from stream.score.decide import encode_json
from stream.settings import Settings
from tests.broker.examples import score_of

broker_test = pytest.mark.broker


def alert_of(user: str, before: str | None) -> Alert:
    return Alert(
        alert_id=f"id-{user}",
        rule="churn_high",
        previous_band=before,
        score=score_of(user),
        reasons=[Reason("silence", "no visit for 14 days", 1.5)],
    )


def publish(settings: Settings, topic: str, *records: tuple[str, bytes | None]) -> None:
    with contextlib.closing(KafkaProducer(**kafka_python_config(settings))) as producer:
        for at, (key, value) in enumerate(records, start=1_700_000_000_000):
            producer.send(topic, key=key.encode(), value=value, timestamp_ms=at)
        producer.flush()


def publish_scores(settings: Settings, *users: str) -> None:
    publish(settings, settings.scores_topic, *((user, encode_json(score_of(user))) for user in users))


def flags(settings: Settings) -> list[str]:
    named = ("bootstrap_servers", "scores_topic", "alerts_topic")
    return [part for name in named for part in (f"--{name.replace('_', '-')}", getattr(settings, name))]


def tail(command: click.Group, settings: Settings, *more: str) -> Result:
    """Run a tail in this process. ``--seconds`` only bounds a tail that fails to end by itself."""
    arguments = ["tail", *flags(settings), "--from-beginning", "--seconds", "30", *more]
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start ``valuestream scores tail`` as a process. A process that a test leaves running is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "stream.commands.cli", "scores", "tail", *flags(settings), *more]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


# What is shown --------------------------------------------------------------------------------------------


@broker_test
def test_score_line_has_time_user_churn_band_purchases_worth_and_events(settings: Settings) -> None:
    publish_scores(settings, "ann")
    (line,) = tail(scores, settings, "--max", "1").stdout.splitlines()
    for said in (
        "2025-05-01 12:34:56",
        "ann",
        "churn  83% in 14 d high",
        "buys  12% in 7 d,  31% in 30 d",
        "worth  1,041.20 EUR in 30 d",
        "57 events, data ok",
    ):
        assert said in line


@broker_test
def test_columns_are_aligned_for_users_with_ids_of_different_length(settings: Settings) -> None:
    publish_scores(settings, "a", "bb-12", "s1-000123")
    lines = tail(scores, settings, "--max", "3").stdout.splitlines()
    assert len(lines) == 3
    assert len({line.index("churn") for line in lines}) == 1


@broker_test
def test_alert_line_has_rule_both_bands_and_reasons(settings: Settings) -> None:
    for before, said in (("medium", "churn_high: medium → high"), (None, "churn_high:    new → high")):
        publish(settings, settings.alerts_topic, ("ann", encode_json(alert_of("ann", before))))
        last = tail(alerts, settings, "--max", "2" if before is None else "1").stdout.splitlines()[-1]
        assert said in last
        assert last.endswith("because no visit for 14 days")


@broker_test
def test_json_is_each_record_byte_for_byte(settings: Settings) -> None:
    users = [f"user-{i}" for i in range(20)]
    publish_scores(settings, *users)
    out = tail(scores, settings, "--json", "--max", "20").stdout_bytes
    assert sorted(out.splitlines()) == sorted(encode_json(score_of(user)) for user in users)


@broker_test
def test_foreign_record_and_erased_user_do_not_stop_the_tail(settings: Settings) -> None:
    after = ("bob", encode_json(score_of("bob")))
    publish(settings, settings.scores_topic, ("bob", b'{"schema":"theirs"}'), ("bob", None), after)
    ended = tail(scores, settings, "--max", "3")
    assert [line.split()[:2] for line in ended.stdout.splitlines()] == [["erased", "bob"], ["2025-05-01", "12:34:56"]]
    assert "no record of ours" in ended.stderr and "offset 0" in ended.stderr
    assert len(tail(scores, settings, "--json", "--max", "3").stdout.splitlines()) == 2


@broker_test
def test_user_id_cannot_steer_the_terminal(settings: Settings) -> None:
    publish_scores(settings, "evil\x1b[2J\rroot\u202e")
    out = tail(scores, settings, "--max", "1").stdout.removesuffix("\n")
    assert out.isprintable()


# How it begins and ends -----------------------------------------------------------------------------------


@broker_test
def test_without_from_beginning_only_new_records_are_shown(
    settings: Settings, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    publish_scores(settings, "old-1", "old-2", "old-3")
    process = start("--json", "--max", "1")
    assert process.stderr is not None
    assert b"waiting for new records" in process.stderr.readline()
    publish_scores(settings, "new")
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["user_id"] == "new"
    assert process.returncode == 0


@broker_test
def test_seconds_end_a_tail_without_records(settings: Settings) -> None:
    arguments = ["tail", *flags(settings), "--seconds", "0.5"]
    ended = CliRunner().invoke(scores, arguments, catch_exceptions=False)
    assert (ended.exit_code, ended.stdout) == (0, "")


@broker_test
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_tail_cleanly(
    settings: Settings, start: Callable[..., subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    publish_scores(settings, "ann")
    process = start("--from-beginning")
    assert process.stdout is not None
    assert b"ann" in process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


@broker_test
def test_closed_pipe_ends_the_tail_cleanly(settings: Settings, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    # These are more bytes than a pipe holds, so the tail is still writing when its reader closes the pipe.
    publish_scores(settings, *(f"user-{i}" for i in range(2_000)))
    process = start("--json", "--from-beginning")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


@broker_test
def test_missing_topic_is_one_line_with_the_next_step(settings: Settings) -> None:
    other = settings.model_copy(update={"alerts_topic": "not-there"})
    with pytest.raises(ConfigError, match=r"'not-there' not found .* `valuestream topics create`"):
        tail(alerts, other)


def test_unreachable_broker_is_one_line_with_the_next_step() -> None:
    command = ["tail", "--bootstrap-servers", "127.0.0.1:1"]
    with pytest.raises(ConfigError, match=r"no answer from 127\.0\.0\.1:1 .*`valuestream broker start`"):
        CliRunner().invoke(scores, command, catch_exceptions=False)
