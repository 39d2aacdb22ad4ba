"""Events: what is left of an event without its envelope, one row of small integers.

The service carries no dicts past :mod:`stream.decode.decoder`. A batch of events is a list of user ids and a numpy
array of :data:`EVENT` rows. State, features and training all read such batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from stream.arrays import EventRows, OrderNotes

__all__ = [
    "EVENT",
    "NO_ORDERS",
    "N_TYPES",
    "ORDER_NOTE",
    "ORDER_UPDATED",
    "SEGMENT_NAMES",
    "VALUE_LIMIT",
    "VALUE_SCALE",
    "EventBatch",
    "EventType",
    "OrderChange",
]


class EventType(IntEnum):
    """The closed set of things that a shopper can do. 0 is not used, because it is padding in token arrays."""

    OTHER = 1
    VIEW = 2
    SEARCH = 3
    WISHLIST = 4
    CART = 5
    UNCART = 6
    PURCHASE = 7
    REFUND = 8
    REVIEW = 9


#: Number of event types, and so the width of every count by type.
N_TYPES: Final = len(EventType)
#: What the name of an event may mean besides a type: the total of an order is replaced. Decode makes a PURCHASE of it.
ORDER_UPDATED: Final = N_TYPES + 1

#: Money is kept as whole hundredths of the reporting currency, so that sums do not depend on order.
VALUE_SCALE: Final = 100
#: The largest absolute value of one event, in hundredths: 100 billion, which in VND is about 4 million USD. The sum of
#: 64 of them is exact in a float64, and that of 900,000 in an int64.
VALUE_LIMIT: Final = 10**13

#: One decoded event.
#:
#: - ``offset``: its offset in the source partition
#: - ``identity``: a 64-bit hash by which a repeated event is known: of the order id for an order, of the order id and
#:   what was bought for a line of an order, else of the event id
#: - ``time``: event time in whole seconds since 1970
#: - ``value``: in hundredths, below zero for refunds
#: - ``category``, ``item``: hash buckets (0: not given)
#: - ``type``: an :class:`EventType`
EVENT: Final = np.dtype(
    [
        ("offset", "<i8"),
        ("identity", "<u8"),
        ("time", "<u4"),
        ("value", "<i8"),
        ("category", "<u2"),
        ("item", "<u2"),
        ("type", "u1"),
    ]
)


class OrderChange(IntEnum):
    """What an event says about the order that it names. 0 stands for an event that names none."""

    #: What was paid for all of the order. Said again, it is a repeat.
    TOTAL = 1
    #: What was paid for one line; the other lines come with other events.
    LINE = 2
    #: What was paid for all of the order, in place of what was said before.
    UPDATE = 3
    #: So much is given back.
    REFUND = 4
    #: All of it is given back.
    CANCEL = 5


#: The order that an event names: a 64-bit hash of its id (0: none), and an :class:`OrderChange`.
ORDER_NOTE: Final = np.dtype([("order", "<u8"), ("change", "u1")])
NO_ORDERS: Final = np.zeros(0, ORDER_NOTE)

#: Event names of e-commerce specifications, in lower case with single spaces → what they mean here.
SEGMENT_NAMES: Final[dict[str, int]] = {
    "product viewed": EventType.VIEW,
    "product clicked": EventType.VIEW,
    "product list viewed": EventType.VIEW,
    "product list filtered": EventType.SEARCH,
    "products searched": EventType.SEARCH,
    "product added to wishlist": EventType.WISHLIST,
    "product added": EventType.CART,
    "wishlist product added to cart": EventType.CART,
    "checkout started": EventType.CART,
    "product removed": EventType.UNCART,
    "order completed": EventType.PURCHASE,
    "order refunded": EventType.REFUND,
    "order cancelled": EventType.REFUND,
    "order updated": ORDER_UPDATED,
    "product reviewed": EventType.REVIEW,
    # The names of Segment's first e-commerce specification, which some libraries still send.
    "viewed product": EventType.VIEW,
    "viewed product category": EventType.VIEW,
    "clicked product": EventType.VIEW,
    "searched products": EventType.SEARCH,
    "added product": EventType.CART,
    "added product to wishlist": EventType.WISHLIST,
    "removed product": EventType.UNCART,
    "started checkout": EventType.CART,
    "completed order": EventType.PURCHASE,
    "refunded order": EventType.REFUND,
    "cancelled order": EventType.REFUND,
    "order canceled": EventType.REFUND,
    "updated order": ORDER_UPDATED,
    # Google Analytics 4.
    "view item": EventType.VIEW,
    "select item": EventType.VIEW,
    "view item list": EventType.VIEW,
    "page view": EventType.VIEW,
    "screen view": EventType.VIEW,
    "search": EventType.SEARCH,
    "view search results": EventType.SEARCH,
    "add to wishlist": EventType.WISHLIST,
    "add to cart": EventType.CART,
    "begin checkout": EventType.CART,
    "remove from cart": EventType.UNCART,
    "purchase": EventType.PURCHASE,
    "refund": EventType.REFUND,
    # Shopify's web pixels.
    "page viewed": EventType.VIEW,
    "collection viewed": EventType.VIEW,
    "search submitted": EventType.SEARCH,
    "product added to cart": EventType.CART,
    "product removed from cart": EventType.UNCART,
    "checkout completed": EventType.PURCHASE,
}


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Decoded events of one partition in offset order: ``users[i]`` did ``rows[i]`` (dtype :data:`EVENT`).

    ``orders[i]`` (dtype :data:`ORDER_NOTE`) is the order that the event names. Without any it is empty.
    """

    users: list[str]
    rows: EventRows
    orders: OrderNotes = field(default_factory=lambda: NO_ORDERS)

    def __len__(self) -> int:
        return len(self.users)
