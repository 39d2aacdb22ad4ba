"""Segment: the calls of the Segment specification, which RudderStack sends as well."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stream.contract.events import SEGMENT_NAMES
from stream.decode.envelopes.envelope import Envelope, Event, Fields, Json, text_of_review
from stream.decode.envelopes.reading import amount_with_currency, found, review_text
from stream.decode.fields import Name, Time
from stream.decode.money import Amount, Order
from stream.decode.placeholders import Unreadable, is_no_amount, shown
from stream.decode.times import seconds_of
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["SEGMENT", "Product", "Properties", "Segment", "event_of", "order_in", "product_in", "properties_of"]

_NO_TEXT: Final = msgspec.Raw()


# gc=False: the shapes cannot refer to themselves, so the garbage collector need not visit them.


class Product(msgspec.Struct, frozen=True, gc=False):
    """A product of a Segment event, or a line of its order."""

    product_id: Name = None
    sku: Name = None
    category: Name = None
    price: Amount = None
    quantity: Amount = None


class Properties(Product, frozen=True, gc=False):
    """The properties of a Segment event. They describe a product themselves where there is no list."""

    currency: str | None = None
    order_id: Name = None
    total: Amount = None
    revenue: Amount = None
    value: Amount = None
    products: list[Product] | None = None
    review_body: msgspec.Raw = _NO_TEXT


class Segment(msgspec.Struct, frozen=True, gc=False):
    """A call of the Segment specification."""

    type: str
    event: str | None = None
    messageId: Name = None  # noqa: N815 - the names of the Segment spec
    userId: Name = None  # noqa: N815
    anonymousId: Name = None  # noqa: N815
    timestamp: Time = None
    properties: Properties | None = None


_NO_PROPERTIES: Final = Properties()
#: The calls that are events; the others are of no interest.
SEGMENT_CALLS: Final = ("track", "page", "screen")


def _fields(e: Segment) -> Fields | None:
    if e.type == "track" or (kind := e.type.strip().lower()) == "track":
        name = e.event or ""
    elif kind in SEGMENT_CALLS:
        name = "product list viewed"
    else:
        return None
    user = e.userId
    if user is None or user == "":
        user = e.anonymousId
    p = e.properties or _NO_PROPERTIES
    category, item = p.category, p.product_id
    if item is None:
        category, item = product_in(p)
    return name, user, e.timestamp, e.messageId, category, item


def product_in(p: Properties) -> tuple[Name, Name]:
    """Category and item of the product, or of the first one in the list."""
    if p.product_id is not None:
        return p.category, p.product_id
    lead: Product = p.products[0] if p.products else p
    category = p.category if lead.category is None else lead.category
    return category, lead.sku if lead.product_id is None else lead.product_id


def _order(e: Segment) -> Order:
    return order_in(e.properties or _NO_PROPERTIES)


def order_in(p: Properties) -> Order:
    """What the properties say about money."""
    return Order(p.order_id, (p.total, p.revenue, p.value), p.currency, p.products or (p,), bool(p.products))


def _text(e: Segment) -> msgspec.Raw:
    return (e.properties or _NO_PROPERTIES).review_body


# -- the tolerant way -----------------------------------------------------------------------------------------


def _repaired(event: Json, reader: Reader) -> Segment:
    """A call that fits the shape. Raises EventError if nobody, nothing or no moment is named."""
    kind = event.get("type")
    if is_no_amount(kind) and event.get("event"):
        kind = "track"
    if not isinstance(kind, str) or not kind.strip():
        raise EventError("schema", f"type is {found(kind)}, expected track, page or screen; see --envelope")
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
        timestamp=_time(event, reader),
        properties=properties_of(reader.an_object("properties", event.get("properties")), reader),
    )


def _time(event: Json, reader: Reader) -> int:
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


def properties_of(properties: Json | Unreadable, reader: Reader) -> Properties:
    """The properties that fit the shape. Amounts that cannot be read stay in them: only an order needs them."""
    if isinstance(properties, Unreadable):
        return Properties(total=properties)  # type: ignore[arg-type]  # an order is refused for it
    totals = {key: amount_with_currency(reader, "price", properties.get(key)) for key in ("total", "revenue", "value")}
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
        review_body=review_text(properties.get("review_body"), reader),
    )


def _product(product: Json, reader: Reader) -> dict[str, Any]:
    return {
        "product_id": reader.name("item", product.get("product_id")),
        "sku": reader.name("item", product.get("sku")),
        "category": reader.name("category", product.get("category")),
        "price": amount_with_currency(reader, "price", product.get("price"))[0],
        "quantity": reader.amount("quantity", product.get("quantity")),
    }


def event_of(call: Segment) -> Event | None:
    """The event of a call that was read on the tolerant way; None if it is of no interest."""
    known = _fields(call)
    if known is None:
        return None
    name, user, time, event_id, category, item = known
    return Event(name, user, time, event_id, category, item, _order(call), text_of_review(_text(call)))  # type: ignore[arg-type]


def _read(event: Json, reader: Reader, _record: Any) -> Event | None:
    return event_of(_repaired(event, reader))


SEGMENT: Final = Envelope(_read, SEGMENT_NAMES, Segment, _fields, _order, _text)
