"""Repair: turns the JSON object of an event that does not fit its envelope's shape into one that does.

Each envelope preset has a function here. It reads who, when and what strictly, and everything else as far as it can be
read. Amounts that cannot be read stay in the event: only an order needs them, and is refused for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from stream.decode.envelopes import SEGMENT_CALLS, Flat, Product, Properties, Segment
from stream.decode.placeholders import Unreadable, is_no_amount, shown
from stream.decode.times import seconds_of
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["REPAIRS"]

_Json = Mapping[str, Any]


def _segment(event: _Json, reader: Reader) -> Segment:
    """A call of the Segment specification. Raises EventError if nobody, nothing or no moment is named."""
    kind = event.get("type")
    if is_no_amount(kind) and event.get("event"):
        kind = "track"
    if not isinstance(kind, str) or not kind.strip():
        raise EventError("schema", f"type is {_found(kind)}, expected track, page or screen; see --envelope")
    if kind.strip().lower() not in SEGMENT_CALLS:
        return Segment(type=kind)
    name = event.get("event")
    if name is not None and not isinstance(name, str):
        raise EventError("schema", f"event is {shown(name)}, expected the name of the event; mend the sender")
    ids = [event.get(key) for key in ("userId", "anonymousId", "user_id", "anonymous_id")]
    return Segment(
        type=kind,
        event=name,
        messageId=reader.identifier("event_id", event.get("messageId")),
        userId=reader.somebody(ids),
        timestamp=_segment_time(event, reader),
        properties=_properties(reader.an_object("properties", event.get("properties")), reader),
    )


def _segment_time(event: _Json, reader: Reader) -> int:
    """The time of an event. Without ``timestamp`` it follows from the three others, as Segment's specification says.

    The clock of the sender's device may be wrong; the difference of ``sentAt`` and ``receivedAt`` tells by how much.
    """
    given, original = event.get("timestamp"), event.get("originalTimestamp")
    sent, received = event.get("sentAt"), event.get("receivedAt")
    if not is_no_amount(given):
        return reader.seconds(given)
    if is_no_amount(original):
        return reader.seconds(received if is_no_amount(sent) else sent)
    sent_s, received_s = seconds_of(sent, reader.zone), seconds_of(received, reader.zone)
    skew = 0 if sent_s is None or received_s is None else received_s - sent_s
    return reader.seconds(reader.seconds(original) + skew)


def _properties(properties: _Json | Unreadable, reader: Reader) -> Properties:
    if isinstance(properties, Unreadable):
        return Properties(total=properties)  # type: ignore[arg-type]  # an order is refused for it
    totals = {key: _amount(reader, "price", properties.get(key)) for key in ("total", "revenue", "value")}
    named = (currency for _, currency in totals.values() if currency)
    lines = reader.objects("products", properties.get("products"))
    return Properties(
        **_product(properties, reader),
        currency=reader.currency(properties.get("currency")) or next(named, None),
        order_id=reader.identifier("order_id", properties.get("order_id")),
        **{key: amount for key, (amount, _) in totals.items()},
        products=[
            Product(price=line) if isinstance(line, Unreadable) else Product(**_product(line, reader))  # type: ignore[arg-type]
            for line in lines
        ],
        review_body=_text(properties.get("review_body"), reader),
    )


def _product(product: _Json, reader: Reader) -> dict[str, Any]:
    return {
        "product_id": reader.name("item", product.get("product_id")),
        "sku": reader.name("item", product.get("sku")),
        "category": reader.name("category", product.get("category")),
        "price": _amount(reader, "price", product.get("price"))[0],
        "quantity": reader.amount("quantity", product.get("quantity")),
    }


def _flat(event: _Json, reader: Reader) -> Flat:
    """A flat event. Raises EventError if nobody, nothing or no moment is named."""
    kind = event.get("type")
    if not isinstance(kind, str):
        raise EventError("schema", f"type is {_found(kind)}, expected the name of the event; see --envelope")
    price, currency = _amount(reader, "price", event.get("price"))
    return Flat(
        type=kind,
        user_id=reader.somebody([event.get("user_id")]),
        ts=reader.seconds(event.get("ts")),
        event_id=reader.identifier("event_id", event.get("event_id")),
        order_id=reader.identifier("order_id", event.get("order_id")),
        category=reader.name("category", event.get("category")),
        item_id=reader.name("item", event.get("item_id")),
        price=price,
        quantity=reader.amount("quantity", event.get("quantity")),
        currency=reader.currency(event.get("currency")) or currency,
        text=_text(event.get("text"), reader),
    )


def _amount(reader: Reader, key: str, value: Any) -> tuple[Any, Any]:
    """An amount, and its currency where the two come as one object: ``{"amount": "12.00", "currency": "USD"}``."""
    if isinstance(value, dict):
        # Shopify wraps it once more, beside the same amount in the buyer's currency.
        inner = value.get("shop_money", value)
        if isinstance(inner, dict):
            name = next((name for name in ("amount", "value", "total") if name in inner), None)
            if name is not None:
                code = inner.get("currency") or inner.get("currency_code")
                return reader.amount(key, inner[name]), reader.currency(code)
    return reader.amount(key, value), None


def _text(text: Any, reader: Reader) -> msgspec.Raw:
    if isinstance(text, str):
        return msgspec.Raw(msgspec.json.encode(text))
    if text is not None and text is not False:
        reader.noted.add("text")
    return msgspec.Raw()


def _found(value: Any) -> str:
    return "missing" if value is None else shown(value)


#: Envelope preset → what makes a fitting event of a JSON object.
REPAIRS: Final[dict[str, Callable[[_Json, Reader], Any]]] = {"segment": _segment, "flat": _flat}
