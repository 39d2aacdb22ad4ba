"""librdkafka: sends messages by the client library of most languages, in any of Kafka's codecs."""

from __future__ import annotations

from collections.abc import Iterable

import confluent_kafka

from stream.settings import Settings
from tests.broker.harness import Message, partition_of

__all__ = ["CODECS", "COMPRESSED", "send_by_librdkafka"]

#: Kafka's codecs. The place of a codec is its number in the attributes of a batch.
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
COMPRESSED = CODECS[1:]


def send_by_librdkafka(settings: Settings, topic: str, codec: str, messages: Iterable[Message]) -> None:
    """Send messages in one codec, to the partitions that Kafka's own partitioner gives them."""
    # Without a long linger the first messages would go out as batches of one, which compression does not make smaller.
    config = {"bootstrap.servers": settings.bootstrap_servers, "compression.type": codec, "linger.ms": 500}
    producer = confluent_kafka.Producer(config)
    for key, value in messages:
        producer.produce(topic, key=key, value=value, partition=partition_of((key or b"").decode()))
    assert producer.flush(20) == 0
