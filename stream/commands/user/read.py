"""Finds what the topics hold of one user: state, erasure marker and score. Says how long each topic keeps a record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stream.checkpoint import changelog
from stream.clock import SystemClock
from stream.contract.score import Score
from stream.decode.pseudonyms import pseudonyms_of
from stream.errors import ConfigError, ContractError
from stream.kafka.client_types import (
    ConfigResource,
    ConfigResourceType,
    KafkaConsumer,
    KafkaError,
    TopicPartition,
)
from stream.kafka.clients import connect
from stream.kafka.partitioner import partition_of
from stream.kafka.reading import open_topics, read_partition
from stream.kafka.topics import changelog_topic
from stream.registry.connect import schemas_of
from stream.registry.schemas import Schemas
from stream.registry.scores import read_record
from stream.settings import Settings
from stream.state.erasure import Marker, marker_key, read_marker
from stream.state.partition_state import PartitionState, Snapshot

__all__ = ["Held", "Retention", "find", "partitions_of", "retentions", "stored_id"]

#: Kafka's word for "no bound" in ``max.compaction.lag.ms``.
_NO_BOUND_MS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Held:
    """What one partition of the changelog and of the scores topic hold of a user. Records are those of Kafka."""

    partition: int
    snapshot: Snapshot | None
    state_record: Any | None
    marker: Marker | None
    score: Score | None
    score_record: Any | None


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a topic keeps a record: at most ``kept_ms`` milliseconds. None means that no bound is set."""

    topic: str
    policy: str
    kept_ms: int | None


def partitions_of(consumer: KafkaConsumer, topic: str, user_id: str) -> list[int]:
    """All partitions of an opened topic. The one where the user is expected comes first.

    The key of an event is the id as it is, and everything else of the user has the partition of the events. But a
    producer may have a partitioner of its own, and then the user can be in another partition.
    """
    count = sum(tp.topic == topic for tp in consumer.assignment())
    expected = partition_of(user_id.encode(), count)
    return sorted(range(count), key=lambda number: number != expected)


def stored_id(settings: Settings, user_id: str) -> str:
    """What stands for this user in state, scores and alerts: the pseudonym if there is a key, or else the id."""
    pseudonyms = pseudonyms_of(settings.pseudonym_key.get_secret_value(), settings.pseudonym_key_id)
    return pseudonyms.pseudonym_of(user_id) if pseudonyms else user_id


def find(settings: Settings, user_id: str, *, everywhere: bool) -> list[Held]:
    """What is held of a user, partition by partition.

    Unless ``everywhere`` is set, the search ends at the first partition with a state.
    """
    topic, stored = changelog_topic(settings), stored_id(settings, user_id)
    schemas = schemas_of(settings, SystemClock())
    all_held: list[Held] = []
    with closing(open_topics(settings, [topic, settings.scores_topic], from_beginning=True)) as consumer:
        for number in partitions_of(consumer, topic, user_id):
            newest = _newest(consumer, TopicPartition(topic, number), [stored, marker_key(stored)])
            state, marker = newest.get(stored), newest.get(marker_key(stored))
            if state is None and marker is None:
                continue
            score = _newest(consumer, TopicPartition(settings.scores_topic, number), [stored]).get(stored)
            all_held.append(_held(number, stored, state=state, marker=marker, score=score, schemas=schemas))
            if state is not None and not everywhere:
                break
    return all_held


def _held(
    partition: int, stored: str, *, state: Any | None, marker: Any | None, score: Any | None, schemas: Schemas | None
) -> Held:
    return Held(
        partition=partition,
        snapshot=None if state is None else _snapshot(stored, state.value),
        state_record=state,
        marker=None if marker is None else read_marker(marker.value),
        score=_score(score, schemas),
        score_record=score,
    )


def _newest(consumer: KafkaConsumer, tp: TopicPartition, keys: Sequence[str]) -> dict[str, Any]:
    """The newest record of each of these keys. A key is left out if it has none, or if the newest is a tombstone."""
    wanted = {key.encode(): key for key in keys}
    newest: dict[str, Any] = {}
    for record in read_partition(consumer, tp):
        if record.key in wanted:
            newest[wanted[record.key]] = record
    return {key: record for key, record in newest.items() if record.value is not None}


def _score(record: Any | None, schemas: Schemas | None) -> Score | None:
    try:
        return None if record is None else read_record(record, Score, schemas)
    except msgspec.MsgspecError as error:
        raise ContractError(
            f"the user's record in the scores topic is not one of ours ({error}); expected valuestream.score.v1;"
            " check --scores-topic"
        ) from None


def _snapshot(user: str, value: bytes) -> Snapshot:
    """Unpack one changelog value. Raises ContractError if a newer release wrote it."""
    state = PartitionState(lateness_s=0)
    return state.snapshot(changelog.load(state, [user], [value]))


# -- retention -------------------------------------------------------------------------------------------------


def retentions(settings: Settings, topics: Iterable[str]) -> list[Retention]:
    """How long each of these topics keeps a record, as it is configured now."""
    names = list(topics)
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    with closing(connect(settings)) as admin:
        try:
            configs = admin.describe_configs(resources, config_filter="all")["topic"]
        except KafkaError as error:
            raise ConfigError(
                f"the broker did not say how long topics are kept ({error}); expected the right to describe their"
                " configuration; check its health and the access rights of our user"
            ) from error
    return [_retention(name, {key: entry["value"] for key, entry in configs[name].items()}) for name in names]


def _retention(topic: str, config: dict[str, str]) -> Retention:
    """How long a topic with this configuration keeps a record.

    Kafka deletes a record together with its whole log segment. So the record can stay longer than the configured time,
    by up to the time that a segment is open.

    >>> _retention("alerts", {"cleanup.policy": "delete", "retention.ms": "1000", "segment.ms": "200"}).kept_ms
    1200
    """
    policy = config["cleanup.policy"]
    bound_ms = int(config["retention.ms"]) if "delete" in policy else int(config["max.compaction.lag.ms"])
    unbounded = bound_ms < 0 or bound_ms >= _NO_BOUND_MS
    return Retention(topic, policy, None if unbounded else bound_ms + int(config["segment.ms"]))
