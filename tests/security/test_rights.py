"""Least privilege, against Kafka's own authorizer: all that docs/security.md lists is needed, and it is enough."""

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
#: Where a request of a running worker is refused, and whether it takes events to find out: produce, commit, fetch.
LOST = [
    (Right("topic", "shop-users-changelog", "Write"), True),
    (Right("group", "shop", "Read"), True),
    (Right("topic", "ev", "Read"), False),
]


@pytest.fixture(scope="module")
def prepared(secured: Secured) -> Secured:
    """Topics that exist, and a worker that has all its rights."""
    ensure_topics(secured.as_super_user(**NAMES), harness.PARTITIONS)
    secured.allow("worker", WORKER)
    wait_for(
        "the rights to hold", lambda: not line_of(lambda: check_rights(secured.as_user("worker", **NAMES), WORKER))
    )
    return secured


@pytest.fixture
def without(prepared: Secured) -> Iterator[Callable[[Right], None]]:
    """Take a right from the worker, until the end of the test."""
    taken: list[Right] = []

    def take(right: Right) -> None:
        taken.append(right)
        prepared.forbid("worker", [right])

    yield take
    prepared.allow("worker", taken)
    wait_for(
        "the rights to hold", lambda: not line_of(lambda: check_rights(prepared.as_user("worker", **NAMES), WORKER))
    )


def line_of(call: Callable[[], object]) -> str:
    """The one line that it ends with; empty where it goes well."""
    try:
        call()
    except ConfigError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def refused(call: Callable[[], object]) -> str:
    """The line that it ends with as soon as the broker has heard of the change."""
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


def test_user_without_any_right_is_told_of_all_that_bring_the_others(secured: Secured) -> None:
    settings = secured.as_user("operator", **NAMES)
    line = refused(lambda: check_rights(settings, worker_rights(settings)))
    for right in worker_rights(settings):
        assert (f"{right.operation} {right.resource} {right.name}" in line) == (right.operation != "DescribeConfigs")


@pytest.mark.parametrize(("right", "with_events"), LOST, ids=[" ".join(right) for right, _ in LOST])
def test_worker_that_loses_a_right_in_mid_stream_ends_with_its_name_and_commits_nothing_past_it(
    prepared: Secured, without: Callable[[Right], None], tmp_path: Path, right: Right, with_events: bool
) -> None:
    settings = prepared.as_user("worker", "SASL_PLAINTEXT", **NAMES, data_dir=tmp_path / "state")
    over_all = prepared.as_super_user(**NAMES)
    with prepared.worker(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(over_all)
        before = harness.committed(over_all)
        without(right)
        # The broker has to know it before the first event comes.
        refused(lambda: check_rights(settings, [right]))
        harness.produce(over_all, events() if with_events else [])
        wait_for("the worker to end", lambda: worker.process.poll() is not None)
        assert worker.process.returncode
        # An end that had to be forced, as closing Faust may hang, has said it too.
        assert said(right) in worker.log()
        assert harness.committed(over_all) == before


def events() -> list[harness.Message]:
    at = time.time() - 60
    return [(b"user-%d" % i, harness.track(f"user-{i}", "Product Viewed", at, f"m-{at}-{i}")) for i in range(20)]


def test_worker_that_got_its_rights_back_goes_on_where_it_was(prepared: Secured, tmp_path: Path) -> None:
    """After the tests above, with a client certificate this time; the oracle reads every event of all of them."""
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


def test_operator_creates_topics_with_the_rights_of_the_table_and_not_without_create(
    secured: Secured, topic_names: dict[str, Any]
) -> None:
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
def test_reader_of_users_needs_read_on_the_changelog_and_the_scores(prepared: Secured, missing: str) -> None:
    settings = prepared.as_user("reader", **NAMES)
    both = [changelog_topic(settings), "sc"]
    prepared.allow("reader", [Right("topic", name, "Read") for name in both])
    wait_for(
        "the rights to hold", lambda: not line_of(lambda: open_topics(settings, both, from_beginning=True).close())
    )
    prepared.forbid("reader", [Right("topic", missing, "Read")])
    line = refused(lambda: open_topics(settings, both, from_beginning=True).close())
    assert said(Right("topic", missing, "Read")) in line


def test_replay_of_dead_letters_needs_read_there_and_write_on_their_source(prepared: Secured) -> None:
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


def test_senders_are_told_beforehand_that_they_may_not_write(prepared: Secured) -> None:
    settings, right = prepared.as_user("sender", **NAMES), Right("topic", "ev", "Write")

    def send() -> None:
        send_events(settings, iter([(b"user", b"{}", 0)]), Rate(), lambda *_: None, clock=SystemClock())

    assert said(right) in line_of(send)
    prepared.allow("sender", [right])
    wait_for("leave to write", lambda: not line_of(send))


# The table --------------------------------------------------------------------------------------------


def test_the_documented_table_of_the_worker_is_the_one_that_is_checked() -> None:
    placeholders = {"ev": "events", "sc": "scores", "al": "alerts", "dl": "events-dlq", "shop": "valuestream"}
    ours = {(r.resource, placeholders.get(r.name, "valuestream-users-changelog"), r.operation) for r in WORKER}
    rows = re.findall(r"^\| worker \| (\w+) `([\w-]+)` \| ([\w, ]+) \|", DOCUMENTED.read_text(encoding="utf-8"), re.M)
    documented = {(resource, name, operation) for resource, name, all_of in rows for operation in all_of.split(", ")}
    assert documented == ours


def test_the_documented_commands_give_the_worker_just_these_rights() -> None:
    text = DOCUMENTED.read_text(encoding="utf-8").replace("\\\n", " ")
    given = set()
    for line in re.findall(r"kafka-acls\.sh.*--allow-principal User:worker .*", text):
        operations = re.findall(r"--operation (\w+)", line)
        for resource, name in re.findall(r"--(topic|group) ([\w-]+)", line):
            given |= {(resource, name, operation) for operation in operations}
    expected = worker_rights(Settings(_env_file=None))
    assert given == {tuple(right) for right in expected}
