"""Shopify: the order webhooks of Shopify (``orders/*``, ``refunds/create``), forwarded to Kafka as they are."""

from __future__ import annotations

from typing import Any, Final

from stream.contract.events import SEGMENT_NAMES
from stream.decode.envelopes.envelope import Envelope, Event, Json
from stream.decode.envelopes.webhook import CANCELLED, REFUNDED, UPDATED, event_of_webhook, number, objects
from stream.decode.money import Order
from stream.decode.placeholders import is_no_amount
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["SHOPIFY"]


def _read(body: Json, reader: Reader, record: Any) -> Event | None:
    """An order, or a refund of one (``refunds/create``). A test and an order that is not paid are left out."""
    if "order_id" in body and "refund_line_items" in body:
        return _refund(body, reader, record)
    if "line_items" not in body or "total_price" not in body:
        raise EventError("schema", "body is no order and no refund of Shopify, expected one of them; see --envelope")
    if body.get("test") is True or body.get("financial_status") in ("pending", "authorized", "voided"):
        return None
    cancelled = not is_no_amount(body.get("cancelled_at"))
    order = Order(
        reader.identifier("order_id", body.get("id")),
        () if cancelled else (reader.amount("price", body.get("total_price")),),
        reader.currency(body.get("currency")),
        (),
        listed=False,
    )
    # An order that is not cancelled has no time at ``cancelled_at``.
    times = ("cancelled_at", "updated_at", "processed_at", "created_at")
    return event_of_webhook(CANCELLED if cancelled else UPDATED, body, times, order, _customer(body), reader, record)


def _refund(body: Json, reader: Reader, record: Any) -> Event:
    paid_back: list[Json] = [t for t in objects(reader, body.get("transactions")) if t.get("kind") in (None, "refund")]
    amounts = [number(t.get("amount")) for t in paid_back if t.get("status") in (None, "success", "pending")]
    currency = next((t["currency"] for t in paid_back if t.get("currency")), None)
    order_id = reader.identifier("order_id", body.get("order_id"))
    order = Order(order_id, (float(sum(amounts)),), reader.currency(currency), (), listed=False)
    # Its ``user_id`` is the person in the shop who gave the money back.
    return event_of_webhook(REFUNDED, body, ("processed_at", "created_at"), order, _customer(body), reader, record)


def _customer(body: Json) -> list[Any]:
    customer = body.get("customer")
    inside = [customer.get("id"), customer.get("email")] if isinstance(customer, dict) else []
    return [*inside, body.get("email"), body.get("contact_email")]


SHOPIFY: Final = Envelope(_read, SEGMENT_NAMES)
