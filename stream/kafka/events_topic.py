"""Events topic: reads the events of a Kafka topic, so that a model can be trained on them without a file.

A topic is named ``kafka://host:port[,host:port]/topic``. It is read up to where it ended when reading began. TLS and
SASL are set as for ``valuestream worker``, by ``VALUESTREAM_SECURITY_PROTOCOL`` and the settings beside it in the
environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.datasets.topic_source import Topic
from stream.errors import ConfigError
from stream.kafka.codecs import require_codecs
from stream.kafka.oauth import BlockingTokens, tokens_of
from stream.kafka.reading import open_consumer, read_partition
from stream.kafka.topics import similar_names
from stream.settings import Settings

__all__ = ["end_offsets", "read_topic"]

#: How long we wait for the first answer of a broker.
_CONNECT_TIMEOUT_MS: Final = 5_000
#: Environment variable → its name in kafka-python.
_SECURITY: Final = {
    "VALUESTREAM_SECURITY_PROTOCOL": "security_protocol",
    "VALUESTREAM_SASL_MECHANISM": "sasl_mechanism",
    "VALUESTREAM_SASL_USERNAME": "sasl_plain_username",
    "VALUESTREAM_SASL_PASSWORD": "sasl_plain_password",
    "VALUESTREAM_SSL_CAFILE": "ssl_cafile",
    "VALUESTREAM_SSL_CERTFILE": "ssl_certfile",
    "VALUESTREAM_SSL_KEYFILE": "ssl_keyfile",
}


def read_topic(source: str, *, records_max: int, environ: Mapping[str, str] = os.environ) -> Iterator[bytes]:
    """Give the value of each record that the topic holds now, partition by partition in offset order.

    The order is the same every time. A record without a value becomes empty bytes, which decode refuses. Raises
    ConfigError if the topic or its brokers are missing or stop answering, or if there are more than ``records_max``
    offsets.
    """
    topic = Topic.parse(source)
    with _consumer(topic, environ) as consumer:
        spans = _spans(consumer, topic)
        n_offsets = sum(end - begin for begin, end in spans.values())
        if n_offsets > records_max:
            raise ConfigError(
                f"topic {topic.name} spans {n_offsets:,} offsets, expected at most {records_max:,};"
                " raise data.events_max (about 100 bytes of memory each), or shorten the topic's retention"
            )
        for partition, (begin, end) in sorted(spans.items()):
            for record in read_partition(consumer, TopicPartition(topic.name, partition), begin, end):
                yield record.value or b""


def end_offsets(source: str, environ: Mapping[str, str] = os.environ) -> dict[int, int]:
    """Return the end offset of each partition now. It changes only if records are added.

    Raises ConfigError as :func:`read_topic` does.
    """
    topic = Topic.parse(source)
    with _consumer(topic, environ) as consumer:
        return {partition: end for partition, (_, end) in sorted(_spans(consumer, topic).items())}


def _spans(consumer: Any, topic: Topic) -> dict[int, tuple[int, int]]:
    """Return the first and the end offset of each partition. Raises ConfigError if there is no such topic."""
    partitions = consumer.partitions_for_topic(topic.name)
    if not partitions:
        hint = similar_names(topic.name, consumer.topics())
        raise ConfigError(f"{','.join(topic.brokers)} has no topic {topic.name}{hint}; check data.source")
    tps = [TopicPartition(topic.name, p) for p in partitions]
    begins, ends = consumer.beginning_offsets(tps), consumer.end_offsets(tps)
    return {tp.partition: (begins[tp], ends[tp]) for tp in tps}


def _oauth_settings(environ: Mapping[str, str]) -> Settings:
    """The settings whose names begin with ``oauth_``, as the worker would read them."""
    given: dict[str, Any] = {}
    for name in Settings.model_fields:
        value = environ.get(f"VALUESTREAM_{name.upper()}")
        if name.startswith("oauth_") and value:
            given[name] = json.loads(value) if name == "oauth_parameters" else value
    return Settings(**given)


@contextmanager
def _consumer(topic: Topic, environ: Mapping[str, str]) -> Iterator[Any]:
    """Open a consumer in no group, and close it at the end. An error of Kafka becomes a ConfigError."""
    require_codecs()
    security: dict[str, Any] = {name: environ[key] for key, name in _SECURITY.items() if environ.get(key)}
    if security.get("sasl_mechanism") == "OAUTHBEARER":
        security["sasl_oauth_token_provider"] = BlockingTokens(tokens_of(_oauth_settings(environ)))
    consumer = None
    try:
        consumer = open_consumer(
            bootstrap_servers=list(topic.brokers), bootstrap_timeout_ms=_CONNECT_TIMEOUT_MS, **security
        )
        yield consumer
    except (KafkaError, OSError) as error:
        raise ConfigError(
            f"topic {topic.name} at {','.join(topic.brokers)} cannot be read ({error or type(error).__name__});"
            " check data.source and the VALUESTREAM_SECURITY_PROTOCOL, _SASL_ and _SSL_ settings"
        ) from error
    finally:
        if consumer is not None:
            consumer.close()
