"""Tests of reading: any header name can be read, offsets are kept to, and reading creates no topic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.dlq.command import dlq
from stream.commands.scores import scores
from stream.commands.user.command import user
from stream.errors import ConfigError
from stream.kafka.clients import kafka_python_config
from stream.kafka.events_topic import read_topic
from stream.kafka.reading import open_consumer, open_topics, read_partition
from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings
from tests.broker.harness import partition_of


class AnyBytes(str):
    """A header name that a producer in C can send, but kafka-python cannot."""

    def encode(self, *_: Any) -> bytes:
        """Bytes that are not UTF-8."""
        return b"na\xff\xc3("


#: A user of the first of four partitions.
USER = next(name for name in map(str, range(100)) if partition_of(name) == 0)
SHOWN = "na\\xff\\xc3("


def put(settings: Settings, topic: str, n: int = 3, compression: str | None = None) -> None:
    """Send records of one user to partition 0. The second has such a header name."""
    with closing(KafkaProducer(**kafka_python_config(settings), compression_type=compression, linger_ms=500)) as out:
        for i in range(n):
            name = AnyBytes("name") if i == 1 else "name"
            out.send(topic, key=USER.encode(), value=b"%d" % i, headers=[(name, b"content")], partition=0)


def values(settings: Settings, *offsets: int) -> list[bytes]:
    with closing(open_consumer(**kafka_python_config(settings))) as consumer:
        tp = TopicPartition(settings.events_topic, 0)
        return [record.value for record in read_partition(consumer, tp, *offsets)]


@pytest.mark.broker
@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_header_name_that_is_not_utf_8_is_read_and_changes_no_other_record(
    settings: Settings, compression: str | None
) -> None:
    put(settings, settings.events_topic, compression=compression)
    with closing(open_consumer(**kafka_python_config(settings))) as consumer:
        found = list(read_partition(consumer, TopicPartition(settings.events_topic, 0)))
    assert [record.value for record in found] == [b"0", b"1", b"2"]
    assert [record.headers for record in found] == [[(name, b"content")] for name in ("name", SHOWN, "name")]


@pytest.mark.broker
def test_every_reading_command_accepts_such_a_header_name(settings: Settings) -> None:
    for topic in (settings.events_topic, settings.scores_topic, settings.alerts_topic, settings.dlq_topic):
        put(settings, topic)
    env = {
        f"VALUESTREAM_{name.upper()}": getattr(settings, name)
        for name in ("bootstrap_servers", "app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic")
    }

    def output(command: Any, *arguments: str) -> str:
        return CliRunner().invoke(command, arguments, env=env, catch_exceptions=False).stdout

    assert "3 dead letters" in output(dlq, "list")
    assert SHOWN in output(dlq, "show", "0:1")
    assert output(scores, "tail", "--json", "--from-beginning", "--max", "3").split() == ["0", "1", "2"]
    exported = output(user, "export", USER)
    # The name is in the event, the alert and the dead letter, in the way that JSON writes it.
    assert exported.count(SHOWN.replace("\\", "\\\\")) == 3
    source = f"kafka://{settings.bootstrap_servers}/{settings.events_topic}"
    assert list(read_topic(source, records_max=3)) == [b"0", b"1", b"2"]


@pytest.mark.broker
def test_reading_keeps_to_its_offsets_and_skips_deleted_records(settings: Settings) -> None:
    put(settings, settings.events_topic, n=6)
    assert values(settings, 1, 4) == [b"1", b"2", b"3"]
    assert values(settings, 4) == [b"4", b"5"]
    assert values(settings, 3, 3) == values(settings, 6) == []
    with closing(KafkaAdminClient(**kafka_python_config(settings))) as admin:
        admin.delete_records({TopicPartition(settings.events_topic, 0): 4})
    assert values(settings) == values(settings, 2) == [b"4", b"5"]


class Silent:
    """A consumer of a silent broker. ``moves`` polls bring no record, but move the position on."""

    def __init__(self, moves: int) -> None:
        self._left, self._at = moves, 0

    def assign(self, _tps: Any) -> None:
        pass

    def seek(self, _tp: Any, offset: int) -> None:
        self._at = offset

    def poll(self, **_: Any) -> dict[Any, Any]:
        self._left, self._at = self._left - 1, self._at + (self._left > 0)
        return {}

    def position(self, _tp: Any) -> int:
        return self._at


def test_reading_gives_up_on_a_silent_broker_but_not_on_offsets_without_records() -> None:
    tp = TopicPartition("t", 2)
    assert list(read_partition(Silent(moves=500), tp, 0, 500)) == []
    with pytest.raises(ConfigError, match=r"t, partition 2: nothing came for 30 s at offset 499 of 500; expected a"):
        list(read_partition(Silent(moves=499), tp, 0, 500))


# Topics that are not there -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def creating_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a broker that creates every topic that a client names, as Kafka does by default."""
    properties = {"auto.create.topics.enable": "true"}
    with EmbeddedBroker(tmp_path_factory.mktemp("creating"), properties=properties) as broker:
        broker.start(print)
        settings = Settings(bootstrap_servers=broker.bootstrap_servers, app_id="shop")
        ensure_topics(settings, partitions=2)
        yield settings


@pytest.mark.broker
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (scores, ["tail", "--scores-topic", "scoers", "--seconds", "1"]),
        (dlq, ["list", "--dlq-topic", "scoers"]),
        (dlq, ["replay", "--to", "scoers"]),
        (user, ["show", "u", "--scores-topic", "scoers"]),
    ],
    ids=str,
)
def test_mistyped_topic_is_not_created_and_the_error_names_similar_topics(
    creating_broker: Settings, command: Any, arguments: list[str]
) -> None:
    env = {
        "VALUESTREAM_BOOTSTRAP_SERVERS": creating_broker.bootstrap_servers,
        "VALUESTREAM_APP_ID": creating_broker.app_id,
    }
    with pytest.raises(ConfigError, match=r"topic 'scoers' not found.*\(there is: scores\)"):
        CliRunner().invoke(command, arguments, env=env, catch_exceptions=False)
    with closing(KafkaAdminClient(**kafka_python_config(creating_broker))) as admin:
        assert "scoers" not in admin.list_topics()


@pytest.mark.broker
def test_mistyped_topic_of_training_data_is_not_created_either(creating_broker: Settings) -> None:
    with pytest.raises(ConfigError, match=r"has no topic evnets \(there is: events, events-dlq\); check data\.source"):
        list(read_topic(f"kafka://{creating_broker.bootstrap_servers}/evnets", records_max=1))
    with pytest.raises(ConfigError, match="'evnets' not found"):
        open_topics(creating_broker.model_copy(update={"events_topic": "evnets"}), ["evnets"], from_beginning=True)
    with closing(KafkaAdminClient(**kafka_python_config(creating_broker))) as admin:
        assert "evnets" not in admin.list_topics()
