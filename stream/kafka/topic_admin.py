"""Topic administration: creates the topics that are missing, and says what is wrong with existing ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from stream.errors import ConfigError
from stream.kafka.clients import connect
from stream.kafka.rights import Right, missing_right, require_rights
from stream.kafka.topics import CLEANUP_POLICY, MESSAGE_BYTES_MAX, TopicSpec, required_topics, topic_check_rights
from stream.settings import Settings

__all__ = ["check_topics", "ensure_topics"]

_FORBIDDEN: Final = frozenset({TopicAuthorizationFailedError.errno, ClusterAuthorizationFailedError.errno})


def ensure_topics(settings: Settings, partitions: int, replication: int = 1) -> None:
    """Create the topics that are missing.

    Raises ConfigError if the broker refuses, or if the events topic has another number of partitions.
    """
    with closing(connect(settings)) as admin:
        require_rights(settings, admin, [Right("topic", settings.events_topic, "Describe")])
        existing = _described(admin, [settings.events_topic]).get(settings.events_topic)
        if existing is not None and len(existing) != partitions:
            raise ConfigError(
                f"topic {settings.events_topic} exists and has {len(existing)} partitions; expected {partitions};"
                f" give --partitions {len(existing)}, or another --events-topic"
            )
        _create(settings, admin, required_topics(settings, partitions), replication)


def check_topics(settings: Settings, rights: Sequence[Right] | None = None) -> tuple[int, list[str]]:
    """Return the partition count of the events topic (0: it is missing), and a line for each problem.

    Raises ConfigError if our user lacks one of ``rights``; by default these are the rights that the check needs.
    """
    with closing(connect(settings)) as admin:
        require_rights(settings, admin, topic_check_rights(settings) if rights is None else rights)
        names = [spec.name for spec in required_topics(settings, 0)]
        partitions = {name: len(described) for name, described in _described(admin, names).items()}
        expected = partitions.get(settings.events_topic, 0)
        configs = _configs(admin, list(partitions))
    problems = [
        problem
        for spec in required_topics(settings, expected)
        for problem in _problems(spec, partitions.get(spec.name), configs.get(spec.name, {}), settings)
    ]
    return expected, problems


def _described(admin: KafkaAdminClient, names: list[str]) -> dict[str, list[Any]]:
    """Return the partitions of each topic that exists."""
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
    """Return the configuration of each topic, defaults included."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answer = _asked(admin.describe_configs, resources, config_filter="all")
    return {name: {k: v["value"] for k, v in entries.items()} for name, entries in answer["topic"].items()}


def _create(settings: Settings, admin: KafkaAdminClient, specs: list[TopicSpec], replication: int) -> None:
    requests = {
        spec.name: {
            "num_partitions": spec.partitions,
            "replication_factor": replication,
            "configs": dict(spec.config),
        }
        for spec in specs
    }
    answer = _asked(admin.create_topics, requests, raise_errors=False)
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
    _asked(admin.wait_for_topics, list(requests))


def _asked(request: Any, *args: Any, **kwargs: Any) -> Any:
    """Make an administrative request. An error of Kafka becomes a ConfigError with one line."""
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
    policy, expected = config.get(CLEANUP_POLICY, ""), spec.config[CLEANUP_POLICY]
    if policy != expected:
        problems.append(
            f"topic {spec.name} has {CLEANUP_POLICY}={policy}; expected {expected};"
            f" run kafka-configs.sh --alter --topic {spec.name} --add-config {CLEANUP_POLICY}={expected}"
        )
    bytes_max = spec.config.get(MESSAGE_BYTES_MAX)
    if bytes_max is not None and int(config.get(MESSAGE_BYTES_MAX, 0)) < int(bytes_max):
        problems.append(
            f"topic {spec.name} has {MESSAGE_BYTES_MAX}={config.get(MESSAGE_BYTES_MAX)}; expected at least {bytes_max};"
            f" run kafka-configs.sh --alter --topic {spec.name} --add-config {MESSAGE_BYTES_MAX}={bytes_max}"
        )
    return problems
