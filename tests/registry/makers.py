"""Makers for the tests of the registry: schemas of our envelopes, and values by confluent-kafka's serializers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

TOPIC = "events"
OPTIONAL_TEXT = ["null", "string"]


@dataclass
class Record:
    """A consumer record, as far as decoding reads it."""

    offset: int
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def record_schema(name: str, **fields: Any) -> dict[str, Any]:
    """An Avro record. A field that may be null has that as its default."""
    described = [
        {"name": key, "type": kind, **({"default": None} if isinstance(kind, list) else {})}
        for key, kind in fields.items()
    ]
    return {"type": "record", "name": name, "fields": described}


FLAT = record_schema(
    "Flat",
    type="string",
    user_id=OPTIONAL_TEXT,
    ts="string",
    event_id=OPTIONAL_TEXT,
    order_id=OPTIONAL_TEXT,
    category=OPTIONAL_TEXT,
    item_id=OPTIONAL_TEXT,
    price=["null", "double"],
    quantity=["null", "long"],
    currency=OPTIONAL_TEXT,
    text=OPTIONAL_TEXT,
)
_PRODUCT: dict[str, Any] = {
    "product_id": OPTIONAL_TEXT,
    "sku": OPTIONAL_TEXT,
    "category": OPTIONAL_TEXT,
    "price": ["null", "double"],
    "quantity": ["null", "long"],
}
SEGMENT = record_schema(
    "Segment",
    type="string",
    event=OPTIONAL_TEXT,
    messageId=OPTIONAL_TEXT,
    userId=OPTIONAL_TEXT,
    anonymousId=OPTIONAL_TEXT,
    timestamp="string",
    properties=[
        "null",
        record_schema(
            "Properties",
            **_PRODUCT,
            currency=OPTIONAL_TEXT,
            order_id=OPTIONAL_TEXT,
            total=["null", "double"],
            review_body=OPTIONAL_TEXT,
            products=["null", {"type": "array", "items": record_schema("Product", **_PRODUCT)}],
        ),
    ],
)
SCHEMAS = {"flat": FLAT, "segment": SEGMENT}


def avro(
    producer: SchemaRegistryClient, schema: Any, event: Any, *, offset: int = 0, in_header: bool = False
) -> Record:
    """A record that confluent-kafka's Avro serializer has written, with the id in the value or in a header."""
    conf = {"schema.id.serializer": header_schema_id_serializer} if in_header else {}
    return _record(AvroSerializer(producer, json.dumps(schema), conf=conf), event, offset)


def json_schema(producer: SchemaRegistryClient, event: Any, *, offset: int = 0) -> Record:
    """A record that confluent-kafka's JSON Schema serializer has written."""
    schema = {"title": "Event", "type": "object"}
    return _record(JSONSerializer(json.dumps(schema), producer), event, offset)


def _record(serializer: Any, event: Any, offset: int = 0) -> Record:
    headers: list[tuple[str, bytes]] = []
    context = SerializationContext(TOPIC, MessageField.VALUE, headers)
    return Record(offset, serializer(event, context), headers)
