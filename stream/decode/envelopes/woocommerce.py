"""WooCommerce: the order webhooks of WooCommerce (``order.*``), forwarded to Kafka as they are."""

from __future__ import annotations

from typing import Any, Final

from stream.contract.events import SEGMENT_NAMES
from stream.decode.envelopes.envelope import Envelope, Event, Json
from stream.decode.envelopes.webhook import CANCELLED, UPDATED, event_of_webhook, number, objects
from stream.decode.money import Order
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["WOOCOMMERCE"]

#: What an order counts as in each status. Orders of the other statuses are not paid yet.
_NAMES: Final = {
    **dict.fromkeys(("processing", "completed"), UPDATED),
    **dict.fromkeys(("cancelled", "refunded", "failed", "trash"), CANCELLED),
}


def _read(body: Json, reader: Reader, record: Any) -> Event | None:
    """An order, whatever its topic. What was refunded in part is subtracted from its total."""
    if "status" not in body or "line_items" not in body:
        raise EventError("schema", "body is no order of WooCommerce, expected one; see --envelope")
    name = _NAMES.get(str(body.get("status")))
    if name is None:
        return None
    total = number(body.get("total")) + sum(
        number(refund.get("total")) for refund in objects(reader, body.get("refunds"))
    )
    order = Order(
        reader.identifier("order_id", body.get("id")),
        (total,) if name == UPDATED else (),
        reader.currency(body.get("currency")),
        (),
        listed=False,
    )
    billing = body.get("billing")
    users = [body.get("customer_id") or None, billing.get("email") if isinstance(billing, dict) else None]
    times = ("date_modified_gmt", "date_paid_gmt", "date_created_gmt", "date_modified", "date_created")
    return event_of_webhook(name, body, times, order, users, reader, record)


WOOCOMMERCE: Final = Envelope(_read, SEGMENT_NAMES)
