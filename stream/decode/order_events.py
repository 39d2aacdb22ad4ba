"""Order events: what a purchase, a refund or the update of an order says, as far as the event alone can tell.

What it changes depends on what other events said about the same order; :mod:`stream.state.orders` remembers that.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream.arrays import OrderNotes
from stream.contract.events import NO_ORDERS, ORDER_NOTE, ORDER_UPDATED, EventType, OrderChange
from stream.decode.fields import Name
from stream.decode.identity import hashed
from stream.decode.money import Line, Money, Order, Paid

__all__ = ["OrderEvent", "order_notes", "read_order"]

_OTHER: Final = int(EventType.OTHER)
_PURCHASE: Final = int(EventType.PURCHASE)
_REFUND: Final = int(EventType.REFUND)
_TOTAL: Final = int(OrderChange.TOTAL)


class OrderEvent(NamedTuple):
    """What an event says about an order.

    ``value`` is in hundredths, below zero for refunds. ``identity`` is what a repeat is known by; None: the event id.
    ``order`` is the hash of the order id (0: none), ``change`` an :class:`OrderChange` or 0.
    """

    type: int
    value: int
    identity: str | None = None
    order: int = 0
    change: int = 0


def read_order(kind: int, order: Order, item: Name, money: Money, nobody: Container[Any]) -> OrderEvent:
    """Read an event of type PURCHASE or REFUND, or ORDER_UPDATED, and of this item.

    An order below zero is a refund. A refund that names an order and no amount is of all of it. An update that names no
    order, or no amount, changes nothing. ``nobody`` are the placeholders, which name no order. Raises EventError
    wherever :meth:`Money.paid` does.
    """
    paid, order_id = money.paid(order), order.order_id
    named = order_id not in nobody
    if kind == ORDER_UPDATED:
        return _update(paid, order_id) if named and paid.given else OrderEvent(_OTHER, 0)
    if kind == _REFUND or paid.value < 0:
        return _refund(paid, order_id) if named else OrderEvent(_REFUND, -abs(paid.value))
    if not named:
        return OrderEvent(_PURCHASE, paid.value)
    key = _key(order_id)
    if paid.whole:
        # Orders and events often use the same numbers: order 17 is not event 17.
        return OrderEvent(_PURCHASE, paid.value, key, hashed(key), _TOTAL)
    return OrderEvent(_PURCHASE, paid.value, _line_key(key, order, item), hashed(key), OrderChange.LINE)


def order_notes(n_events: int, said: Sequence[tuple[int, int, int]]) -> OrderNotes:
    """The order that each of ``n_events`` events names; empty if none names one.

    ``said`` has the index, the hash of the order and the change of each event that does.
    """
    if not said:
        return NO_ORDERS
    notes = np.zeros(n_events, ORDER_NOTE)
    indices, orders, changes = zip(*said, strict=True)
    at = np.array(indices)
    notes["order"][at], notes["change"][at] = np.array(orders, np.uint64), np.array(changes, np.uint8)
    return notes


def _update(paid: Paid, order_id: Any) -> OrderEvent:
    return OrderEvent(_PURCHASE, max(0, paid.value), None, hashed(_key(order_id)), OrderChange.UPDATE)


def _refund(paid: Paid, order_id: Any) -> OrderEvent:
    change = OrderChange.REFUND if paid.given else OrderChange.CANCEL
    return OrderEvent(_REFUND, -abs(paid.value), None, hashed(_key(order_id)), change)


def _key(order_id: Any) -> str:
    return f"order\0{order_id}"


def _line_key(key: str, order: Order, item: Name) -> str:
    """A line is known by what was bought, not by its event id: a page that is loaded again makes new event ids."""
    return "\0".join((key, str(item), *map(_line_words, order.lines)))


def _line_words(line: Line) -> str:
    return f"{line.price}\0{line.quantity}"
