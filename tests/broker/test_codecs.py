"""Tests of codecs: everything that Kafka and its senders compress is read, and what we compress comes back the same."""

from __future__ import annotations

import json
import shutil
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaAdminClient, TopicPartition

from stream.clock import SystemClock
from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.dlq.command import dlq
from stream.commands.scores import scores
from stream.commands.user.command import user
from stream.kafka.client_types import ConfigResource, ConfigResourceType
from stream.kafka.clients import aiokafka_config, kafka_python_config
from stream.kafka.codecs import compression_type
from stream.kafka.events_topic import read_topic
from stream.kafka.publisher import Publisher
from stream.kafka.reading import open_consumer, read_partition
from stream.kafka.sender import Rate, send_events
from stream.kafka.topics import changelog_topic
from stream.outgoing import Outgoing
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import PARTITIONS, WorkerProcess, partition_of, produce, wait_for
from tests.broker.librdkafka import CODECS, COMPRESSED, send_by_librdkafka
from tests.broker.undisturbed import assert_as_undisturbed, shoppers

pytestmark = pytest.mark.broker


def codecs_on_disk(broker: EmbeddedBroker, topic: str) -> set[str]:
    """The codecs of all batches that the broker has written for a topic."""
    found = set()
    for path in broker.directory.glob(f"data/{topic}-[0-9]*/*.log"):
        data, at = path.read_bytes(), 0
        while at + 23 <= len(data):
            (length,) = struct.unpack_from(">i", data, at + 8)
            if length == 0:
                break  # Kafka may reserve room after the last batch.
            (attributes,) = struct.unpack_from(">h", data, at + 21)
            found.add(CODECS[attributes & 7])
            at += 12 + length
    return found


