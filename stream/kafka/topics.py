"""Creates the topics with the settings that the stream relies on, and says what is wrong with existing ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import click
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from stream.commands.options import GroupedCommand, settings_options
from stream.errors import ConfigError
from stream.kafka.clients import connect
from stream.kafka.reading import alike
from stream.kafka.rights import Operation, Right, missing_right, require_rights
from stream.settings import Settings

__all__ = [
    "TopicSpec",
    "changelog_topic",
    "check_topics",
    "ensure_topics",
    "looking_rights",
    "require_topic",
    "required_topics",
    "topics",
    "worker_rights",
]

_DAY_MS: Final = 24 * 60 * 60 * 1000
#: Kafka takes events up to 1 MiB by default; a dead letter is such an event and its headers.
_DLQ_BYTES_MAX: Final = 1024 * 1024 + 64 * 1024
_SEGMENT_BYTES: Final = 64 * 1024 * 1024
_POLICY: Final = "cleanup.policy"
_BYTES_MAX: Final = "max.message.bytes"
_FORBIDDEN: Final = frozenset({TopicAuthorizationFailedError.errno, ClusterAuthorizationFailedError.errno})


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it must be: partitions, and the topic configuration to create it with."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


def changelog_topic(settings: Settings) -> str:
    """Name that Faust gives to the changelog of the table of users."""
    return f"{settings.app_id}-users-changelog"


def required_topics(settings: Settings, partitions: int) -> list[TopicSpec]:
    """All topics of the service, the events first; a user's records have the same partition in all of them."""
    # What a newer value or an erasure has replaced is gone after a week, as the events are.
    compacted = {_POLICY: "compact", "max.compaction.lag.ms": str(7 * _DAY_MS)}
    month = {_POLICY: "delete", "retention.ms": str(30 * _DAY_MS)}
    configs: list[tuple[str, dict[str, str]]] = [
        (settings.events_topic, {_POLICY: "delete", "retention.ms": str(7 * _DAY_MS)}),
        (settings.scores_topic, compacted),
        (settings.alerts_topic, month),
        (settings.dlq_topic, {**month, _BYTES_MAX: str(_DLQ_BYTES_MAX)}),
        # Exactly compact: with delete as well, the state of a silent user would expire. Kafka compacts what is not in
        # the newest segment, so that one, of 1 GiB by default, is read whole in a recovery.
        (changelog_topic(settings), {**compacted, "segment.bytes": str(_SEGMENT_BYTES)}),
    ]
    return [TopicSpec(name, partitions, config) for name, config in configs]


def worker_rights(settings: Settings) -> tuple[Right, ...]:
    """All that a worker must be allowed to do, and nothing else."""
    changelog, names = changelog_topic(settings), [spec.name for spec in required_topics(settings, 0)]
    return (
        Right("topic", settings.events_topic, "Read"),
        Right("topic", changelog, "Read"),
        *(Right("topic", name, "Write") for name in names if name != settings.events_topic),
        *(Right("topic", name, "DescribeConfigs") for name in names),
        Right("group", settings.app_id, "Read"),
    )


def looking_rights(settings: Settings) -> tuple[Right, ...]:
    """All that it takes to check the topics."""
    names = [spec.name for spec in required_topics(settings, 0)]
    operations: tuple[Operation, ...] = ("Describe", "DescribeConfigs")
    return tuple(Right("topic", name, operation) for operation in operations for name in names)


def ensure_topics(settings: Settings, partitions: int, replication: int = 1) -> None:
    """Create the topics that are missing; ConfigError where the broker refuses or the events topic differs."""
    with closing(connect(settings)) as admin:
        require_rights(settings, admin, [Right("topic", settings.events_topic, "Describe")])
        found = _described(admin, [settings.events_topic]).get(settings.events_topic)
        if found is not None and len(found) != partitions:
            raise ConfigError(
                f"topic {settings.events_topic} exists and has {len(found)} partitions; expected {partitions};"
                f" give --partitions {len(found)}, or another --events-topic"
            )
        _create(settings, admin, required_topics(settings, partitions), replication)


def check_topics(settings: Settings, rights: Sequence[Right] | None = None) -> tuple[int, list[str]]:
    """Partition count of the events topic (0: it is missing), and a line for everything that is wrong.

    ConfigError where our user lacks one of ``rights``; where not given, of those that it takes to look.
    """
    with closing(connect(settings)) as admin:
        require_rights(settings, admin, looking_rights(settings) if rights is None else rights)
        names = [spec.name for spec in required_topics(settings, 0)]
        partitions = {name: len(found) for name, found in _described(admin, names).items()}
        expected = partitions.get(settings.events_topic, 0)
        configs = _configs(admin, list(partitions))
    problems = [
        problem
        for spec in required_topics(settings, expected)
        for problem in _problems(spec, partitions.get(spec.name), configs.get(spec.name, {}), settings)
    ]
    return expected, problems


