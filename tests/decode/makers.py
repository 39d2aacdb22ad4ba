"""Makers of events for every envelope preset, and broken records, for the tests of decode."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream.decode.decoder import Decoded, Decoder, Money

NOW = 1_735_689_600.0
TIME = 1_735_600_000
ISO = "2024-12-30T23:06:40Z"
BYTES_MAX = 65_536
SKEW_S = 300.0
#: The closed set of reasons: each is a value of a metric label.
REASONS = {
    *("null", "oversized", "malformed", "schema", "too_deep", "confluent", "schema_id", "schema_value"),
    *("user", "timestamp", "future", "currency", "value", "amount"),
}


@dataclass
class Record:
    """A consumer record, as far as decoding reads it."""

    offset: int
    value: bytes | None


#: Makes an event from fields that have the same names in every preset, such as ``user`` and ``amount``.
Make = Callable[..., dict[str, Any]]


def segment(**fields: Any) -> dict[str, Any]:
    outside = {"user": "userId", "time": "timestamp", "event_id": "messageId"}
    inside = {"item": "product_id", "amount": "total", "text": "review_body"}
    names = {
        "view": "Product Viewed",
        "purchase": "Order Completed",
        "refund": "Order Refunded",
        "cart": "Product Added",
        "review": "Product Reviewed",
    }
    kind = fields.pop("kind", "view")
    event: dict[str, Any] = {"type": "track", "event": names.get(kind, kind), "properties": {}}
    for field, value in {"user": "u", "time": ISO, "event_id": "e", **fields}.items():
        if field in outside:
            event[outside[field]] = value
        else:
            event["properties"][inside.get(field, field)] = value
    return event


def flat(**fields: Any) -> dict[str, Any]:
    names = {"user": "user_id", "time": "ts", "item": "item_id", "amount": "price"}
    event = {"type": fields.pop("kind", "view")}
    fields = {"user": "u", "time": ISO, "event_id": "e", **fields}
    return event | {names.get(field, field): value for field, value in fields.items()}


def posthog(**fields: Any) -> dict[str, Any]:
    call = segment(**{"event_id": "e", **fields})
    outside = {"userId": "distinct_id", "messageId": "uuid"}
    return {outside.get(key, key): value for key, value in call.items() if key != "type"}


def cloudevents(**fields: Any) -> dict[str, Any]:
    names = {"time": "time", "event_id": "id"}
    inside = {"user": "user_id", "item": "item_id", "amount": "total"}
    event: dict[str, Any] = {"specversion": "1.0", "source": "/shop", "type": f"shop.{fields.pop('kind', 'view')}"}
    data: dict[str, Any] = {}
    for field, value in {"user": "u", "time": ISO, "event_id": "e", **fields}.items():
        if field in names:
            event[names[field]] = value
        else:
            data[inside.get(field, field)] = value
    return {**event, "data": data}


#: Field → its path in the envelope of ``shop.toml``.
_SHOP_PATHS = {
    **{"user": "who.customer", "time": "at", "event_id": "meta.uuid", "item": "what.sku", "text": "what.opinion"},
    **{"category": "what.group.name", "quantity": "what.pieces", "order_id": "sale.number", "amount": "sale.sum"},
    **{"currency": "sale.currency", "products": "sale.positions"},
}
_SHOP_NAMES = {"view": "Seen", "purchase": "Sold", "refund": "Given Back", "cart": "In Basket", "review": "Rated"}


def shop(**fields: Any) -> dict[str, Any]:
    kind = fields.pop("kind", "view")
    event: dict[str, Any] = {"meta": {"kind": _SHOP_NAMES.get(kind, kind)}}
    for field, value in {"user": "u", "time": ISO, "event_id": "e", **fields}.items():
        *way, last = _SHOP_PATHS.get(field, field).split(".")
        inner = event
        for part in way:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return event


#: The two presets that all tests of decode run on: one that is written by hand, one that is a mapping.
MAKERS: dict[str, Make] = {"segment": segment, "flat": flat}
#: All envelopes whose events are of all types. A new one is added here.
ALL_MAKERS: dict[str, Make] = {
    **MAKERS,
    **{"rudderstack": segment, "posthog": posthog, "cloudevents": cloudevents, "shop": shop},
}


def envelope(name: str) -> str:
    """The value of ``--envelope`` for a name: that of a preset, or ``shop`` for the mapping of these tests."""
    return str(Path(__file__).parent / "shop.toml") if name == "shop" else name


def decoder(preset: str, rates: dict[str, float] | None = None) -> Decoder:
    return Decoder(envelope(preset), Money("USD", rates or {}), bytes_max=BYTES_MAX, future_skew_s=SKEW_S)


def decode(preset: str, *values: Any, rates: dict[str, float] | None = None) -> Decoded:
    """Decode values at offsets 100, 101, … Values that are neither bytes nor None are written as JSON."""
    raw = [v if isinstance(v, bytes | None) else json.dumps(v).encode() for v in values]
    return decoder(preset, rates).decode([Record(100 + i, v) for i, v in enumerate(raw)], NOW)


def row(preset: str, value: Any, **kwargs: Any) -> Any:
    """The row of one good value."""
    out = decode(preset, value, **kwargs)
    assert [d.message for d in out.dead] == []
    assert len(out.batch) == len(out.batch.rows) == 1
    return out.batch.rows[0]


def reason(preset: str, value: Any) -> str:
    """The reason for which one bad value is a dead letter."""
    out = decode(preset, value)
    assert (len(out.dead), len(out.batch)) == (1, 0), out.batch.rows
    return out.dead[0].reason


def short(value: Any) -> str:
    """The beginning of a parameter, as a name for the test."""
    return f"{value!r:.24}"


DEEP = b"[" * 30_000 + b"]" * 30_000
#: Kind of broken record → its value, the reason of its dead letter, and what the message must say.
BROKEN: dict[str, tuple[bytes | None, str, str]] = {
    "null": (None, "null", "value is null, expected a JSON object"),
    "empty": (b"", "malformed", "expected one JSON object; check the producer's serializer"),
    "blank": (b"  \n", "malformed", "expected one JSON object"),
    "oversized": (b'{"x":"' + b"x" * BYTES_MAX + b'"}', "oversized", "expected at most 65536; see --event-bytes-max"),
    "too deep": (b'{"x":' + DEEP + b"}", "too_deep", "nested too deeply to read, expected a flat event"),
    "deep array": (DEEP, "too_deep", "nested too deeply to read, expected a flat event"),
    "not JSON": (b"user=u&type=view", "malformed", "value is not JSON"),
    "NaN": (b'{"type":"view","price":NaN}', "malformed", "value is not JSON"),
    "Infinity": (b'{"type":"view","ts":-Infinity,"timestamp":-Infinity}', "malformed", "value is not JSON"),
    "two objects": (b'{"type":"view"}{}', "malformed", "value is not JSON"),
    "byte order mark": (b'\xef\xbb\xbf{"type":"view"', "malformed", "value is not JSON"),
    "not UTF-8": (b'{"type":"\xff\xfe"}', "malformed", "value is not JSON"),
    "UTF-16": ('{"type":"view"}'.encode("utf-16"), "malformed", "value is not JSON"),
    "lone surrogate": (rb'{"type":"\ud800"}', "malformed", "value is not JSON"),
    "surrogate bytes": (b'{"type":"\xed\xa0\x80"}', "malformed", "value is not JSON"),
    "Confluent": (b"\0\0\0\0\1\x06ann", "confluent", "no schema registry is configured, so set --schema-registry-url"),
    "array": (b"[]", "malformed", "value holds no event, expected one JSON object"),
    "text": (b'"view"', "malformed", "value is not JSON"),
    "JSON null": (b"null", "malformed", "value holds None, expected one JSON object"),
    "empty object": (b"{}", "schema", "type is missing, expected"),
    "nobody": (b'{"type":"page"}', "user", "user id is missing, expected a string"),
    "number too long": (b'{"type":1e999}', "schema", "type is inf, expected"),
    "integer too long": (b'{"type":' + b"9" * 5_000 + b"}", "schema", "type is inf, expected"),
}