def recompress(settings: Settings, codec: str, *topics: str) -> None:
    """Let Kafka write all further batches of these topics in this codec, whatever the sender chose."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic, {"compression.type": codec}) for topic in topics]
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    with closing(KafkaAdminClient(**kafka_python_config(settings))) as admin:
        admin.alter_configs(resources)

        def known() -> bool:
            described = admin.describe_configs(asked, config_filter="all")["topic"]
            return all(described[topic]["compression.type"]["value"] == codec for topic in topics)

        wait_for(f"compression.type={codec}", known)


def dead_letters(worker: WorkerProcess) -> float:
    return worker.metric("valuestream_dead_letters_total")


def values_of(settings: Settings, topic: str) -> list[bytes]:
    """The values of a topic as the commands read them, partition by partition."""
    with closing(open_consumer(**kafka_python_config(settings))) as consumer:
        tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        return [record.value for tp in tps for record in read_partition(consumer, tp)]


# Reading ----------------------------------------------------------------------------------------------


def test_worker_takes_in_every_codec_of_librdkafka(broker: EmbeddedBroker, make_settings, tmp_path: Path) -> None:
    settings = make_settings()
    messages = {codec: shoppers(400, users=20, seed=i) for i, codec in enumerate(COMPRESSED)}
    for codec, sent in messages.items():
        send_by_librdkafka(settings, settings.events_topic, codec, sent)
    assert codecs_on_disk(broker, settings.events_topic) == set(COMPRESSED)
    source = f"kafka://{settings.bootstrap_servers}/{settings.events_topic}"
    assert sorted(read_topic(source, records_max=10_000)) == sorted(v for sent in messages.values() for _, v in sent)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert dead_letters(worker) == 0
        assert worker.terminate() == 0, worker.log()
    assert_as_undisturbed(settings)
    scored = harness.last_values(harness.read_topic(settings, settings.scores_topic))
    assert set(scored) == {key.decode() for sent in messages.values() for key, _ in sent}


def test_worker_without_its_disk_recovers_from_topics_that_kafka_compresses_anew(
    broker: EmbeddedBroker, make_settings, tmp_path: Path
) -> None:
    settings = make_settings(instance_id="w")
    topics = (settings.events_topic, settings.scores_topic, changelog_topic(settings))
    recompress(settings, "zstd", *topics)
    messages = shoppers(2_000, users=50)
    produce(settings, messages[:1_000])
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.terminate() == 0, worker.log()
    assert [codecs_on_disk(broker, topic) for topic in topics] == [{"zstd"}] * 3
    shutil.rmtree(settings.data_dir)
    rest = messages[1_000:]
    for i, codec in enumerate(COMPRESSED):
        recompress(settings, codec, *topics)
        produce(settings, rest[i * len(rest) // 4 : (i + 1) * len(rest) // 4])
    assert codecs_on_disk(broker, settings.events_topic) == set(COMPRESSED)
    with WorkerProcess(settings, tmp_path / "log", VALUESTREAM_COMPRESSION="lz4") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.metric('valuestream_events_total{outcome="replayed"}') == 0
        assert dead_letters(worker) == 0
        assert worker.terminate() == 0, worker.log()
    assert_as_undisturbed(settings)


def test_reading_commands_read_every_codec_of_librdkafka(broker: EmbeddedBroker, settings: Settings) -> None:
    name = next(name for name in map(str, range(100)) if partition_of(name) == 0)
    topics = (settings.events_topic, settings.scores_topic, settings.alerts_topic, settings.dlq_topic)
    for topic in topics:
        for codec in COMPRESSED:
            send_by_librdkafka(settings, topic, codec, [(name.encode(), json.dumps([codec] * 50).encode())])
        assert codecs_on_disk(broker, topic) == set(COMPRESSED)
        assert [json.loads(value)[0] for value in values_of(settings, topic)] == list(COMPRESSED)
    env = {
        f"VALUESTREAM_{name.upper()}": getattr(settings, name)
        for name in ("bootstrap_servers", "app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic")
    }

    def output(command: Any, *arguments: str) -> str:
        return CliRunner().invoke(command, arguments, env=env, catch_exceptions=False).stdout

    assert "4 dead letters" in output(dlq, "list")
    tailed = output(scores, "tail", "--json", "--from-beginning", "--max", "4")
    exported = output(user, "export", name)
    for codec in COMPRESSED:
        assert codec in tailed
        assert codec in exported


# Writing ----------------------------------------------------------------------------------------------


class AlwaysHeld:
    """A lease that is always held."""

    term, held = 0, True


@pytest.fixture
def outgoing() -> list[Outgoing]:
    """Records of more than one batch; the last is larger than a batch."""
    records = [Outgoing(b"u%d" % i, json.dumps({"number": i, "text": "score " * 100}).encode()) for i in range(4_000)]
    return [*records, Outgoing(b"large", b"x" * 950_000), Outgoing(b"erased", None)]


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
async def test_what_a_worker_sends_is_written_in_its_codec_and_comes_back_the_same(
    broker: EmbeddedBroker, make_settings, outgoing: list[Outgoing], codec: str
) -> None:
    settings = make_settings(compression=codec)
    lease: Any = AlwaysHeld()
    publisher = Publisher(
        lease, 20.0, "changelog", compression_type=compression_type(settings), **aiokafka_config(settings)
    )
    await publisher.start()
    assert await publisher.send(settings.scores_topic, 2, outgoing) == len(outgoing) - 1
    await publisher.stop()
    assert codecs_on_disk(broker, settings.scores_topic) - {"none"} == {codec} - {"none"}
    found = harness.read_topic(settings, settings.scores_topic)
    assert [(r.key, r.value) for r in found] == [(r.key, r.value) for r in outgoing]


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_what_the_sender_sends_is_written_in_its_codec_and_comes_back_the_same(
    broker: EmbeddedBroker, make_settings, codec: str
) -> None:
    settings = make_settings(compression=codec)
    sent = [(key or b"", value or b"", 1_735_689_600_000) for key, value in shoppers(500, users=20)]
    send_events(settings, sent, Rate(), lambda *_: None, clock=SystemClock()).require_all()
    assert codec in codecs_on_disk(broker, settings.events_topic)
    found = harness.events_of(settings)
    assert sorted((r.key, r.value) for r in found) == sorted(record[:2] for record in sent)
