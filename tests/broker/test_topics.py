"""Tests of topics: the commands create what is missing, and report what is wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.processes import free_port
from stream.errors import ConfigError
from stream.kafka.clients import connect
from stream.kafka.topic_admin import check_topics, ensure_topics
from stream.kafka.topics import changelog_topic, required_topics
from stream.settings import Settings
from tests.broker.command import assert_one_line, valuestream

pytestmark = pytest.mark.broker
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def fresh(broker: EmbeddedBroker, topic_names: dict[str, Any]) -> Settings:
    """Settings with topics that do not exist yet."""
    return Settings(bootstrap_servers=broker.bootstrap_servers, **topic_names)


@pytest.fixture
def admin(fresh: Settings) -> Iterator[KafkaAdminClient]:
    client = connect(fresh)
    yield client
    client.close()


def make_topic(admin: KafkaAdminClient, name: str, partitions: int, **config: str) -> None:
    configs = {key.replace("_", "."): value for key, value in config.items()}
    topic = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    admin.create_topics({name: topic}, wait_for_metadata=True)


def topics_command(command: str, settings: Settings, *more: str) -> subprocess.CompletedProcess[str]:
    """``valuestream topics`` as a user runs it, with the test's settings in the environment."""
    variables = {f"VALUESTREAM_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    return valuestream("topics", command, *more, **variables)


def test_created_topics_pass_the_check_and_creating_them_again_changes_nothing(fresh: Settings) -> None:
    ensure_topics(fresh, partitions=3)
    assert check_topics(fresh) == (3, [])
    ensure_topics(fresh, partitions=3)
    assert check_topics(fresh) == (3, [])


def test_created_topics_have_the_required_configuration(fresh: Settings, admin: KafkaAdminClient) -> None:
    from kafka.admin import ConfigResource

    ensure_topics(fresh, partitions=2)
    for spec in required_topics(fresh, partitions=2):
        answer = admin.describe_configs([ConfigResource("TOPIC", spec.name)])["topic"][spec.name]
        assert {name: answer[name]["value"] for name in spec.config} == dict(spec.config)


def test_only_what_is_missing_is_created(fresh: Settings, admin: KafkaAdminClient) -> None:
    make_topic(admin, fresh.scores_topic, 3, cleanup_policy="compact", retention_ms="1234567")
    ensure_topics(fresh, partitions=3)
    assert check_topics(fresh) == (3, [])


def test_each_missing_topic_is_a_line_with_the_command_that_creates_it(
    fresh: Settings, admin: KafkaAdminClient
) -> None:
    make_topic(admin, fresh.events_topic, 6)
    partitions, problems = check_topics(fresh)
    assert partitions == 6
    assert len(problems) == 4
    assert all("is missing" in line and "topics create --partitions 6" in line for line in problems)


def test_no_topics_at_all_are_five_lines_and_no_partitions(fresh: Settings) -> None:
    partitions, problems = check_topics(fresh)
    assert partitions == 0
    assert len(problems) == 5


def test_wrong_partition_count_is_reported_against_the_events_topic(fresh: Settings, admin: KafkaAdminClient) -> None:
    make_topic(admin, fresh.scores_topic, 2, cleanup_policy="compact")
    ensure_topics(fresh, partitions=4)
    partitions, problems = check_topics(fresh)
    assert partitions == 4
    assert len(problems) == 1
    assert f"topic {fresh.scores_topic} has 2 partitions; expected 4" in problems[0]


@pytest.mark.parametrize(
    ("which", "config", "problem"),
    [
        (changelog_topic, {"cleanup_policy": "delete"}, "cleanup.policy=delete; expected compact"),
        (changelog_topic, {"cleanup_policy": "compact,delete"}, "cleanup.policy=compact,delete; expected compact"),
        (attrgetter("events_topic"), {"cleanup_policy": "compact"}, "cleanup.policy=compact; expected delete"),
        (attrgetter("dlq_topic"), {}, "max.message.bytes"),
    ],
    ids=["silent users are forgotten", "silent users are forgotten late", "compacted events", "small dead letters"],
)
def test_topic_with_a_wrong_configuration_is_reported(
    fresh: Settings,
    admin: KafkaAdminClient,
    which: Callable[[Settings], str],
    config: dict[str, str],
    problem: str,
) -> None:
    make_topic(admin, which(fresh), 4, **config)
    ensure_topics(fresh, partitions=4)
    _, (line,) = check_topics(fresh)
    assert problem in line


def test_wrong_partition_count_for_existing_events_is_refused_before_anything_is_created(
    fresh: Settings, admin: KafkaAdminClient
) -> None:
    make_topic(admin, fresh.events_topic, 2)
    with pytest.raises(ConfigError, match="has 2 partitions; expected 4"):
        ensure_topics(fresh, partitions=4)
    assert fresh.scores_topic not in admin.list_topics()


def test_refusal_of_the_broker_to_create_a_topic_is_one_line(fresh: Settings) -> None:
    with pytest.raises(ConfigError, match="replication factor") as caught:
        ensure_topics(fresh, partitions=1, replication=3)
    assert len(str(caught.value).splitlines()) == 1


def test_create_command_creates_and_check_command_agrees(fresh: Settings) -> None:
    before = topics_command("check", fresh)
    assert before.returncode == 1
    assert [line.startswith("valuestream: topic ") for line in before.stderr.splitlines()] == [True] * 5

    created = topics_command("create", fresh, "--partitions", "5")
    assert (created.returncode, created.stderr) == (0, "")
    assert f"ok: {fresh.scores_topic}, 5 partitions, compact" in created.stdout.splitlines()
    assert topics_command("check", fresh).stdout == created.stdout


def test_unreachable_broker_is_one_line_without_traceback(fresh: Settings) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    ended = topics_command("check", fresh, "--bootstrap-servers", nowhere)
    assert_one_line(ended, f"no answer from {nowhere}", "valuestream broker start")
    assert ended.stdout == ""


def test_settings_of_one_test_share_topics_but_not_the_data_directory(make_settings: Callable[..., Settings]) -> None:
    one, two = make_settings(instance_id="one"), make_settings(instance_id="two")
    assert one.events_topic == two.events_topic
    assert one.data_dir != two.data_dir
    assert check_topics(one) == (4, [])
