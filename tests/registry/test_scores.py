"""Tests of scores in Avro: their schema says what the JSON Schema says, and both formats are read as the same score."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import jsonschema
import msgspec
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

import stream.contract.score
from stream.clock import ManualClock
from stream.contract.score import (
    Alert,
    Churn,
    LifetimeValue,
    ModelRef,
    NextCategory,
    Purchase,
    Reason,
    Score,
    json_schema,
)
from stream.contract.score_avro import avro_schema
from stream.errors import ConfigError
from stream.registry.client import Registry
from stream.registry.schemas import Schemas
from stream.registry.scores import avro_encoder, read_json, read_record
from stream.registry.wire_format import frame
from stream.score.decide import encode_json
from tests.registry.makers import Record
from tests.registry.stub import StubRegistry

FULL = Score(
    score_id="s",
    user_id="ann",
    as_of="2026-11-01T00:00:00Z",
    model=ModelRef("demo", "1", "ab"),
    n_events=3,
    data_sufficiency="ok",
    churn=Churn(0.5, "medium", 30.0, 50.0, (0.4, 0.6)),
    purchase=[Purchase(0.1, 7.0), Purchase(0.2, 30.0, 1.0, (0.1, 0.3))],
    ltv=LifetimeValue(3.5, 0.5, "USD", 30.0, 60.0, (0.0, 9.0)),
    applied_offset=17,
    expected_next_purchase="2026-12-01",
    next_category=[NextCategory("shoes", 0.5)],
)
BARE = msgspec.structs.replace(FULL, churn=Churn(0.5, "low", 30.0), expected_next_purchase=None, next_category=[])
ALERT = Alert(
    alert_id="s", rule="churn_high", previous_band=None, score=FULL, reasons=[Reason("silence", "no visit", 0.5)]
)
RECORDS = [FULL, BARE, ALERT, msgspec.structs.replace(ALERT, previous_band="low", reasons=[])]


def described(schema: Any, definitions: Any) -> Any:
    """A JSON Schema as the Avro schema must say it: names in order, and the kind of each."""
    if "$ref" in schema:
        return described(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return ["null", *(described(one, definitions) for one in schema["anyOf"] if one != {"type": "null"})]
    if "enum" in schema:
        return "string"
    if schema["type"] == "object":
        return {name: described(field, definitions) for name, field in schema["properties"].items()}
    if schema["type"] == "array":
        return [described((schema.get("prefixItems") or [schema["items"]])[0], definitions)]
    return {"integer": "long", "number": "double", "string": "string"}[schema["type"]]


def said(schema: Any, named: dict[str, Any]) -> Any:
    """An Avro schema in the same words."""
    if isinstance(schema, list):
        return [said(one, named) for one in schema]
    if isinstance(schema, str):
        return said(named[schema], named) if schema in named else schema
    if schema["type"] == "array":
        return [said(schema["items"], named)]
    named[f"valuestream.{schema['name']}"] = schema
    return {field["name"]: said(field["type"], named) for field in schema["fields"]}


@pytest.mark.parametrize(("name", "kind"), [("score", Score), ("alert", Alert)])
def test_the_avro_schema_says_what_the_json_schema_says(name: str, kind: type[Score] | type[Alert]) -> None:
    folder = Path(stream.contract.score.__file__).parent
    written = json.loads((folder / f"{name}.v1.schema.json").read_bytes())
    assert said(avro_schema(kind), {}) == described(written, written["$defs"])
    shipped = json.loads((folder / f"{name}.v1.avsc").read_bytes())
    assert shipped == avro_schema(kind), "run python -m stream.contract.score_avro"


def test_what_json_leaves_out_avro_has_a_default_for() -> None:
    optional = {
        name for name in Score.__struct_fields__ if name not in json_schema(Score)["$defs"]["Score"]["required"]
    }
    assert optional
    assert {f["name"] for f in avro_schema(Score)["fields"] if "default" in f} == optional | {"schema"}


@pytest.mark.parametrize("record", RECORDS)
async def test_a_score_comes_back_from_both_formats(stub: StubRegistry, schemas: Schemas, record: Any) -> None:
    encode = await avro_encoder(Registry([stub.url]), "scores", "alerts")
    in_avro, in_json = Record(0, encode(record)), Record(1, encode_json(record))
    await schemas.fetch([in_avro])
    assert read_record(in_avro, type(record), schemas) == read_record(in_json, type(record), None) == record
    assert json.loads(read_json(in_avro, schemas)) == json.loads(in_json.value or b"")
    jsonschema.validate(json.loads(read_json(in_avro, schemas)), json_schema(type(record)))


@pytest.mark.parametrize("record", RECORDS)
async def test_confluents_deserializer_reads_what_we_write(
    stub: StubRegistry, producer: SchemaRegistryClient, record: Any
) -> None:
    encode = await avro_encoder(Registry([stub.url]), "scores", "alerts")
    assert set(stub.subjects) == {"scores-value", "alerts-value"}
    found = AvroDeserializer(producer)(encode(record), SerializationContext("scores", MessageField.VALUE))
    assert found == json.loads(encode_json(record))


async def test_a_score_of_an_earlier_schema_is_read_by_the_schema_that_wrote_it(
    stub: StubRegistry, clock: ManualClock
) -> None:
    earlier = avro_schema(Score)
    earlier["fields"] = [field for field in earlier["fields"] if field["name"] != "next_category"]
    out = io.BytesIO()
    fastavro.schemaless_writer(out, earlier, msgspec.to_builtins(FULL), disable_tuple_notation=True)
    record = Record(0, frame(stub.add("scores-value", json.dumps(earlier)), out.getvalue()))
    schemas = Schemas(Registry([stub.url]), clock)
    await schemas.fetch([record])
    assert read_record(record, Score, schemas) == msgspec.structs.replace(FULL, next_category=[])


async def test_what_cannot_be_read_is_said_in_one_line(stub: StubRegistry, schemas: Schemas) -> None:
    record = Record(0, frame(99, b"abc"))
    with pytest.raises(ConfigError, match="set --schema-registry-url"):
        read_record(record, Score, None)
    await schemas.fetch([record])
    with pytest.raises(msgspec.ValidationError, match="schema 99 of the value cannot be had"):
        read_record(record, Score, schemas)
