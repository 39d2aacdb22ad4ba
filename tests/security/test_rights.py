"""Tests of least privilege with Kafka's own authorizer: docs/security.md lists all needed rights and no other."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer

from stream.clock import SystemClock
from stream.commands.dlq.command import dlq
from stream.errors import ConfigError, ValuestreamError
from stream.kafka.clients import kafka_python_config
from stream.kafka.reading import open_topics
from stream.kafka.rights import Right, check_rights
from stream.kafka.sender import Rate, send_events
from stream.kafka.topic_admin import check_topics, ensure_topics
from stream.kafka.topics import changelog_topic, required_topics, topic_check_rights, worker_rights
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import wait_for
from tests.security.secured import Secured

pytestmark = pytest.mark.broker

DOCUMENTED = Path(__file__).parents[2] / "docs" / "security.md"
NAMES = {"app_id": "shop", "events_topic": "ev", "scores_topic": "sc", "alerts_topic": "al", "dlq_topic": "dl"}
WORKER = worker_rights(Settings(**NAMES))
#: A right for each request of a running worker (produce, commit, fetch), and whether only events show its loss.
LOST = [
    (Right("topic", "shop-users-changelog", "Write"), True),
    (Right("group", "shop", "Read"), True),
    (Right("topic", "ev", "Read"), False),
]


@pytest.fixture(scope="module")
def prepared(secured: Secured) -> Secured:
    """A broker with all topics, and the worker's user with all its rights."""
    ensure_topics(secured.as_super_user(**NAMES), harness.PARTITIONS)
    secured.allow("worker", WORKER)
    wait_for(
        "the rights to hold", lambda: not line_of(lambda: check_rights(secured.as_user("worker", **NAMES), WORKER))
    )
    return secured


@pytest.fixture
def without(prepared: Secured) -> Iterator[Callable[[Right], None]]:
    """A function that takes a right from the worker until the end of the test."""
    forbidden: list[Right] = []

    def forbid(right: Right) -> None:
        forbidden.append(right)
        prepared.forbid("worker", [right])

    yield forbid
    prepared.allow("worker", forbidden)
    wait_for(
        "the rights to hold", lambda: not line_of(lambda: check_rights(prepared.as_user("worker", **NAMES), WORKER))
    )


def line_of(call: Callable[[], object]) -> str:
    """The one line with which the call fails; empty if it succeeds."""
    try:
        call()
    except ConfigError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def refused(call: Callable[[], object]) -> str:
    """The line with which the call fails, as soon as the broker knows of the change."""
    line: str = wait_for("a refusal", lambda: line_of(call))
    return line


def said(right: Right) -> str:
    return f"no right to {right.operation} {right.resource} {right.name};"


@pytest.mark.parametrize("right", WORKER, ids=" ".join)
def test_worker_without_one_right_does_not_start_and_names_it(
    prepared: Secured, without: Callable[[Right], None], right: Right
) -> None:
    settings = prepared.as_user("worker", **NAMES)
    without(right)
    line = refused(lambda: check_topics(settings, worker_rights(settings)))
    assert said(right) in line
    assert f"--allow-principal User:worker --operation {right.operation} --{right.resource} {right.name}" in line


def test_user_without_any_right_is_told_all_rights_that_must_be_given(secured: Secured) -> None:
    settings = secured.as_user("operator", **NAMES)
    line = refused(lambda: check_rights(settings, worker_rights(settings)))
    for right in worker_rights(settings):
        assert (f"{right.operation} {right.resource} {right.name}" in line) == (right.operation != "DescribeConfigs")


