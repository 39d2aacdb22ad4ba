"""What every reader of a topic relies on: records of any header name, bounds that hold, and no topic made by asking."""

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
    """A header name that producers of C send, and that kafka-python would not."""

    def encode(self, *_: Any) -> bytes:
        """Bytes that are no UTF-8."""
        return b"na\xff\xc3("


#: A user whose partition is the first of four.
USER = next(name for name in map(str, range(100)) if partition_of(name) == 0)
SHOWN = "na\\xff\\xc3("


def put(settings: Settings, topic: str, n: int = 3, compression: str | None = None) -> None:
    """Records of one user in partition 0; the second has such a header name."""
    with closing(KafkaProducer(**kafka_python_config(settings), compression_type=compression, linger_ms=500)) as out:
        for i in range(n):
            name = AnyBytes("name") if i == 1 else "name"
            out.send(topic, key=USER.encode(), value=b"%d" % i, headers=[(name, b"content")], partition=0)


def values(settings: Settings, *bounds: int) -> list[bytes]:
    with closing(open_consumer(**kafka_python_config(settings))) as consumer:
        tp = TopicPartition(settings.events_topic, 0)
        return [record.value for record in read_partition(consumer, tp, *bounds)]


@pytest.mark.broker
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_header_name_that_is_not_utf_8_is_read_and_those_around_it_are_as_they_were(
    settings: Settings, compression: str | None
) -> None:
    put(settings, settings.events_topic, compression=compression)
    with closing(open_consumer(**kafka_python_config(settings))) as consumer:
        found = list(read_partition(consumer, TopicPartition(settings.events_topic, 0)))
    assert [record.value for record in found] == [b"0", b"1", b"2"]
    assert [record.headers for record in found] == [[(name, b"content")] for name in ("name", SHOWN, "name")]


@pytest.mark.broker
def test_every_command_that_reads_gets_past_such_a_name(settings: Settings) -> None:
    for topic in (settings.events_topic, settings.scores_topic, settings.alerts_topic, settings.dlq_topic):
        put(settings, topic)
    env = {
        f"VALUESTREAM_{name.upper()}": getattr(settings, name)
        for name in ("bootstrap_servers", "app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic")
    }

    def said(command: Any, *arguments: str) -> str:
        return CliRunner().invoke(command, arguments, env=env, catch_exceptions=False).stdout

    assert "3 dead letters" in said(dlq, "list")
    assert SHOWN in said(dlq, "show", "0:1")
    assert said(scores, "tail", "--json", "--from-beginning", "--max", "3").split() == ["0", "1", "2"]
    exported = said(user, "export", USER)
    # In its event, its alert and its dead letter; as JSON writes it.
    assert exported.count(SHOWN.replace("\\", "\\\\")) == 3
    source = f"kafka://{settings.bootstrap_servers}/{settings.events_topic}"
    assert list(read_topic(source, records_max=3)) == [b"0", b"1", b"2"]


@pytest.mark.broker
def test_reading_keeps_to_its_bounds_and_goes_on_behind_what_was_deleted(settings: Settings) -> None:
    put(settings, settings.events_topic, n=6)
    assert values(settings, 1, 4) == [b"1", b"2", b"3"]
    assert values(settings, 4) == [b"4", b"5"]
    assert values(settings, 3, 3) == values(settings, 6) == []
    with closing(KafkaAdminClient(**kafka_python_config(settings))) as admin:
        admin.delete_records({TopicPartition(settings.events_topic, 0): 4})
    assert values(settings) == values(settings, 2) == [b"4", b"5"]


class Silent:
    """A consumer whose broker answers nothing more; ``moves`` polls bring no record, but the position further."""

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


def test_a_silent_broker_is_given_up_and_offsets_without_records_are_no_silence() -> None:
    tp = TopicPartition("t", 2)
    assert list(read_partition(Silent(moves=500), tp, 0, 500)) == []
    with pytest.raises(ConfigError, match=r"t, partition 2: nothing came for 30 s at offset 499 of 500; expected a"):
        list(read_partition(Silent(moves=499), tp, 0, 500))


# Topics that are not there -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A broker that makes every topic it is asked for, as Kafka does by default."""
    properties = {"auto.create.topics.enable": "true"}
    with EmbeddedBroker(tmp_path_factory.mktemp("making"), properties=properties) as broker:
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
def test_a_mistyped_topic_is_not_made_and_the_error_names_those_that_look_alike(
    making: Settings, command: Any, arguments: list[str]
) -> None:
    env = {"VALUESTREAM_BOOTSTRAP_SERVERS": making.bootstrap_servers, "VALUESTREAM_APP_ID": making.app_id}
    with pytest.raises(ConfigError, match=r"topic 'scoers' not found.*\(there is: scores\)"):
        CliRunner().invoke(command, arguments, env=env, catch_exceptions=False)
    with closing(KafkaAdminClient(**kafka_python_config(making))) as admin:
        assert "scoers" not in admin.list_topics()


@pytest.mark.broker
def test_a_mistyped_topic_of_training_data_is_not_made_either(making: Settings) -> None:
    with pytest.raises(ConfigError, match=r"has no topic evnets \(there is: events, events-dlq\); check data\.source"):
        list(read_topic(f"kafka://{making.bootstrap_servers}/evnets", records_max=1))
    with pytest.raises(ConfigError, match="'evnets' not found"):
        open_topics(making.model_copy(update={"events_topic": "evnets"}), ["evnets"], from_beginning=True)
    with closing(KafkaAdminClient(**kafka_python_config(making))) as admin:
        assert "evnets" not in admin.list_topics()
