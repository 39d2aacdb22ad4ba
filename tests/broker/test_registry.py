"""Tests of events and scores by a schema registry, on a real Kafka: it may go away, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from confluent_kafka.schema_registry import SchemaRegistryClient
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from stream.commands.cli import cli
from stream.contract.score import Score
from stream.registry.wire_format import frame
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess, committed, end_offsets, produce, wait_for
from tests.broker.undisturbed import expected_states, shoppers, states_of
from tests.registry.makers import SEGMENT, avro, json_schema
from tests.registry.stub import StubRegistry

pytestmark = pytest.mark.broker

PROTO = """
syntax = "proto3";
message Properties { string product_id = 1; string category = 2; double total = 3; string order_id = 4; }
message Track {
  string type = 1; string event = 2; string messageId = 3; string userId = 4; double timestamp = 5;
  Properties properties = 6;
}
"""


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    with StubRegistry(user="worker", password="secret") as registry:
        yield registry


@pytest.fixture
def producer(stub: StubRegistry) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": stub.url, "basic.auth.user.info": "worker:secret"})


def with_registry(stub: StubRegistry, **more: str) -> dict[str, str]:
    """The variables of a worker or a command that uses the registry."""
    names = {"URL": stub.url, "USER": "worker", "PASSWORD": "secret"}
    return {f"VALUESTREAM_SCHEMA_REGISTRY_{name}": value for name, value in names.items()} | more


def in_avro(producer: SchemaRegistryClient, messages: list[Message], schema: Any = SEGMENT) -> list[Message]:
    """The same events as confluent-kafka's Avro serializer writes them."""
    return [(key, avro(producer, schema, _typed(json.loads(value or b""))).value) for key, value in messages]


def _typed(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "timestamp": str(event["timestamp"])}


def in_protobuf(stub: StubRegistry, messages: list[Message], file: Any) -> list[Message]:
    """The same events as a Java producer writes them: the registry has the text of the .proto file."""
    from google.protobuf import json_format

    kind = message_factory.GetMessageClass(file.message_types_by_name["Track"])
    number = stub.add("events-value", PROTO, "PROTOBUF")
    return [
        (key, frame(number, b"\x02\x02" + json_format.Parse(value or b"", kind()).SerializeToString()))
        for key, value in messages
    ]


@pytest.fixture
def proto_file(tmp_path: Path) -> Any:
    from grpc_tools import protoc

    (tmp_path / "events.proto").write_text(PROTO)
    out = tmp_path / "compiled"
    assert protoc.main(["protoc", f"-I{tmp_path}", f"--descriptor_set_out={out}", "events.proto"]) == 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0])
    return pool.FindFileByName("events.proto")


def assert_as_json(settings: Settings, make_settings: Any, messages: list[Message]) -> None:
    """The states are those that the same events would have come to as JSON."""
    plain = make_settings(events_topic=f"{settings.events_topic}-json")
    produce(plain, messages)
    assert states_of(settings) == expected_states(harness.oracle(plain).partitions)


def test_events_by_all_three_kinds_of_schema_become_scores_in_avro(
    stub: StubRegistry, producer: SchemaRegistryClient, proto_file: Any, make_settings: Any, tmp_path: Path
) -> None:
    settings = make_settings()
    messages = shoppers(600, users=30, repeat=0.0)
    third = len(messages) // 3
    produce(settings, in_avro(producer, messages[:third]))
    produce(settings, in_protobuf(stub, messages[third : 2 * third], proto_file))
    rest = messages[2 * third :]
    produce(settings, [(key, json_schema(producer, json.loads(value or b"")).value) for key, value in rest])
    env = with_registry(stub, VALUESTREAM_SCORES_FORMAT="avro")
    with WorkerProcess(settings, tmp_path / "log", **env) as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.metric("valuestream_dead_letters_total") == 0
        assert worker.metric("valuestream_schema_registry_errors_total") == 0
        assert worker.terminate() == 0, worker.log()
        assert "secret" not in worker.log()
    assert_as_json(settings, make_settings, messages)
    assert {f"{settings.scores_topic}-value", f"{settings.alerts_topic}-value"} <= set(stub.subjects)
    scored = harness.last_values(harness.read_topic(settings, settings.scores_topic))
    assert set(scored) == {key.decode() for key, _ in messages if key}
    assert all(value[0] == 0 for value in scored.values())
    _assert_commands_read_avro(settings, env, messages)


