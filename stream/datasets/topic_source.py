"""Topic source: how a Kafka topic is named as a data source. ``stream.kafka.events_topic`` reads it."""

from __future__ import annotations

from typing import Final

import msgspec

from stream.errors import ConfigError

__all__ = ["Topic", "is_topic"]

_SCHEME: Final = "kafka://"


class Topic(msgspec.Struct, frozen=True):
    """A topic's name, and its brokers as ``host:port``."""

    brokers: tuple[str, ...]
    name: str

    @staticmethod
    def parse(source: str) -> Topic:
        """Read ``kafka://host:port/topic``. Raises ConfigError for anything else.

        >>> Topic.parse("kafka://a:9092,b:9092/events")
        Topic(brokers=('a:9092', 'b:9092'), name='events')
        """
        servers, slash, name = source.removeprefix(_SCHEME).partition("/")
        brokers = tuple(server.strip() for server in servers.split(","))
        if not (is_topic(source) and slash and name and all(map(_is_address, brokers))):
            raise ConfigError(f"found {source!r}, expected kafka://host:port/topic; set data.source")
        return Topic(brokers, name)


def is_topic(source: str) -> bool:
    """Return whether a data source is a topic and not a file.

    >>> is_topic("kafka://localhost:9092/events"), is_topic("events.jsonl")
    (True, False)
    """
    return source.startswith(_SCHEME)


def _is_address(server: str) -> bool:
    host, _, port = server.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65_536
