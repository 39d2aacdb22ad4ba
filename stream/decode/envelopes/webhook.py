"""Webhook: what the order webhooks of shop systems have in common.

Such a webhook says what an order is now, however often it is sent. So it replaces what was said before, and the first
one counts as the purchase. The user is the customer of the order, else the key of the record.
"""

from __future__ import annotations

from typing import Any, Final

from stream.decode.envelopes.envelope import Event, Json
from stream.decode.envelopes.reading import found
from stream.decode.money import Order
from stream.decode.placeholders import is_no_amount
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["CANCELLED", "REFUNDED", "UPDATED", "event_of_webhook", "number", "objects"]

UPDATED: Final = "order updated"
CANCELLED: Final = "order cancelled"
REFUNDED: Final = "order refunded"


def event_of_webhook(
    name: str, body: Json, times: tuple[str, ...], order: Order, users: list[Any], reader: Reader, record: Any
) -> Event:
    """An event of a webhook. It is known by its order and its time, as a body has no id of its own."""
    time = next((body[key] for key in times if not is_no_amount(body.get(key))), None)
    seconds = reader.seconds(time)
    lead: Json = next(iter(objects(reader, body.get("line_items"))), {})
    item = reader.name("item", lead.get("product_id"))
    return Event(
        name=name,
        user=reader.somebody([*users, _key(record)]),
        time=seconds,
        event_id=f"{body.get('id')}\0{name}\0{time}",
        category=reader.name("category", lead.get("product_type")),
        item=reader.name("item", lead.get("sku")) if item is None else item,
        order=order,
        text="",
    )


def objects(reader: Reader, value: Any) -> list[dict[str, Any]]:
    """The objects of a list; what is none is left out."""
    return [one for one in reader.objects("products", value) if isinstance(one, dict)]


def number(amount: Any) -> float:
    """An amount of a webhook, which is always a plain decimal. Raises EventError ``amount`` for anything else."""
    try:
        return float(amount)
    except (TypeError, ValueError, OverflowError):
        raise EventError("amount", f"amount is {found(amount)}, expected a decimal number; mend the sender") from None


def _key(record: Any) -> str | None:
    key = getattr(record, "key", None)
    return key.decode(errors="replace") if isinstance(key, bytes) else None