def _assert_commands_read_avro(settings: Settings, env: dict[str, str], messages: list[Message]) -> None:
    names = ("bootstrap_servers", "app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic")
    env = env | {f"VALUESTREAM_{name.upper()}": getattr(settings, name) for name in names}
    user = (messages[0][0] or b"").decode()

    def output(*arguments: str) -> str:
        result = CliRunner().invoke(cli, arguments, env=env, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    tail = ("scores", "tail", "--from-beginning", "--max", "5")
    lines = output(*tail, "--json").splitlines()
    assert {msgspec.json.decode(line, type=Score).model.name for line in lines} == {"event-bert"}
    assert output(*tail).count("churn") == 5
    assert "churn" in output("user", "show", user)
    exported = json.loads(output("user", "export", user))
    assert len(exported["events"][0]["records"]) == sum(key == user.encode() for key, _ in messages)
    assert {record["value"]["userId"] for record in exported["events"][0]["records"]} == {user}
    assert [record["value"]["user_id"] for record in exported["scores"]] == [user]


def test_a_registry_that_is_down_holds_events_and_loses_none(
    stub: StubRegistry, producer: SchemaRegistryClient, make_settings: Any, tmp_path: Path
) -> None:
    settings = make_settings(session_timeout_s=6.0)
    messages = shoppers(900, users=30, repeat=0.0)
    first, second, third = messages[:300], messages[300:600], messages[600:]
    produce(settings, in_avro(producer, first))
    env = with_registry(stub, VALUESTREAM_STALL_TIMEOUT_S="2", VALUESTREAM_SESSION_TIMEOUT_S="6")
    with WorkerProcess(settings, tmp_path / "log", **env) as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        # A schema that the worker has not seen, so it must ask.
        renamed = {**SEGMENT, "doc": "the next version"}
        later = in_avro(producer, second, renamed)
        stub.down()
        before = committed(settings)
        produce(settings, later)
        wait_for("ingestion to wait", lambda: worker.metric("valuestream_schema_registry_wait_seconds") > 8)
        # It was stalled for longer than the watchdog allows and the session lasts, and is alive and in the group.
        assert worker.alive()
        assert worker.get("/health/live")[0] == 200
        assert "schema registry" in worker.get("/health/ready")[1]
        assert committed(settings) == before
        assert worker.metric("valuestream_rebalances_total") == 1
        stub.up()
        worker.wait_idle(settings)
        # Down once more: a stop does not wait for it, and the next worker finds what is left.
        last = in_avro(producer, third, {**SEGMENT, "doc": "the last version"})
        stub.down()
        produce(settings, last)
        wait_for("ingestion to wait", lambda: worker.metric("valuestream_schema_registry_wait_seconds") > 0)
        assert worker.terminate() == 0, worker.log()
        assert "ingestion waits, asking again in" in worker.log()
    stub.up()
    with WorkerProcess(settings, tmp_path / "log", **env) as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.terminate() == 0, worker.log()
    assert harness.read_topic(settings, settings.dlq_topic) == []
    assert_as_json(settings, make_settings, messages)


def test_two_workers_share_partitions_while_the_registry_is_down(
    stub: StubRegistry, producer: SchemaRegistryClient, make_settings: Any, tmp_path: Path
) -> None:
    messages = shoppers(400, users=30, repeat=0.0)
    one, other = make_settings(), make_settings()
    env = with_registry(stub)
    with WorkerProcess(one, tmp_path / "one", **env) as first:
        first.wait_ready()
        events = in_avro(producer, messages)
        stub.down()
        produce(one, events)
        wait_for("ingestion to wait", lambda: first.metric("valuestream_schema_registry_wait_seconds") > 0)
        # A worker asks once at its start, and is let in to wait with the other.
        stub.fault, stub.fault_from = (503, ""), "/schemas/ids"
        stub.up()
        with WorkerProcess(other, tmp_path / "other", **env) as second:
            wait_for(
                "both to have partitions",
                lambda: all(w.metric("valuestream_partitions_assigned") == 2 for w in (first, second)),
            )
            stub.fault = None
            wait_for("all to be committed", lambda: committed(one) == end_offsets(one))
            assert second.terminate() == 0, second.log()
        assert first.terminate() == 0, first.log()
    assert harness.read_topic(one, one.dlq_topic) == []
    assert_as_json(one, make_settings, messages)


def test_unknown_schemas_and_misfits_are_dead_letters_and_the_stream_goes_on(
    stub: StubRegistry, producer: SchemaRegistryClient, make_settings: Any, tmp_path: Path
) -> None:
    settings = make_settings()
    messages = shoppers(100, users=10, repeat=0.0)
    good = in_avro(producer, messages)
    bad = [(b"user-1", frame(99, b"\x06bad")), (b"user-2", (good[0][1] or b"")[:9])]
    produce(settings, [*good[:50], *bad, *good[50:]])
    with WorkerProcess(settings, tmp_path / "log", **with_registry(stub)) as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.terminate() == 0, worker.log()
    letters = harness.read_topic(settings, settings.dlq_topic)
    assert sorted(dict(r.headers)["valuestream.error.reason"] for r in letters) == [b"schema_id", b"schema_value"]
    assert sorted(r.value for r in letters) == sorted(value for _, value in bad if value)
    # As JSON the bad ones must keep their places, because offsets are part of a state.
    in_place = [*messages[:50], *((key, b"bad") for key, _ in bad), *messages[50:]]
    assert_as_json(settings, make_settings, in_place)


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"VALUESTREAM_SCHEMA_REGISTRY_PASSWORD": "wrong"}, "answers 401"),
        ({"VALUESTREAM_SCHEMA_REGISTRY_URL": "http://127.0.0.1:9"}, "does not answer"),
        ({"VALUESTREAM_SCHEMA_REGISTRY_URL": "", "VALUESTREAM_SCORES_FORMAT": "avro"}, "scores_format is avro"),
    ],
)
def test_a_worker_that_cannot_use_its_registry_says_so_in_one_line(
    stub: StubRegistry, settings: Settings, tmp_path: Path, env: dict[str, str], line: str
) -> None:
    with WorkerProcess(settings, tmp_path / "log", **(with_registry(stub) | env)) as worker:
        assert worker.process.wait(60) == 1
        (said,) = [one for one in worker.log().splitlines() if one.startswith("valuestream: ")]
        assert line in said
        assert "Traceback" not in worker.log()
