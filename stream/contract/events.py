"""Events: what is left of an event without its envelope, one row of small integers.

The service carries no dicts past :mod:`stream.decode.decoder`. A batch of events is a list of user ids and a numpy
array of :data:`EVENT` rows. State, features and training all read such batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from stream.arrays import EventRows

__all__ = [
    "EVENT",
    "N_TYPES",
    "SEGMENT_NAMES",
    "VALUE_LIMIT",
    "VALUE_SCALE",
    "EventBatch",
    "EventType",
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

#: Money is kept as whole hundredths of the reporting currency, so that sums do not depend on order.
VALUE_SCALE: Final = 100
#: The largest absolute value of one event, in hundredths: it must fit the int32 in which it is stored.
VALUE_LIMIT: Final = 2**31 - 1

#: One decoded event.
#:
#: - ``offset``: its offset in the source partition
#: - ``identity``: a 64-bit hash by which a repeated event is known: of the order id if an order has one, else of the
#:   event id
#: - ``time``: event time in whole seconds since 1970
#: - ``value``: in hundredths, below zero for refunds
#: - ``category``, ``item``: hash buckets (0: not given)
#: - ``type``: an :class:`EventType`
EVENT: Final = np.dtype(
    [
        ("offset", "<i8"),
        ("identity", "<u8"),
        ("time", "<u4"),
        ("value", "<i4"),
        ("category", "<u2"),
        ("item", "<u2"),
        ("type", "u1"),
    ]
)

#: Event names of e-commerce specifications, in lower case with single spaces → what they mean here.
SEGMENT_NAMES: Final[dict[str, EventType]] = {
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
    """Decoded events of one partition in offset order: ``users[i]`` did ``rows[i]`` (dtype :data:`EVENT`)."""

    users: list[str]
    rows: EventRows

    def __len__(self) -> int:
        return len(self.users)
