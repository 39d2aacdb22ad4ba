"""Repair: turns the JSON object of an event that does not fit its envelope's shape into one that does.

Each envelope preset has a function here. It reads who and when strictly, and everything else as far as it can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import orjson

from stream.decode.envelopes import Flat, Product, Properties, Segment
from stream.decode.placeholders import text_of
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["REPAIRS"]

_Json = Mapping[str, Any]


def _segment(event: _Json, reader: Reader) -> Segment:
    """An event of the Segment specification. Raises EventError if nobody or no moment is named."""
    kind = text_of(event.get("type")) or ("track" if event.get("event") else "")
    if not kind:
        raise EventError("schema", "type is missing, expected track, page or screen; see --envelope")
    ids = [event.get(key) for key in ("userId", "user_id", "anonymousId", "anonymous_id")]
    return Segment(
        type=kind.lower(),
        event=text_of(event.get("event")),
        messageId=reader.identifier(event.get("messageId")),
        userId=_somebody(reader, ids),
        timestamp=_segment_time(event, reader),
        properties=_properties(reader.an_object("properties", event.get("properties")), reader),
    )


def _segment_time(event: _Json, reader: Reader) -> int:
    """The time of an event. Without ``timestamp`` it follows from the three others, as Segment's specification says.

    The clock of the sender's device may be wrong; the difference of ``sentAt`` and ``receivedAt`` tells by how much.
    """
    if (given := event.get("timestamp")) is not None or not (original := event.get("originalTimestamp")):
        return reader.seconds(event.get("sentAt") or event.get("receivedAt") if given is None else given)
    sent, received = event.get("sentAt"), event.get("receivedAt")
    skew = reader.seconds(received) - reader.seconds(sent) if sent and received else 0
    return reader.seconds(original) + skew


def _properties(properties: _Json, reader: Reader) -> Properties:
    totals = {key: _amount(reader, key, properties.get(key)) for key in ("total", "revenue", "value")}
    named = (total[1] for total in totals.values() if total[1])
    return Properties(
        **_product(properties, reader),
        currency=reader.currency(properties.get("currency")) or next(named, None),
        order_id=reader.identifier(properties.get("order_id")),
        total=totals["total"][0],
        revenue=totals["revenue"][0],
        value=totals["value"][0],
        products=[Product(**_product(line, reader)) for line in reader.objects("products", properties.get("products"))],
        review_body=_raw(properties.get("review_body")),
    )


def _product(product: _Json, reader: Reader) -> dict[str, Any]:
    return {
        "product_id": reader.name("item", product.get("product_id")),
        "sku": reader.name("item", product.get("sku")),
        "category": reader.name("category", product.get("category")),
        "price": _amount(reader, "price", product.get("price"))[0],
        "quantity": _amount(reader, "quantity", product.get("quantity"))[0],
    }


def _flat(event: _Json, reader: Reader) -> Flat:
    """A flat event. Raises EventError if nobody, nothing or no moment is named."""
    kind = text_of(event.get("type"))
    if not kind:
        raise EventError("schema", f"type is {event.get('type')!r:.40}, expected the name of the event; see --envelope")
    price, currency = _amount(reader, "price", event.get("price"))
    return Flat(
        type=kind,
        user_id=_somebody(reader, [event.get("user_id")]),
        ts=reader.seconds(event.get("ts")),
        event_id=reader.identifier(event.get("event_id")),
        order_id=reader.identifier(event.get("order_id")),
        category=reader.name("category", event.get("category")),
        item_id=reader.name("item", event.get("item_id")),
        price=price,
        quantity=_amount(reader, "quantity", event.get("quantity"))[0],
        currency=reader.currency(event.get("currency")) or currency,
        text=_raw(event.get("text")),
    )


def _somebody(reader: Reader, ids: list[Any]) -> str:
    user = reader.user(ids)
    if user is None:
        found = next((one for one in ids if one is not None), None)
        raise EventError(
            "user",
            "user id is missing, expected a string or a number"
            if found is None
            else f"user id is {found!r:.40}, which stands for nobody; expected an id; mend the sender",
        )
    return user


def _amount(reader: Reader, key: str, value: Any) -> tuple[Any, str | None]:
    """An amount, and its currency where the two come as one object: ``{"amount": "12.00", "currency": "USD"}``."""
    if isinstance(value, dict):
        # Shopify wraps it once more, beside the same amount in the buyer's currency.
        inner = value.get("shop_money", value)
        inner = inner if isinstance(inner, dict) else value
        amount = next((inner[name] for name in ("amount", "value", "total") if name in inner), None)
        amount = None if isinstance(amount, dict) else amount
        return reader.amount(key, amount), reader.currency(inner.get("currency") or inner.get("currency_code"))
    return reader.amount(key, value), None


def _raw(text: Any) -> msgspec.Raw:
    return msgspec.Raw(orjson.dumps(text)) if isinstance(text, str) else msgspec.Raw()


#: Envelope preset → what makes a fitting event of a JSON object.
REPAIRS: Final[dict[str, Callable[[_Json, Reader], Any]]] = {"segment": _segment, "flat": _flat}
