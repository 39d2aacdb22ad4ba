"""Tests of ``valuestream user show`` on a real Kafka: it shows the state in the changelog, in words and as JSON."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from kafka import KafkaProducer

from stream.checkpoint import changelog
from stream.commands.user.show import show
from stream.contract.columns import STATE_VERSION
from stream.contract.events import EVENT, EventBatch, EventType
from stream.errors import ContractError
from stream.kafka.clients import kafka_python_config
from stream.kafka.partitioner import partition_of
from stream.kafka.topics import changelog_topic
from stream.score.decide import encode_json
from stream.settings import Settings
from stream.state.partition_state import PartitionState
from tests.broker.command import assert_one_line, valuestream
from tests.broker.examples import score_of
from tests.state.reference import WINDOWS, Plain, window

START = 1_735_732_800


def history(n: int, user: str = "ann") -> list[Plain]:
    """``n`` events, 25,000 s apart. Every tenth is an order. Many events fill the history and the buckets."""
    kinds = [EventType.VIEW, EventType.VIEW, EventType.CART, EventType.SEARCH]
    return [
        Plain(START + i * 25_000, user, i + 1, EventType.PURCHASE, 1_234 + i)
        if i % 10 == 9
        else Plain(START + i * 25_000, user, i + 1, kinds[i % 4])
        for i in range(n)
    ]


def packed(events: list[Plain], **columns: Any) -> bytes:
    """The changelog value of one user after these events. Columns of ``USER`` can be set by hand."""
    rows = np.zeros(len(events), EVENT)
    rows["offset"] = np.arange(len(events))
    for name in ("identity", "time", "value", "type"):
        rows[name] = [getattr(event, name) for event in events]
    state = PartitionState(lateness_s=0)
    state.apply(EventBatch([event.user for event in events], rows))
    for name, value in columns.items():
        state.users[name][0] = value
    (value,) = changelog.pack(state, np.array([0]))
    return value


def put(settings: Settings, topic: str, user: str, *values: bytes | None, partition: int | None = None) -> None:
    with contextlib.closing(KafkaProducer(**kafka_python_config(settings))) as producer:
        for value in values:
            producer.send(topic, key=user.encode(), value=value, partition=partition)
        producer.flush()


def flags(settings: Settings) -> list[str]:
    named = ("bootstrap_servers", "app_id", "scores_topic")
    return [part for name in named for part in (f"--{name.replace('_', '-')}", getattr(settings, name))]


def shown(settings: Settings, user: str) -> dict[str, Any]:
    run = CliRunner().invoke(show, [*flags(settings), user, "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.broker
@pytest.mark.parametrize("n", [1, 30, 150])
def test_shown_state_equals_a_plain_count_of_the_events(settings: Settings, n: int) -> None:
    events = history(n)
    put(settings, changelog_topic(settings), "ann", packed(events))
    found, last = shown(settings, "ann"), events[-1].time
    orders = [event for event in events if event.type == EventType.PURCHASE]
    assert (found["first_seen"], found["last_event"]) == (iso(events[0].time), iso(last))
    assert (found["events"], found["orders"], found["applied_offset"]) == (n, len(orders), n - 1)
    assert found["revenue"] == pytest.approx(sum(order.value for order in orders) / 100)
    for name in WINDOWS:
        counts, revenue = window(events, name, last)
        assert found["windows"][name]["events"] == {EventType(t).name.lower(): c for t, c in counts.items()}
        assert found["windows"][name]["revenue"] == pytest.approx(revenue / 100)
    assert found["last_events"] == [
        {"time": iso(e.time), "type": EventType(e.type).name.lower(), "value": e.value / 100}
        for e in reversed(events[-10:])
    ]


@pytest.mark.broker
def test_newest_value_of_the_user_counts_and_no_other(settings: Settings) -> None:
    topic = changelog_topic(settings)
    for user in ("bob", "ann", "eve"):
        put(settings, topic, user, packed(history(3, user)), packed(history(5 if user == "ann" else 9, user)))
    assert shown(settings, "ann")["events"] == 5


@pytest.mark.broker
def test_user_in_an_unexpected_partition_is_found(settings: Settings) -> None:
    elsewhere = (partition_of(b"ann", 4) + 1) % 4
    put(settings, changelog_topic(settings), "ann", packed(history(3)), partition=elsewhere)
    assert shown(settings, "ann")["partition"] == elsewhere


@pytest.mark.broker
def test_last_score_is_shown_from_state_and_from_the_scores_topic(settings: Settings) -> None:
    scored = {"scored_offset": 1, "churn": 0.5, "purchase": 0.25, "ltv": 12.5, "idle_stage": 3}
    put(settings, changelog_topic(settings), "ann", packed(history(3), **scored))
    put(settings, settings.scores_topic, "ann", encode_json(score_of("ann", 1.0)), encode_json(score_of("ann", 2.0)))
    found = shown(settings, "ann")
    assert found["last_score"] == {
        "scored_offset": 1,
        "has_seen_last_event": False,
        "silence_days": 7,
        "churn": 0.5,
        "purchase": 0.25,
        "ltv": 12.5,
    }
    assert found["score_record"]["ltv"]["expected"] == 2.0


@pytest.mark.broker
def test_output_in_words_shows_the_state(settings: Settings) -> None:
    put(settings, changelog_topic(settings), "ann", packed(history(30)))
    run = CliRunner().invoke(show, [*flags(settings), "ann"], catch_exceptions=False)
    for text in ("user ann", "events          30", "orders          3", "first seen      2025-01-01 12:00:00"):
        assert text in run.stdout
    assert "last 10 of 30 events" in run.stdout
    assert run.stdout.count("none yet") == 2


@pytest.mark.broker
def test_unknown_and_erased_users_are_one_line_and_exit_status_1(settings: Settings) -> None:
    put(settings, changelog_topic(settings), "bob", packed(history(3, "bob")), None)
    for user in ("nobody", "bob"):
        ended = valuestream("user", "show", *flags(settings), user)
        assert_one_line(ended, f"user '{user}' is not in")
        assert ended.stdout == ""


@pytest.mark.broker
def test_state_of_a_newer_release_is_refused(settings: Settings) -> None:
    value = bytes([STATE_VERSION + 1]) + packed(history(3))[1:]
    put(settings, changelog_topic(settings), "ann", value)
    with pytest.raises(ContractError, match=f"state version is {STATE_VERSION + 1}"):
        shown(settings, "ann")
