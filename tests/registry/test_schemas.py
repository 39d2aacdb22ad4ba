"""Tests of reading by schemas: what confluent-kafka's serializers write comes out as the JSON of the same event."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import uuid
from base64 import b64encode
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_export.data.event_log import DataConfig, decoder_of, read_log
from stream.clock import ManualClock
from stream.decode.decoder import Decoder, Money
from stream.errors import RegistryError, ValuestreamError
from stream.registry import schemas as schemas_module
from stream.registry.schemas import Schemas
from stream.registry.wire_format import frame
from tests.registry.makers import FLAT, SCHEMAS, SEGMENT, Record, avro, json_schema, record_schema
from tests.registry.stub import StubRegistry

NOW = 1_735_689_600.0
TIME = dt.datetime(2024, 12, 30, 23, 6, 40, tzinfo=dt.UTC)
ISO = "2024-12-30T23:06:40Z"
ORDER = {"type": "purchase", "user_id": "ann", "ts": ISO, "event_id": "e1", "order_id": "o1", "price": 12.5}


def content(schemas: Schemas, record: Record) -> Any:
    schemas.fetch_now([record])
    return schemas.content(record)


def decoder(schemas: Schemas | None, preset: str = "flat") -> Decoder:
    return Decoder(
        preset,
        Money("USD"),
        bytes_max=65_536,
        future_skew_s=300,
        content_of=schemas.content if schemas else None,
    )


def problem(schemas: Schemas, record: Record) -> tuple[str, str]:
    """Reason and message of the dead letter that a record becomes."""
    schemas.fetch_now([record])
    (dead,) = decoder(schemas).decode([record], NOW).dead
    return dead.reason, dead.message


# Avro ----------------------------------------------------------------------------------------------------


TEXT = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
AMOUNT = st.none() | st.floats(-1e6, 1e6).map(lambda amount: round(amount, 2))
PRODUCT = st.fixed_dictionaries(
    {"product_id": TEXT, "sku": TEXT, "category": TEXT, "price": AMOUNT, "quantity": st.none() | st.integers(1, 9)}
)
TIMES = st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2024, 12, 30)).map(lambda at: at.isoformat() + "Z")
EVENTS = {
    "flat": st.fixed_dictionaries(
        {
            "type": st.sampled_from(["view", "purchase", "refund", "cart", "review"]),
            "user_id": TEXT,
            "ts": TIMES,
            "event_id": TEXT,
            "order_id": TEXT,
            "category": TEXT,
            "item_id": TEXT,
            "price": AMOUNT,
            "quantity": st.none() | st.integers(1, 9),
            "currency": st.sampled_from([None, "USD", "XXX"]),
            "text": TEXT,
        }
    ),
    "segment": st.fixed_dictionaries(
        {
            "type": st.sampled_from(["track", "page", "identify"]),
            "event": st.sampled_from(["Product Viewed", "Order Completed", "Order Refunded", "Product Reviewed"]),
            "messageId": TEXT,
            "userId": TEXT,
            "anonymousId": TEXT,
            "timestamp": TIMES,
            "properties": st.none()
            | st.builds(
                lambda product, more: product | more,
                PRODUCT,
                st.fixed_dictionaries(
                    {
                        "currency": st.sampled_from([None, "USD", "XXX"]),
                        "order_id": TEXT,
                        "total": AMOUNT,
                        "review_body": TEXT,
                        "products": st.none() | st.lists(PRODUCT, max_size=2),
                    }
                ),
            ),
        }
    ),
}


@pytest.mark.parametrize("preset", SCHEMAS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_an_event_in_avro_is_the_same_row_as_its_json(
    preset: str, data: st.DataObject, producer: SchemaRegistryClient, schemas: Schemas
) -> None:
    event = data.draw(EVENTS[preset])
    in_avro = avro(producer, SCHEMAS[preset], event, offset=3, in_header=data.draw(st.booleans()))
    schemas.fetch_now([in_avro])
    in_json = Record(3, json.dumps(event).encode())
    found, expected = (decoder(schemas, preset).decode([record], NOW) for record in (in_avro, in_json))
    assert found.batch.users == expected.batch.users
    assert found.batch.rows.tobytes() == expected.batch.rows.tobytes()
    assert found.reviews == expected.reviews
    assert found.n_ignored == expected.n_ignored
    assert [(d.reason, d.message) for d in found.dead] == [(d.reason, d.message) for d in expected.dead]


def test_what_json_has_no_type_for_becomes_what_its_path_reads(
    producer: SchemaRegistryClient, schemas: Schemas
) -> None:
    kinds: dict[str, tuple[Any, Any, Any]] = {
        "cents": (
            {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3},
            decimal.Decimal("1.234"),
            1.234,
        ),
        "whole": ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 0}, decimal.Decimal(7), 7),
        "millis": ({"type": "long", "logicalType": "timestamp-millis"}, TIME, TIME),
        "micros": ({"type": "long", "logicalType": "timestamp-micros"}, TIME, TIME),
        "id": ({"type": "string", "logicalType": "uuid"}, uuid.UUID(int=7), str(uuid.UUID(int=7))),
        "day": ({"type": "int", "logicalType": "date"}, TIME.date(), "2024-12-30"),
        "hour": ({"type": "int", "logicalType": "time-millis"}, dt.time(9, 30), "09:30:00"),
        "kind": ({"type": "enum", "name": "Kind", "symbols": ["VIEW", "CART"]}, "CART", "CART"),
        "text": ("bytes", b"gr\xc3\xbcn", "grün"),
        "binary": ("bytes", b"\xff\0", b64encode(b"\xff\0").decode()),
        "fixed": ({"type": "fixed", "name": "Two", "size": 2}, b"ab", "ab"),
        "nothing": (["null", "string"], None, None),
        "either": (["null", "long", "string"], 5, 5),
        "tags": ({"type": "map", "values": "long"}, {"a": 1}, {"a": 1}),
        "many": ({"type": "array", "items": "bytes"}, [b"a"], ["a"]),
    }
    schema = record_schema("All", **{name: kind for name, (kind, _, _) in kinds.items()})
    record = avro(producer, schema, {name: given for name, (_, given, _) in kinds.items()})
    assert content(schemas, record) == {name: expected for name, (_, _, expected) in kinds.items()}


def test_logical_types_are_read_as_time_and_money(producer: SchemaRegistryClient, schemas: Schemas) -> None:
    typed = record_schema(
        "Typed",
        type={"type": "enum", "name": "Kind", "symbols": ["purchase"]},
        user_id={"type": "string", "logicalType": "uuid"},
        ts={"type": "long", "logicalType": "timestamp-micros"},
        price={"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3},
    )
    user = uuid.UUID(int=7)
    event = {"type": "purchase", "user_id": user, "ts": TIME, "price": decimal.Decimal("1.234")}
    record = avro(producer, typed, event)
    schemas.fetch_now([record])
    decoded = decoder(schemas).decode([record], NOW)
    assert decoded.batch.users == [str(user)]
    (row,) = decoded.batch.rows.tolist()
    assert (row[2], row[3]) == (int(TIME.timestamp()), 123)


def test_a_list_and_json_in_avro_are_unwrapped_as_in_json(producer: SchemaRegistryClient, schemas: Schemas) -> None:
    events = [{**ORDER, "order_id": f"o{i}"} for i in range(2)]
    batch = avro(producer, record_schema("Batch", batch={"type": "array", "items": FLAT}), {"batch": events})
    text = avro(producer, "string", json.dumps(events), offset=1)
    schemas.fetch_now([batch, text])
    assert decoder(schemas).decode([batch, text], NOW).batch.users == ["ann"] * 4


def test_training_reads_the_same_events_as_the_worker(producer: SchemaRegistryClient, schemas: Schemas) -> None:
    values = [avro(producer, FLAT, {**ORDER, "order_id": f"o{i}"}).value or b"" for i in range(3)]
    log = read_log(
        values,
        decoder_of(DataConfig(source="f.jsonl", envelope="flat", currency="USD"), schemas),
        events_max=10,
        schemas=schemas,
    )
    assert (log.names, log.rows["value"].tolist()) == (["ann"], [1_250] * 3)


def test_an_avro_schema_may_refer_to_others(stub: StubRegistry, schemas: Schemas) -> None:
    stub.add("money", json.dumps(record_schema("Money", price="double")))
    outer = record_schema("Outer", type="string", paid="Money")
    reference = {"name": "Money", "subject": "money", "version": 1}
    number = stub.add("events-value", json.dumps(outer), references=[reference])
    inlined = record_schema("Outer", type="string", paid=record_schema("Money", price="double"))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, inlined, {"type": "view", "paid": {"price": 2.5}})
    record = Record(0, frame(number, out.getvalue()))
    assert content(schemas, record) == {"type": "view", "paid": {"price": 2.5}}


#: Nine nulls in each of nine records, which take no bytes at all.
LAUGHING = record_schema(
    "A", k=record_schema("B", **dict.fromkeys("bcdefghij", "null")), **dict.fromkeys("lmnopqrs", "B")
)
#: Each record holds the one before, although the schema itself is flat.
CHAIN = ["int", *(record_schema(f"R{i}", a=f"R{i - 1}" if i else "int") for i in range(400))]


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (record_schema("N", next=["null", "N"]), "N may hold another N"),
        ({"type": "array", "items": "null"}, "any number of values that take no bytes"),
        ({"type": "array", "items": record_schema("E")}, "any number of values that take no bytes"),
        ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, "values that take no bytes"),
        (LAUGHING, "A has 91 values that take no bytes"),
        (CHAIN, "is nested more than 100 deep"),
        ({"type": "enum", "name": "E"}, "cannot be used"),
        ({"type": "nonsense"}, "cannot be used"),
        (17, "cannot be used"),
        (["null", {"type": "map", "values": {"type": "array", "items": "null"}}], "take no bytes"),
    ],
)
def test_a_schema_whose_values_have_no_bound_or_that_is_none_is_refused(
    stub: StubRegistry, schemas: Schemas, schema: Any, found: str
) -> None:
    number = stub.add("events-value", json.dumps(schema))
    reason, message = problem(schemas, Record(0, frame(number, b"\x02" * 20_000)))
    assert reason == "schema_id"
    assert found in message


def test_a_schema_nested_as_deep_as_json_can_be_is_read_or_refused(stub: StubRegistry, schemas: Schemas) -> None:
    for depth in (50, 400, 900, 3_000, 50_000):
        text = '{"type": "array", "items": ' * depth + '"int"' + "}" * depth
        record = Record(0, frame(stub.add("events-value", text), b"\x02" * 20_000))
        reason, _ = problem(schemas, record)
        assert reason == ("schema_id" if depth > 300 else "schema_value")


@pytest.mark.parametrize(
    "damage", [lambda v: v[:-3], lambda v: v + b"\0", lambda v: v[:5], lambda v: v[:5] + b"\xff" * 9]
)
def test_a_value_that_does_not_fit_its_schema_is_a_dead_letter(
    damage: Any, producer: SchemaRegistryClient, schemas: Schemas
) -> None:
    whole = avro(producer, FLAT, ORDER)
    reason, message = problem(schemas, Record(0, damage(whole.value)))
    assert reason == "schema_value"
    assert "value does not fit its schema 1" in message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(junk=st.binary(max_size=60))
def test_any_bytes_behind_a_schema_id_are_an_event_or_a_dead_letter(
    junk: bytes, stub: StubRegistry, schemas: Schemas
) -> None:
    number = stub.add("events-value", json.dumps(SEGMENT))
    record = Record(0, frame(number, junk))
    schemas.fetch_now([record])
    decoded = decoder(schemas, "segment").decode([record], NOW)
    assert len(decoded.records) + len(decoded.dead) + decoded.n_ignored == 1


# JSON Schema and Protobuf --------------------------------------------------------------------------------


def test_json_behind_the_id_of_a_json_schema_is_read(producer: SchemaRegistryClient, schemas: Schemas) -> None:
    record = json_schema(producer, ORDER)
    schemas.fetch_now([record])
    assert decoder(schemas).decode([record], NOW).batch.users == ["ann"]


# The cache -----------------------------------------------------------------------------------------------


def test_a_schema_is_asked_for_once(stub: StubRegistry, producer: SchemaRegistryClient, schemas: Schemas) -> None:
    records = [avro(producer, FLAT, ORDER, offset=i) for i in range(3)]
    for _ in range(2):
        schemas.fetch_now(records)
    assert stub.requests.count("GET /schemas/ids/1") == 1
    assert schemas.missing(records) == set()


def test_a_schema_that_was_not_there_is_asked_for_again_later(
    stub: StubRegistry, schemas: Schemas, clock: ManualClock
) -> None:
    record = Record(0, frame(1, b"\x04hi"))
    assert problem(schemas, record)[0] == "schema_id"
    stub.add("events-value", '"string"')
    assert problem(schemas, record)[0] == "schema_id"
    clock.advance(seconds=11)
    assert content(schemas, record) == "hi"


def test_the_number_of_schemas_is_bounded_and_those_in_need_stay(
    stub: StubRegistry, schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas_module, "_SCHEMAS_MAX", 3)
    stub.add("events-value", '"string"')
    first = Record(0, frame(1, b"\x04hi"))
    schemas.fetch_now([first])
    for start in range(2, 20, 2):
        schemas.fetch_now([first, Record(1, frame(start, b"")), Record(2, frame(start + 1, b""))])
        assert len(schemas._entries) == 3
        assert schemas.content(first) == "hi"


async def test_what_the_registry_gave_before_it_went_down_is_kept(stub: StubRegistry, schemas: Schemas) -> None:
    stub.add("events-value", '"string"')
    record = Record(0, frame(1, b"\x04hi"))
    await schemas.fetch([record])
    stub.down()
    with pytest.raises(RegistryError):
        await schemas.fetch([record, Record(1, frame(2, b""))])
    assert schemas.content(record) == "hi"


def test_a_schema_that_nobody_fetched_is_our_bug_and_no_dead_letter(schemas: Schemas) -> None:
    with pytest.raises(ValuestreamError, match="This is a bug"):
        decoder(schemas).decode([Record(0, frame(1, b"\x04hi"))], NOW)


def test_records_in_no_wire_format_need_no_registry(stub: StubRegistry, schemas: Schemas) -> None:
    records = [Record(0, None), Record(1, b""), Record(2, b"\0\0"), Record(3, json.dumps(ORDER).encode())]
    assert schemas.missing(records) == set()
    assert decoder(schemas).decode(records, NOW).batch.users == ["ann"]
    assert stub.requests == []