@pytest.mark.parametrize(("right", "with_events"), LOST, ids=[" ".join(right) for right, _ in LOST])
def test_worker_that_loses_a_right_while_it_runs_names_it_and_commits_nothing_more(
    prepared: Secured, without: Callable[[Right], None], tmp_path: Path, right: Right, with_events: bool
) -> None:
    settings = prepared.as_user("worker", "SASL_PLAINTEXT", **NAMES, data_dir=tmp_path / "state")
    over_all = prepared.as_super_user(**NAMES)
    with prepared.worker(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(over_all)
        before = harness.committed(over_all)
        without(right)
        # The broker must know of the change before the first event comes.
        refused(lambda: check_rights(settings, [right]))
        harness.produce(over_all, events() if with_events else [])
        wait_for("the worker to end", lambda: worker.process.poll() is not None)
        assert worker.process.returncode
        # The log has the line even if the end had to be forced, as closing Faust may hang.
        assert said(right) in worker.log()
        assert harness.committed(over_all) == before


def events() -> list[harness.Message]:
    at = time.time() - 60
    return [(b"user-%d" % i, harness.track(f"user-{i}", "Product Viewed", at, f"m-{at}-{i}")) for i in range(20)]


def test_worker_that_got_its_rights_back_goes_on_where_it_stopped(prepared: Secured, tmp_path: Path) -> None:
    """It follows the tests above, with a client certificate now. The oracle reads the events of all of them."""
    settings, over_all = (
        prepared.as_user("worker", "MTLS", **NAMES, data_dir=tmp_path / "state"),
        prepared.as_super_user(**NAMES),
    )
    harness.produce(over_all, events())
    with prepared.worker(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(over_all)
    assert harness.last_values(harness.read_topic(over_all, "sc")) == harness.oracle(over_all).scores


# Operators --------------------------------------------------------------------------------------------


def test_operator_needs_the_documented_rights_to_create_topics(secured: Secured, topic_names: dict[str, Any]) -> None:
    settings = secured.as_user("operator", **topic_names)
    names = [spec.name for spec in required_topics(settings, 0)]
    looking, creating = topic_check_rights(settings), [Right("topic", name, "Create") for name in names]
    assert said(Right("topic", names[0], "Describe")) in line_of(lambda: ensure_topics(settings, 2))
    secured.allow("operator", looking)
    wait_for("leave to look", lambda: not line_of(lambda: check_rights(settings, looking[:5])))
    line = line_of(lambda: ensure_topics(settings, 2))
    assert all(f"Create topic {name}" in line for name in names)
    secured.allow("operator", creating)
    wait_for("leave to create", lambda: not line_of(lambda: ensure_topics(settings, 2)))
    assert check_topics(settings) == (2, [])
    secured.forbid("operator", [Right("topic", names[3], "DescribeConfigs")])
    assert said(Right("topic", names[3], "DescribeConfigs")) in refused(lambda: check_topics(settings))


@pytest.mark.parametrize("missing", [changelog_topic(Settings(**NAMES)), "sc"])
def test_reading_users_needs_the_right_to_read_changelog_and_scores(prepared: Secured, missing: str) -> None:
    settings = prepared.as_user("reader", **NAMES)
    both = [changelog_topic(settings), "sc"]
    prepared.allow("reader", [Right("topic", name, "Read") for name in both])
    wait_for(
        "the rights to hold", lambda: not line_of(lambda: open_topics(settings, both, from_beginning=True).close())
    )
    prepared.forbid("reader", [Right("topic", missing, "Read")])
    line = refused(lambda: open_topics(settings, both, from_beginning=True).close())
    assert said(Right("topic", missing, "Read")) in line


def test_replay_of_dead_letters_needs_read_on_them_and_write_on_their_source(prepared: Secured) -> None:
    dead, back = Right("topic", "dl", "Read"), Right("topic", "ev", "Write")
    origin = {"topic": b"ev", "partition": b"0", "offset": b"0"}
    headers = [("valuestream.error.reason", b"schema"), *((f"valuestream.source.{k}", v) for k, v in origin.items())]
    with closing(KafkaProducer(**kafka_python_config(prepared.as_super_user()))) as producer:
        producer.send("dl", b"{}", b"user", headers=headers, partition=0).get(30)
    settings = prepared.as_user("replayer", **NAMES)
    env = {f"VALUESTREAM_{name.upper()}": value for name, value in NAMES.items()} | prepared.env(settings)
    env["VALUESTREAM_BOOTSTRAP_SERVERS"] = settings.bootstrap_servers

    def replay() -> str:
        done = CliRunner().invoke(dlq, ["replay"], env=env)
        assert isinstance(done.exception, ValuestreamError | None), done.exception
        return str(done.exception or "")

    prepared.allow("replayer", [back])
    assert said(dead) in wait_for("a refusal", replay)
    prepared.allow("replayer", [dead])
    wait_for("a replay", lambda: not replay())
    prepared.forbid("replayer", [back])
    assert said(back) in wait_for("a refusal", replay)


def test_sender_without_the_right_to_write_is_told_before_it_sends(prepared: Secured) -> None:
    settings, right = prepared.as_user("sender", **NAMES), Right("topic", "ev", "Write")

    def send() -> None:
        send_events(settings, iter([(b"user", b"{}", 0)]), Rate(), lambda *_: None, clock=SystemClock())

    assert said(right) in line_of(send)
    prepared.allow("sender", [right])
    wait_for("leave to write", lambda: not line_of(send))


# The table --------------------------------------------------------------------------------------------


def test_documented_table_lists_the_rights_that_the_worker_checks() -> None:
    placeholders = {"ev": "events", "sc": "scores", "al": "alerts", "dl": "events-dlq", "shop": "valuestream"}
    ours = {(r.resource, placeholders.get(r.name, "valuestream-users-changelog"), r.operation) for r in WORKER}
    rows = re.findall(r"^\| worker \| (\w+) `([\w-]+)` \| ([\w, ]+) \|", DOCUMENTED.read_text(encoding="utf-8"), re.M)
    documented = {(resource, name, operation) for resource, name, all_of in rows for operation in all_of.split(", ")}
    assert documented == ours


def test_documented_commands_give_the_worker_exactly_these_rights() -> None:
    text = DOCUMENTED.read_text(encoding="utf-8").replace("\\\n", " ")
    granted = set()
    for line in re.findall(r"kafka-acls\.sh.*--allow-principal User:worker .*", text):
        operations = re.findall(r"--operation (\w+)", line)
        for resource, name in re.findall(r"--(topic|group) ([\w-]+)", line):
            granted |= {(resource, name, operation) for operation in operations}
    expected = worker_rights(Settings(_env_file=None))
    assert granted == {tuple(right) for right in expected}
