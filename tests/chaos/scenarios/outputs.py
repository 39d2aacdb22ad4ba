"""Outputs: the broker rejects what the worker sends. No offset may move past it, and the worker names the topic."""

from __future__ import annotations

import random
from contextlib import closing
from typing import Final

from kafka.admin import ConfigResource, ConfigResourceType

from stream.kafka.clients import connect
from stream.kafka.topic_admin import ensure_topics
from stream.kafka.topics import changelog_topic, required_topics
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import PARTITIONS, Message
from tests.broker.undisturbed import shoppers
from tests.chaos.judge import Verdict, judge
from tests.chaos.supervised import Supervised
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["output_too_large", "output_topic_deleted"]

_EVENTS: Final = 400
_UNUSABLE: Final = 20
#: Smaller than the smallest record.
_TINY_BYTES: Final = "10"
#: A worker gives up a send after this time. The default is a minute.
_GIVE_UP_S: Final = "3"


@scenario("output_too_large")
def output_too_large(world: World) -> Verdict:
    """The topics of state, scores and dead letters each refuse every record for a time (short: only state)."""
    settings = world.settings(instance_id="w")
    bytes_max = {s.name: s.config.get("max.message.bytes", "1048588") for s in required_topics(settings, PARTITIONS)}
    problems, recoveries = [], [0.0]
    with Supervised(world, settings) as supervised:
        supervised.wait_ready()
        for number, topic in enumerate(_outputs(world, settings)[: 1 if world.short else None]):
            _limit_messages(settings, topic, _TINY_BYTES)
            problems += _rejected(supervised, settings, topic, "MessageSizeTooLarge", world.seed + number)
            _limit_messages(settings, topic, bytes_max[topic])
            recoveries.append(_recover(supervised, settings))
    problem = "; ".join(problems)
    return judge(
        "output_too_large",
        world.seed,
        settings,
        recovery_seconds=max(recoveries),
        problem=problem,
        measures=supervised.measures,
    )


@scenario("output_topic_deleted")
def output_topic_deleted(world: World) -> Verdict:
    """An empty topic is deleted while a worker runs, and created again after the worker has given up."""
    settings = world.settings(instance_id="w")
    topic = _outputs(world, settings)[0]
    with Supervised(world, settings, VALUESTREAM_STALL_TIMEOUT_S=_GIVE_UP_S) as supervised:
        supervised.wait_ready()
        with closing(connect(settings)) as admin:
            admin.delete_topics([topic])
        problems = _rejected(supervised, settings, topic, "every attempt failed", world.seed)
        ensure_topics(settings, PARTITIONS)
        recovery = _recover(supervised, settings)
    problem = "; ".join(problems)
    return judge(
        "output_topic_deleted",
        world.seed,
        settings,
        recovery_seconds=recovery,
        problem=problem,
        measures=supervised.measures,
    )


def _outputs(world: World, settings: Settings) -> list[str]:
    """The topics that a worker always writes to, in random order; in the short form the state comes first."""
    topics = [changelog_topic(settings), settings.scores_topic, settings.dlq_topic]
    if not world.short:
        random.Random(world.seed).shuffle(topics)
    return topics


def _limit_messages(settings: Settings, topic: str, bytes_max: str) -> None:
    with closing(connect(settings)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": bytes_max})])


def _rejected(supervised: Supervised, settings: Settings, topic: str, cause: str, seed: int) -> list[str]:
    """Send events, wait until the worker has failed, and return what was wrong.

    If a score was rejected, the position may advance: the changelog says which users still wait for their score.
    """
    before = harness.committed(settings)
    harness.produce(settings, _events(seed))
    reason = supervised.wait_failure()
    problems = [f"the worker said {reason!r}, expected {name} in it" for name in (topic, cause) if name not in reason]
    after = harness.committed(settings)
    if topic != settings.scores_topic and after != before:
        problems.append(f"{after} is committed, expected {before} as {topic} took nothing")
    return problems


def _events(seed: int) -> list[Message]:
    """Events, and some records that can only become dead letters."""
    unusable: list[Message] = [(f"bad-{i}".encode(), b"{") for i in range(_UNUSABLE)]
    return shoppers(_EVENTS, users=50, seed=seed) + unusable


def _recover(supervised: Supervised, settings: Settings) -> float:
    """Start the worker again, and wait until all is done. Returns the seconds until all was committed."""
    seconds = supervised.wait_more()
    wait_settled(settings, supervised)
    return seconds
