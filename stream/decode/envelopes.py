"""Envelopes: describe the shapes in which events come, and take out of each shape what we read of an event.

A shape is a typed struct, so that a wrong type is an error that names the field. What every event has is returned as
one plain tuple, because a struct would cost as much as the rest of the row. What only few events have is read by
separate functions, when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from stream.contract.events import SEGMENT_NAMES, EventType
from stream.decode.money import Amount, Order

__all__ = ["PRESETS", "SEGMENT_CALLS", "Envelope", "Fields", "Flat", "Name", "Product", "Properties", "Segment", "Time"]

Name = str | int | None
Time = datetime | float | int | None
#: What is read of every event: its name, user, time, event id, category and item.
Fields = tuple[str, Name, Time, Name, Name, Name]
_NO_TEXT: Final = msgspec.Raw()


class Envelope(NamedTuple):
    """A preset: the struct of a shape, and how it is read."""

    shape: type
    #: Gives None for an event of no interest.
    fields: Callable[[Any], Fields | None]
    order: Callable[[Any], Order]
    #: The text of a review, as JSON. It is decoded only for reviews. So an event with an unreadable text is still an
    #: event, and a "text" that is something else (80,000 empty lists) costs nothing.
    text: Callable[[Any], msgspec.Raw]
    #: Event name, in lower case → type, or ``ORDER_UPDATED``.
    names: Mapping[str, int]


# -- Segment ----------------------------------------------------------------------------------------------
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


def _segment(e: Segment) -> Fields | None:
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
        lead: Product = p.products[0] if p.products else p
        category = category if lead.category is None else lead.category
        item = lead.sku if lead.product_id is None else lead.product_id
    return name, user, e.timestamp, e.messageId, category, item


def _segment_order(e: Segment) -> Order:
    p = e.properties or _NO_PROPERTIES
    return Order(p.order_id, (p.total, p.revenue, p.value), p.currency, p.products or (p,), bool(p.products))


def _segment_text(e: Segment) -> msgspec.Raw:
    return (e.properties or _NO_PROPERTIES).review_body


# -- flat -------------------------------------------------------------------------------------------------


class Flat(msgspec.Struct, frozen=True, gc=False):
    """An event without an envelope."""

    type: str
    user_id: Name = None
    ts: Time = None
    event_id: Name = None
    order_id: Name = None
    category: Name = None
    item_id: Name = None
    price: Amount = None
    quantity: Amount = None
    currency: str | None = None
    text: msgspec.Raw = _NO_TEXT


def _flat(e: Flat) -> Fields:
    return e.type, e.user_id, e.ts, e.event_id, e.category, e.item_id


def _flat_order(e: Flat) -> Order:
    return Order(e.order_id, (), e.currency, (e,), listed=False)


def _flat_text(e: Flat) -> msgspec.Raw:
    return e.text


_FLAT_NAMES: Final[dict[str, int]] = {
    **SEGMENT_NAMES,
    **{t.name.lower(): t for t in EventType},
    "search": EventType.SEARCH,
    "favourite": EventType.WISHLIST,
    "favorite": EventType.WISHLIST,
    "add_to_cart": EventType.CART,
    "remove_from_cart": EventType.UNCART,
    "order": EventType.PURCHASE,
    "buy": EventType.PURCHASE,
    "cancel": EventType.REFUND,
}

PRESETS: Final = {
    "segment": Envelope(Segment, _segment, _segment_order, _segment_text, SEGMENT_NAMES),
    "flat": Envelope(Flat, _flat, _flat_order, _flat_text, _FLAT_NAMES),
}
