"""PostHog: captured events, as its libraries send them: ``event``, ``distinct_id``, ``properties``, ``timestamp``.

The properties of shopping events are those of the Segment specification, as PostHog's own documents propose. Events
whose name begins with ``$`` are PostHog's own: page and screen views are views, all others are of no interest.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stream.contract.events import SEGMENT_NAMES
from stream.decode.envelopes.envelope import Envelope, Event, Fields, Json
from stream.decode.envelopes.reading import found
from stream.decode.envelopes.segment import Properties, Segment, event_of, order_in, product_in, properties_of
from stream.decode.fields import Name, Time
from stream.decode.money import Order
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["POSTHOG"]

_OWN_NAMES: Final = {"$pageview": "page viewed", "$screen": "screen view"}
_NO_PROPERTIES: Final = Properties()


class _Captured(msgspec.Struct, frozen=True, gc=False):
    event: str
    distinct_id: Name = None
    uuid: Name = None
    timestamp: Time = None
    properties: Properties | None = None


def _fields(e: _Captured) -> Fields | None:
    name: str | None = e.event
    if e.event[:1] == "$":
        name = _OWN_NAMES.get(e.event)
    if name is None:
        return None
    category, item = product_in(e.properties or _NO_PROPERTIES)
    return name, e.distinct_id, e.timestamp, e.uuid, category, item


def _order(e: _Captured) -> Order:
    return order_in(e.properties or _NO_PROPERTIES)


def _text(e: _Captured) -> msgspec.Raw:
    return (e.properties or _NO_PROPERTIES).review_body


def _read(event: Json, reader: Reader, _record: Any) -> Event | None:
    name = event.get("event")
    if not isinstance(name, str):
        raise EventError("schema", f"event is {found(name)}, expected the name of the event; see --envelope")
    name = _OWN_NAMES.get(name) if name.startswith("$") else name
    if name is None:
        return None
    properties = reader.an_object("properties", event.get("properties"))
    inside = properties if isinstance(properties, dict) else {}
    return event_of(
        Segment(
            type="track",
            event=name,
            messageId=reader.identifier("event_id", event.get("uuid")),
            userId=reader.somebody([event.get("distinct_id"), inside.get("distinct_id"), inside.get("$user_id")]),
            timestamp=reader.seconds(event.get("timestamp", event.get("sent_at", event.get("sentAt")))),
            properties=properties_of(properties, reader),
        )
    )


POSTHOG: Final = Envelope(_read, SEGMENT_NAMES, _Captured, _fields, _order, _text)
