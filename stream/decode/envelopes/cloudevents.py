"""CloudEvents: events in the CloudEvents format, structured or binary.

The attributes say what (``type``), when (``time``) and which event (``id``); the ``data`` are a flat event. Whose event
it is says a user id in the data, else the ``subject``. In the binary mode the attributes are headers that begin with
``ce_``, and the value is the data.
"""

from __future__ import annotations

from typing import Any, Final

from stream.decode.envelopes.envelope import ALL_NAMES, Envelope, Event, Json
from stream.decode.envelopes.mapped import reader_of
from stream.decode.envelopes.mapping import LineMapping, MappedEnvelope, paths
from stream.decode.names import canonical
from stream.decode.tolerant import Reader

__all__ = ["CLOUDEVENTS"]

_PREFIX: Final = "ce_"


_read_mapped = reader_of(
    MappedEnvelope(
        user=paths("data.user_id", "data.userId", "data.customer_id", "data.customerId", "subject"),
        time=paths("time", "data.ts", "data.timestamp"),
        type=paths("type"),
        id=paths("id"),
        item=paths("data.item_id", "data.product_id", "data.sku"),
        category=paths("data.category"),
        price=paths("data.price"),
        quantity=paths("data.quantity"),
        order=paths("data.order_id", "data.orderId"),
        amount=paths("data.total", "data.revenue", "data.amount", "data.value"),
        currency=paths("data.currency"),
        text=paths("data.text", "data.review_body"),
        lines=paths("data.products", "data.items", "data.lines"),
        line=LineMapping(
            item=paths("item_id", "product_id", "sku"),
            category=paths("category"),
            price=paths("price"),
            quantity=paths("quantity"),
        ),
        names=ALL_NAMES,
    )
)
_KNOWN: Final = frozenset(map(canonical, ALL_NAMES))


def _read(event: Json, reader: Reader, record: Any) -> Event | None:
    attributes = {
        name[len(_PREFIX) :]: content.decode(errors="replace")
        for name, content in getattr(record, "headers", ()) or ()
        if name.startswith(_PREFIX) and content is not None
    }
    if "specversion" in attributes:
        event = attributes | {"data": event}
    if isinstance(event.get("type"), str):
        event = {**event, "type": _shop_name(event["type"])}
    read: Event | None = _read_mapped(event, reader, record)
    return read


def _shop_name(kind: str) -> str:
    """What follows the reversed domain: the longest end of the type that is a name we know, else all of it.

    >>> _shop_name("com.example.shop.order.completed"), _shop_name("com.example.ping")
    ('order completed', 'com.example.ping')
    """
    parts = kind.split(".")
    ends = (canonical(" ".join(parts[i:])) for i in range(len(parts)))
    return next((end for end in ends if end in _KNOWN), kind)


CLOUDEVENTS: Final = Envelope(_read, ALL_NAMES)
