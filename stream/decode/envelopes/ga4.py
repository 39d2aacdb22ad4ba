"""GA4: events of Google Analytics 4, by its Measurement Protocol or as rows of its export to BigQuery.

A payload of the Measurement Protocol holds several events of one user. A row of the export holds one, with its
parameters as a list of keys and values.
"""

from __future__ import annotations

from typing import Any, Final

from stream.contract.events import SEGMENT_NAMES
from stream.decode.envelopes.envelope import Envelope, Event, Json
from stream.decode.envelopes.mapped import reader_of
from stream.decode.envelopes.mapping import LineMapping, MappedEnvelope, paths
from stream.decode.tolerant import Reader, from_text
from stream.decode.wire import events_of

__all__ = ["GA4"]


_MAPPING: Final = MappedEnvelope(
    user=paths("user_id", "client_id", "app_instance_id", "user_pseudo_id"),
    time=paths("timestamp_micros", "event_timestamp", "params.timestamp_micros"),
    type=paths("name", "event_name"),
    id=paths("params.event_id"),
    item=paths("params.item_id"),
    category=paths("params.item_category"),
    order=paths("params.transaction_id", "ecommerce.transaction_id"),
    amount=paths("params.value", "ecommerce.purchase_revenue", "ecommerce.refund_value"),
    currency=paths("params.currency"),
    lines=paths("items", "params.items"),
    line=LineMapping(
        item=paths("item_id", "item_name"),
        category=paths("item_category"),
        price=paths("price"),
        quantity=paths("quantity"),
    ),
    names=SEGMENT_NAMES,
)
_read_mapped = reader_of(_MAPPING)
#: Events that Google's libraries send by themselves, and that say nothing about shopping.
_OF_NO_INTEREST: Final = frozenset(
    {
        *("session_start", "first_visit", "first_open", "user_engagement", "scroll", "form_start", "form_submit"),
        *("video_start", "video_progress", "video_complete", "app_remove", "app_update", "os_update"),
    }
)


def _unwrap(value: Any, bytes_max: int) -> list[dict[str, Any]]:
    """The events of a payload, each with the user of the payload; a row of the export is one event."""
    events: list[dict[str, Any]] = []
    for document in events_of(value, bytes_max):
        inside = document.get("events")
        if isinstance(inside, list):
            shared = {key: content for key, content in document.items() if key != "events"}
            events += [shared | event for event in inside if isinstance(event, dict)]
        else:
            events.append(document)
    return events


def _read(event: Json, reader: Reader, record: Any) -> Event | None:
    name = event.get("name", event.get("event_name"))
    if isinstance(name, str) and name in _OF_NO_INTEREST:
        return None
    if "event_params" in event:
        event = {**event, "params": _parameters(event["event_params"])}
    read: Event | None = _read_mapped(event, reader, record)
    return read


def _parameters(listed: Any) -> dict[str, Any]:
    """The parameters of an export row as an object: ``[{"key": "value", "value": {"double_value": 9.5}}]``."""
    found: dict[str, Any] = {}
    for one in from_text(listed) if isinstance(from_text(listed), list) else ():
        value = one.get("value") if isinstance(one, dict) else None
        if isinstance(value, dict) and isinstance(one.get("key"), str):
            given = [content for content in value.values() if content is not None]
            found[one["key"]] = given[0] if given else None
    return found


GA4: Final = Envelope(_read, SEGMENT_NAMES, unwrap=_unwrap)
