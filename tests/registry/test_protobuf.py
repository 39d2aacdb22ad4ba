"""Tests of reading Protobuf: by the text of .proto files, and by their compiled form, as confluent-kafka has it."""

from __future__ import annotations

import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_tools import protoc

from stream.decode.decoder import Decoder, Money
from stream.registry import protobuf as protobuf_module
from stream.registry.schemas import Schemas
from stream.registry.wire_format import frame
from tests.registry.makers import TOPIC, Record
from tests.registry.stub import StubRegistry

NOW = 1_735_689_600.0
MONEY = 'syntax = "proto3"; package shop; message Money { double amount = 1; string currency = 2; }'
EVENTS = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "money.proto";
enum Currency { NONE = 0; USD = 1; }
message Unused { message Inner { string a = 1; } }
message Event {
  message Line { string item_id = 1; }
  string type = 1;
  optional string user_id = 2;
  google.protobuf.Timestamp ts = 3;
  string event_id = 4;
  string order_id = 5;
  Money price = 6;
  Currency currency = 7;
  int64 quantity = 8;
  bytes raw = 9;
  map<string, string> tags = 10;
  oneof what { string item_id = 11; string category = 12; }
  repeated Line lines = 13;
}
"""
EVENT = {
    "type": "purchase",
    "user_id": "ann",
    "ts": "2024-12-30T23:06:40Z",
    "order_id": "o1",
    "price": {"amount": 12.5, "currency": "USD"},
    "currency": "USD",
    "quantity": "2",
    "raw": "/w==",
    "tags": {"a": "b"},
    "item_id": "i1",
    "lines": [{"item_id": "x"}],
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The files above, compiled."""
    folder = tmp_path_factory.mktemp("proto")
    (folder / "money.proto").write_text(MONEY)
    (folder / "events.proto").write_text(EVENTS)
    out = folder / "out"
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = [f"-I{folder}", f"-I{well_known}", "--include_imports", f"--descriptor_set_out={out}", "events.proto"]
    assert protoc.main(["protoc", *arguments]) == 0
    files = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        files.Add(file)
    return files


def message(pool: Any, name: str = "shop.Event", **fields: Any) -> Any:
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    return json_format.ParseDict(fields or EVENT, kind())


def content(schemas: Schemas, record: Record) -> Any:
    schemas.fetch_now([record])
    return schemas.content(record)


def register_texts(stub: StubRegistry) -> int:
    """Register the texts, as a Java producer does. Returns the id of the events."""
    stub.add("money", MONEY, "PROTOBUF")
    reference = {"name": "money.proto", "subject": "money", "version": 1}
    return stub.add("events-value", EVENTS, "PROTOBUF", [reference])


def test_a_message_is_read_by_the_text_of_its_files(stub: StubRegistry, schemas: Schemas, pool: Any) -> None:
    number = register_texts(stub)
    # A list of one place: the second message of the file.
    record = Record(0, frame(number, b"\x02\x02" + message(pool).SerializeToString()))
    assert content(schemas, record) == EVENT
    decoder = Decoder("flat", Money("USD"), bytes_max=65_536, future_skew_s=300, content_of=schemas.content)
    decoded = decoder.decode([record], NOW)
    assert decoded.batch.users == ["ann"]
    assert decoded.batch.rows["value"].tolist() == [2_500]


@pytest.mark.parametrize("in_header", [False, True])
@pytest.mark.parametrize("name", ["shop.Event", "shop.Unused", "shop.Unused.Inner", "shop.Event.Line"])
def test_each_message_that_confluents_serializer_writes_is_read(
    producer: SchemaRegistryClient, schemas: Schemas, pool: Any, name: str, in_header: bool
) -> None:
    fields: dict[str, Any] = {"shop.Event": EVENT, "shop.Unused.Inner": {"a": "b"}, "shop.Event.Line": {"item_id": "x"}}
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    written = json_format.ParseDict(fields.get(name, {}), kind())
    conf: dict[str, Any] = {"use.deprecated.format": False}
    if in_header:
        conf["schema.id.serializer"] = header_schema_id_serializer
    headers: list[tuple[str, bytes]] = []
    context = SerializationContext(TOPIC, MessageField.VALUE, headers)
    value = ProtobufSerializer(kind, producer, conf)(written, context)
    assert content(schemas, Record(0, value, headers)) == fields.get(name, {})


def test_a_compiled_schema_may_import_protobufs_own_files(stub: StubRegistry, schemas: Schemas, pool: Any) -> None:
    files = {}
    for name in ("money.proto", "events.proto"):
        file = descriptor_pb2.FileDescriptorProto()
        pool.FindFileByName(name).CopyToProto(file)
        files[name] = b64encode(file.SerializeToString()).decode()
    stub.add("money", files["money.proto"], "PROTOBUF")
    reference = {"name": "money.proto", "subject": "money", "version": 1}
    number = stub.add("events-value", files["events.proto"], "PROTOBUF", [reference])
    assert content(schemas, Record(0, frame(number, b"\x02\x02" + message(pool).SerializeToString()))) == EVENT


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('syntax = "proto3"; message A { nonsense a = 1; }', '"nonsense" is not defined'),
        ('syntax = "proto3"; import "gone.proto"; message A {}', "gone.proto: File not found"),
        ("", "no message at"),
        (b64encode(b"\x0a\x03a.p").decode(), "no message at"),
        (b64encode(b"\x0a\x03a.p\x1a\x07b.proto").decode(), "cannot be used"),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_a_dead_letter_with_the_compilers_words(
    stub: StubRegistry, schemas: Schemas, text: str, found: str
) -> None:
    record = Record(0, frame(stub.add("events-value", text, "PROTOBUF"), b"\0\0"))
    schemas.fetch_now([record])
    decoder = Decoder("flat", Money("USD"), bytes_max=65_536, future_skew_s=300, content_of=schemas.content)
    (dead,) = decoder.decode([record], NOW).dead
    assert dead.reason in ("schema_id", "schema_value")
    assert found in dead.message


def test_an_import_cannot_name_a_file_outside_of_its_folder(stub: StubRegistry, schemas: Schemas) -> None:
    stub.add("evil", MONEY, "PROTOBUF")
    reference = {"name": "../../evil.proto", "subject": "evil", "version": 1}
    number = stub.add("events-value", EVENTS, "PROTOBUF", [reference])
    record = Record(0, frame(number, b"\0"))
    schemas.fetch_now([record])
    assert "no name of a file" in schemas._entries[number].problem


@pytest.mark.parametrize(
    "damaged", [b"", b"\x80", b"\x02\x10", b"\x01", b"\xff" * 20, b"\x00\x0a\xff", b"\x02\x02\x0a\x05ab"]
)
def test_a_damaged_message_is_a_dead_letter(stub: StubRegistry, schemas: Schemas, damaged: bytes) -> None:
    record = Record(0, frame(register_texts(stub), damaged))
    schemas.fetch_now([record])
    decoder = Decoder("flat", Money("USD"), bytes_max=65_536, future_skew_s=300, content_of=schemas.content)
    (dead,) = decoder.decode([record], NOW).dead
    assert dead.reason == "schema_value"


def test_a_compiler_that_takes_too_long_is_stopped(
    stub: StubRegistry, schemas: Schemas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(protobuf_module, "_COMPILE_TIMEOUT_S", 0.2)
    number = stub.add("events-value", MONEY, "PROTOBUF")
    schemas.fetch_now([Record(0, frame(number, b"\0"))])
    assert "to compile" in schemas._entries[number].problem
