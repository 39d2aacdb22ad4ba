"""Records of a dead-letter topic, with the headers that each kind of writer leaves."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

__all__ = ["CONNECT", "OURS", "SPRING", "Headers", "record"]

Headers = list[tuple[str, bytes | None]]


def record(headers: Headers, key: bytes | None = b"ann", value: bytes | None = b"{}", **changed: Any) -> Any:
    place = {"topic": "dlq", "partition": 2, "offset": 17, "timestamp": 1_735_689_600_000}
    return SimpleNamespace(key=key, value=value, headers=headers, **{**place, **changed})


OURS: Headers = [
    ("valuestream.error.reason", b"currency"),
    ("valuestream.error.message", b"currency is 'XTS'"),
    ("valuestream.error.stage", b"decode"),
    ("valuestream.source.topic", b"events"),
    ("valuestream.source.partition", b"3"),
    ("valuestream.source.offset", b"1034"),
    ("valuestream.source.timestamp", b"1735689599000"),
    ("valuestream.attempt", b"2"),
]
CONNECT: Headers = [
    ("__connect.errors.topic", b"orders"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"1034"),
    ("__connect.errors.connector.name", b"jdbc-sink"),
    ("__connect.errors.task.id", b"0"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.class.name", b"org.apache.kafka.connect.json.JsonConverter"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ("__connect.errors.exception.message", b"Converting byte[] failed"),
    ("__connect.errors.exception.stacktrace", b"org.apache..."),
]
SPRING: Headers = [
    ("kafka_dlt-original-topic", b"orders"),
    ("kafka_dlt-original-partition", struct.pack(">i", 3)),
    ("kafka_dlt-original-offset", struct.pack(">q", 1034)),
    ("kafka_dlt-original-timestamp", struct.pack(">q", 1_735_689_599_000)),
    ("kafka_dlt-original-timestamp-type", b"CreateTime"),
    ("kafka_dlt-original-consumer-group", b"billing"),
    ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
    ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
    ("kafka_dlt-exception-message", b"Listener failed; no such order"),
]