def require_topic(settings: Settings, topic: str, existing: Iterable[str]) -> None:
    """Raise ConfigError where the topic is not among the existing ones, with the names of those that look alike."""
    names = set(existing)
    if topic not in names:
        raise ConfigError(
            f"topic {topic!r} not found at {settings.bootstrap_servers}, expected it to exist{alike(topic, names)};"
            " run `valuestream topics create`, or set the topic's name"
        )


def _described(admin: KafkaAdminClient, names: list[str]) -> dict[str, list[Any]]:
    """Partitions of those of the topics that exist."""
    described = {}
    for topic in _asked(admin.describe_topics, names):
        if topic["error_code"] == UnknownTopicOrPartitionError.errno:
            continue
        if topic["error_code"]:
            raise ConfigError(
                f"topic {topic['name']} cannot be described (Kafka error {topic['error_code']}); expected leave to"
                " describe it; check the topic's name and the access rights of our user"
            )
        described[topic["name"]] = topic["partitions"]
    return described


def _configs(admin: KafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Configuration of each topic, defaults included."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answer = _asked(admin.describe_configs, resources, config_filter="all")
    return {name: {k: v["value"] for k, v in entries.items()} for name, entries in answer["topic"].items()}


def _create(settings: Settings, admin: KafkaAdminClient, specs: list[TopicSpec], replication: int) -> None:
    wanted = {
        spec.name: {
            "num_partitions": spec.partitions,
            "replication_factor": replication,
            "configs": dict(spec.config),
        }
        for spec in specs
    }
    answer = _asked(admin.create_topics, wanted, raise_errors=False)
    forbidden = [topic["name"] for topic in answer["topics"] if topic["error_code"] in _FORBIDDEN]
    if forbidden:
        raise missing_right(settings, [Right("topic", name, "Create") for name in forbidden])
    refused = [
        f"{topic['name']} ({topic['error_message']})"
        for topic in answer["topics"]
        if topic["error_code"] not in (0, TopicAlreadyExistsError.errno)
    ]
    if refused:
        raise ConfigError(
            f"the broker refused to create {', '.join(refused)}; expected it to create them;"
            " check the names, --replication, and the access rights of our user"
        )
    _asked(admin.wait_for_topics, list(wanted))


def _asked(request: Any, *args: Any, **kwargs: Any) -> Any:
    """Make an administrative request; what Kafka answers it with goes into one line."""
    try:
        return request(*args, **kwargs)
    except KafkaError as error:
        raise ConfigError(
            f"the broker did not answer {request.__name__} ({error}); expected an answer within seconds;"
            " check its health and the access rights of our user, then try again"
        ) from error


def _problems(spec: TopicSpec, partitions: int | None, config: Mapping[str, str], settings: Settings) -> list[str]:
    if partitions is None:
        count = f" --partitions {spec.partitions}" if spec.partitions else ""
        return [f"topic {spec.name} is missing; expected it to exist; run `valuestream topics create{count}`"]
    problems = []
    if partitions != spec.partitions and spec.partitions:
        problems.append(
            f"topic {spec.name} has {partitions} partitions; expected {spec.partitions}, as {settings.events_topic}"
            " has; delete it and run `valuestream topics create`, or give another topic name"
        )
    policy, expected = config.get(_POLICY, ""), spec.config[_POLICY]
    if policy != expected:
        problems.append(
            f"topic {spec.name} has {_POLICY}={policy}; expected {expected};"
            f" run kafka-configs.sh --alter --topic {spec.name} --add-config {_POLICY}={expected}"
        )
    bytes_max = spec.config.get(_BYTES_MAX)
    if bytes_max is not None and int(config.get(_BYTES_MAX, 0)) < int(bytes_max):
        problems.append(
            f"topic {spec.name} has {_BYTES_MAX}={config.get(_BYTES_MAX)}; expected at least {bytes_max};"
            f" run kafka-configs.sh --alter --topic {spec.name} --add-config {_BYTES_MAX}={bytes_max}"
        )
    return problems


@click.group()
def topics() -> None:
    """Create the topics, and check existing ones."""


@topics.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True, help="Partitions of each topic.")
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True, help="Copies of each partition.")
def create(settings: Settings, partitions: int, replication: int) -> None:
    """Create the topics that are missing, then check all."""
    ensure_topics(settings, partitions, replication)
    _report(settings)


@topics.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
def check(settings: Settings) -> None:
    """Say what is wrong with the topics; exit status 1 where something is."""
    _report(settings)


def _report(settings: Settings) -> None:
    partitions, problems = check_topics(settings)
    if problems:
        raise ConfigError("\nvaluestream: ".join(problems))
    for spec in required_topics(settings, partitions):
        click.echo(f"ok: {spec.name}, {partitions} partitions, {spec.config[_POLICY]}")
