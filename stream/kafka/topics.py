"""Topics: which ones the service needs, with which settings, and which rights it needs on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from stream.errors import ConfigError
from stream.kafka.rights import Operation, Right
from stream.settings import Settings

__all__ = [
    "CLEANUP_POLICY",
    "MESSAGE_BYTES_MAX",
    "TopicSpec",
    "changelog_topic",
    "require_topic",
    "required_topics",
    "similar_names",
    "topic_check_rights",
    "worker_rights",
]

_DAY_MS: Final = 24 * 60 * 60 * 1000
#: By default Kafka takes events of up to 1 MiB. A dead letter is such an event with further headers.
_DLQ_BYTES_MAX: Final = 1024 * 1024 + 64 * 1024
#: Size of the changelog's segment files; Kafka's own default is 1 GiB.
_SEGMENT_BYTES: Final = 64 * 1024 * 1024
#: Kafka's names of the topic settings that are checked.
CLEANUP_POLICY: Final = "cleanup.policy"
MESSAGE_BYTES_MAX: Final = "max.message.bytes"


@dataclass(frozen=True)
class TopicSpec:
    """What a topic must be like: how many partitions it has, and with which configuration it is created."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


def changelog_topic(settings: Settings) -> str:
    """Return the name that Faust gives to the changelog of the table of users."""
    return f"{settings.app_id}-users-changelog"


def required_topics(settings: Settings, partitions: int) -> list[TopicSpec]:
    """List all topics of the service, the events topic first.

    All have the same number of partitions, so a user's records are in the same partition of each.
    """
    # Kafka removes a value that was replaced or erased within a week. It keeps the events just as long.
    compacted = {CLEANUP_POLICY: "compact", "max.compaction.lag.ms": str(7 * _DAY_MS)}
    month = {CLEANUP_POLICY: "delete", "retention.ms": str(30 * _DAY_MS)}
    configs: list[tuple[str, dict[str, str]]] = [
        (settings.events_topic, {CLEANUP_POLICY: "delete", "retention.ms": str(7 * _DAY_MS)}),
        (settings.scores_topic, compacted),
        (settings.alerts_topic, month),
        (settings.dlq_topic, {**month, MESSAGE_BYTES_MAX: str(_DLQ_BYTES_MAX)}),
        # The policy is "compact" alone: with "delete" as well, the state of a silent user would expire
        # (docs/faust-faults.md, 14). Kafka never compacts the newest segment, and recovery reads all of it, so
        # segments are smaller than Kafka's default.
        (changelog_topic(settings), {**compacted, "segment.bytes": str(_SEGMENT_BYTES)}),
    ]
    return [TopicSpec(name, partitions, config) for name, config in configs]


def worker_rights(settings: Settings) -> tuple[Right, ...]:
    """List every right that a worker needs, and no other."""
    changelog, names = changelog_topic(settings), [spec.name for spec in required_topics(settings, 0)]
    return (
        Right("topic", settings.events_topic, "Read"),
        Right("topic", changelog, "Read"),
        *(Right("topic", name, "Write") for name in names if name != settings.events_topic),
        *(Right("topic", name, "DescribeConfigs") for name in names),
        Right("group", settings.app_id, "Read"),
    )


def topic_check_rights(settings: Settings) -> tuple[Right, ...]:
    """List the rights that a check of the topics needs."""
    names = [spec.name for spec in required_topics(settings, 0)]
    operations: tuple[Operation, ...] = ("Describe", "DescribeConfigs")
    return tuple(Right("topic", name, operation) for operation in operations for name in names)


def require_topic(settings: Settings, topic: str, existing: Iterable[str]) -> None:
    """Raise ConfigError if the topic is not among the existing ones; the message names similar topics."""
    names = set(existing)
    if topic not in names:
        raise ConfigError(
            f"topic {topic!r} not found at {settings.bootstrap_servers}, expected it to exist"
            f"{similar_names(topic, names)}; run `valuestream topics create`, or set the topic's name"
        )


def similar_names(name: str, existing: Iterable[str]) -> str:
    """Return what an error about a missing topic adds: existing topics with a similar name, if there are any.

    >>> similar_names("evnets", ["events", "events-dlq", "scores"])
    ' (there is: events, events-dlq)'
    """
    names = get_close_matches(name, sorted(existing))
    return f" (there is: {', '.join(names)})" if names else ""
