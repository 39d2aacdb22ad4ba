"""Tests of a topic as training data: it gives the same events as a file, and refusals are clear."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_export.data.event_log import DataConfig, EventLog, fingerprint, load
from stream.commands.broker.processes import free_port
from stream.datasets.market import Market
from stream.datasets.topic_source import Topic
from stream.errors import ConfigError
from stream.kafka.events_topic import end_offsets, read_topic
from stream.settings import Settings
from tests.broker.harness import Message, partition_of, produce

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def events() -> list[Message]:
    market = Market(40, START, 7)
    return [(event.user_id.encode(), event.encode()) for event in market.events(START + timedelta(days=10))]


def source_of(settings: Settings) -> str:
    return f"kafka://{settings.bootstrap_servers}/{settings.events_topic}"


def by_user(log: EventLog) -> dict[str, list[Any]]:
    """The events of each user in the log's order, without offsets: these differ, as partitions are read in turn."""
    out: dict[str, list[Any]] = {name: [] for name in log.names}
    columns = [name for name in log.rows.dtype.names or () if name != "offset"]
    for user, row in zip(log.users.tolist(), log.rows[columns].tolist(), strict=True):
        out[log.names[user]].append(row)
    return out


@pytest.mark.broker
def test_a_topic_and_a_file_of_the_same_events_give_the_same_history(
    settings: Settings, events: list[Message], tmp_path: Path
) -> None:
    produce(settings, events)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(value or b"" for _, value in events) + b"\n")
    from_topic, from_file = load(DataConfig(source=source_of(settings))), load(DataConfig(source=str(path)))
    assert len(from_file) > 500
    assert by_user(from_topic) == by_user(from_file)
    assert from_topic.rows["time"].tolist() == sorted(from_topic.rows["time"].tolist())
    assert from_topic.categories == from_file.categories


@pytest.mark.broker
def test_topic_reads_the_same_twice_and_ends_at_its_end_when_reading_began(
    settings: Settings, events: list[Message]
) -> None:
    begin, rest = events[:300], events[300:]
    produce(settings, begin)
    reading = read_topic(source_of(settings), records_max=1_000)
    found = [next(reading)]
    produce(settings, rest)
    found += reading
    expected = [value for p in range(4) for key, value in begin if partition_of((key or b"").decode()) == p]
    assert found == expected
    assert list(read_topic(source_of(settings), records_max=10**6))[: len(found)] != found  # Each partition has grown.
    once, again = (list(read_topic(source_of(settings), records_max=10**6)) for _ in range(2))
    assert once == again
    assert sorted(once) == sorted(value or b"" for _, value in events)


@pytest.mark.broker
def test_a_record_without_a_value_is_counted_as_dropped(settings: Settings, events: list[Message]) -> None:
    produce(settings, [*events[:100], (b"u", None)])
    log = load(DataConfig(source=source_of(settings)))
    assert len(log) + sum(log.dropped.values()) == 101
    assert sum(log.dropped.values()) >= 1


@pytest.mark.broker
def test_fingerprint_changes_with_every_new_event_and_only_then(settings: Settings, events: list[Message]) -> None:
    produce(settings, events[:50])
    data = DataConfig(source=source_of(settings))
    before = fingerprint(data)
    assert fingerprint(data) == before
    produce(settings, events[50:51])
    assert fingerprint(data) != before
    assert sum(end_offsets(data.source).values()) == 51


@pytest.mark.broker
def test_a_topic_with_more_records_than_allowed_is_refused_with_both_numbers(
    settings: Settings, events: list[Message]
) -> None:
    produce(settings, events[:50])
    with pytest.raises(ConfigError, match=r"spans 50 offsets, expected at most 49.*data\.events_max"):
        list(read_topic(source_of(settings), records_max=49))


@pytest.mark.broker
def test_missing_topic_is_refused_and_not_created(settings: Settings) -> None:
    source = f"kafka://{settings.bootstrap_servers}/no-such-topic-{settings.app_id}"
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"has no topic no-such-topic.*check data\.source"):
            list(read_topic(source, records_max=10))


@pytest.mark.broker
def test_security_settings_of_the_environment_reach_the_client(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*VALUESTREAM_SECURITY_PROTOCOL"):
        end_offsets(source_of(settings), {"VALUESTREAM_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                                          "VALUESTREAM_SASL_MECHANISM": "PLAIN",
                                          "VALUESTREAM_SASL_USERNAME": "u",
                                          "VALUESTREAM_SASL_PASSWORD": "p"})  # fmt: skip


def test_missing_broker_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"topic events at 127.0.0.1:\d+ cannot be read"):
        list(read_topic(f"kafka://127.0.0.1:{free_port()}/events", records_max=10))


@pytest.mark.parametrize("source", ["kafka://", "kafka://host/events", "kafka://host:1/", "kafka://host:x/t", "events"])
def test_text_that_is_no_address_of_a_topic_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="expected kafka://host:port/topic"):
        Topic.parse(source)
