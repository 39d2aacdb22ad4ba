"""Snowplow: enriched events, as lines of 131 columns or as the JSON that Snowplow's analytics SDKs make of them.

Shopping is told by the entities of Snowplow's e-commerce accelerator (``snowplow_ecommerce_action``, ``product``,
``transaction``, ``refund``), and by its older events (``transaction``, ``transaction_item``, ``add_to_cart``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from stream.contract.events import SEGMENT_NAMES
from stream.decode.envelopes.envelope import Envelope, Event, Json
from stream.decode.money import Amount, Order
from stream.decode.placeholders import is_no_amount
from stream.decode.tolerant import Reader, from_text
from stream.decode.wire import events_of, unpacked
from stream.errors import EventError

__all__ = ["SNOWPLOW"]

_N_COLUMNS: Final = 131
#: Place in an enriched line → name of the column, for those that are read.
_COLUMNS: Final = {
    **{3: "collector_tstamp", 5: "event", 6: "event_id", 12: "user_id", 15: "domain_userid", 17: "network_userid"},
    **{52: "contexts", 54: "se_action", 58: "unstruct_event", 59: "tr_orderid", 61: "tr_total", 67: "ti_orderid"},
    **{68: "ti_sku", 70: "ti_category", 71: "ti_price", 72: "ti_quantity", 108: "tr_currency", 112: "ti_currency"},
    **{124: "derived_tstamp", 126: "event_name", 130: "true_tstamp"},
}
#: Type of an e-commerce action → the name of the event.
_ACTIONS: Final = {
    "product_view": "product viewed",
    "list_view": "product list viewed",
    "list_click": "product clicked",
    "add_to_cart": "product added",
    "remove_from_cart": "product removed",
    "checkout_step": "checkout started",
    "transaction": "order completed",
    "refund": "order refunded",
}
_ACTION: Final = "snowplow_ecommerce_action"
#: Names of events that Snowplow's trackers send by themselves, and that say nothing about shopping.
_OF_NO_INTEREST: Final = frozenset(
    {
        "page_ping",
        "link_click",
        "focus_form",
        "change_form",
        "submit_form",
        "application_background",
        "consent_document",
    }
)
_EVENT_NAMES: Final = {"transaction": "order completed", "transaction_item": "order completed", "site_search": "search"}
_SCHEMA: Final = re.compile(r"iglu:[^/]*/([^/]*)/")
_SHOPPING_ENTITIES: Final = ("product", "transaction", "refund")


class _Line(NamedTuple):
    price: Amount
    quantity: Amount


def _unwrap(value: Any, bytes_max: int) -> list[dict[str, Any]]:
    """The events of a record: lines of columns, or JSON."""
    if isinstance(value, bytes):
        value = unpacked(value, bytes_max)
        if value[:1] not in (b"{", b"[", b'"', b"\0") and value.count(b"\t") >= _N_COLUMNS - 1:
            return [_columns(line) for line in value.split(b"\n") if line.strip()]
    return events_of(value, bytes_max)


def _columns(line: bytes) -> dict[str, Any]:
    """The columns of an enriched line that are read. Raises EventError ``malformed``."""
    try:
        cells = line.decode().rstrip("\r").split("\t")
    except UnicodeDecodeError:
        raise EventError("malformed", "value is not UTF-8, expected an enriched event of Snowplow") from None
    if len(cells) < _N_COLUMNS:
        raise EventError("malformed", f"line has {len(cells)} columns, expected {_N_COLUMNS} as Snowplow enriches them")
    return {name: cells[place] for place, name in _COLUMNS.items() if cells[place]}


def _read(event: Json, reader: Reader, _record: Any) -> Event | None:
    own, entities = _own_event(event), _entities(event)
    name = _name(event, own)
    if name in _OF_NO_INTEREST:
        return None
    products = entities["product"] or ([own] if own.get("sku") or own.get("id") else [])
    lead: Json = products[0] if products else {}
    return Event(
        name=name,
        user=reader.somebody([event.get(key) for key in ("user_id", "domain_userid", "network_userid")]),
        time=reader.seconds(_utc(_first(event, "true_tstamp", "derived_tstamp", "collector_tstamp"))),
        event_id=reader.identifier("event_id", event.get("event_id")),
        category=reader.name("category", _first(lead, "category") or event.get("ti_category")),
        item=reader.name("item", _first(lead, "id", "sku") or event.get("ti_sku")),
        order=_order(event, entities, products, reader),
        text="",
    )


def _name(event: Json, own: Json) -> str:
    """The name of the event, in the words of the Segment specification where there are some."""
    kind = _first(event, "event_name", "event")
    if not isinstance(kind, str):
        raise EventError("schema", "event_name is missing, expected an enriched event of Snowplow; see --envelope")
    if kind == _ACTION and isinstance(own.get("type"), str):
        return _ACTIONS.get(own["type"], kind)
    if event.get("event") == "struct" and isinstance(event.get("se_action"), str):
        return str(event["se_action"])
    return _EVENT_NAMES.get(kind, kind)


def _order(event: Json, entities: Mapping[str, list[Json]], products: list[Json], reader: Reader) -> Order:
    said: Json = next(iter(entities["transaction"] or entities["refund"]), {})
    order_id = _first(said, "transaction_id") or _first(event, "tr_orderid", "ti_orderid")
    amount = _first(said, "revenue", "refund_amount", "amount")
    amount = event.get("tr_total") if amount is None else amount
    currency = _first(said, "currency") or _first(event, "tr_currency", "ti_currency")
    lines: list[_Line] = [
        _Line(reader.amount("price", p.get("price")), reader.amount("quantity", p.get("quantity"))) for p in products
    ]
    if not lines and "ti_price" in event:
        lines = [_Line(event["ti_price"], event.get("ti_quantity"))]
    listed = bool(said) and bool(products)
    amounts = () if amount is None else (reader.amount("price", amount),)
    return Order(reader.identifier("order_id", order_id), amounts, reader.currency(currency), lines, listed=listed)


def _own_event(event: Json) -> Json:
    """The content of the self-describing event; empty if there is none."""
    wrapped = from_text(event.get("unstruct_event"))
    if isinstance(wrapped, dict) and isinstance(inside := wrapped.get("data"), dict):
        content = inside.get("data")
        return content if isinstance(content, dict) else {}
    keys = (key for key in event if key.startswith("unstruct_event_") and isinstance(event[key], dict))
    return next((event[key] for key in keys), {})


def _entities(event: Json) -> dict[str, list[Json]]:
    """The entities of shopping that are attached to the event, by the name of their schema."""
    found: dict[str, list[Json]] = {name: [] for name in _SHOPPING_ENTITIES}
    wrapped = from_text(event.get("contexts"))
    attached = wrapped.get("data") if isinstance(wrapped, dict) else None
    for entity in attached if isinstance(attached, list) else ():
        schema = _SCHEMA.match(str(entity.get("schema"))) if isinstance(entity, dict) else None
        if schema and schema[1] in found and isinstance(entity.get("data"), dict):
            found[schema[1]].append(entity["data"])
    for name in _SHOPPING_ENTITIES:
        for key in event:
            if re.fullmatch(rf"contexts_com_snowplowanalytics_.*_ecommerce_{name}_\d+", key):
                listed = event[key] if isinstance(event[key], list) else [event[key]]
                found[name] += [entity for entity in listed if isinstance(entity, dict)]
    return found


def _first(content: Json, *keys: str) -> Any:
    return next((content[key] for key in keys if not is_no_amount(content.get(key))), None)


def _utc(time: Any) -> Any:
    """Snowplow's times are in UTC and do not say so."""
    return f"{time}Z" if isinstance(time, str) and time[-1:].isdigit() else time


SNOWPLOW: Final = Envelope(_read, SEGMENT_NAMES, unwrap=_unwrap)
