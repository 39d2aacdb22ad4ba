"""Envelope: how events of one shape are read, on the fast way and on the tolerant one.

A shape is a typed struct, so that a wrong type is an error that names the field. What every event has is returned as
one plain tuple, because a struct would cost as much as the rest of the row. What only few events have is read by
separate functions, when it is needed. An envelope without a shape is always read on the tolerant way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from stream.contract.events import SEGMENT_NAMES, EventType
from stream.decode.fields import Name, Time
from stream.decode.money import Order
from stream.decode.tolerant import Reader
from stream.decode.wire import events_of

__all__ = ["ALL_NAMES", "Envelope", "Event", "Fields", "Json", "text_of_review"]

Json: TypeAlias = Mapping[str, Any]
#: What is read of every event: its name, user, time, event id, category and item.
Fields = tuple[str, Name, Time, Name, Name, Name]
_TEXT: Final = msgspec.json.Decoder(str)

#: Event names of all specifications, and the names of our own types.
ALL_NAMES: Final[dict[str, int]] = {
    **SEGMENT_NAMES,
    **{t.name.lower(): t for t in EventType},
    "search": EventType.SEARCH,
    "favourite": EventType.WISHLIST,
    "favorite": EventType.WISHLIST,
    "add_to_cart": EventType.CART,
    "remove_from_cart": EventType.UNCART,
    "order": EventType.PURCHASE,
    "buy": EventType.PURCHASE,
    "cancel": EventType.REFUND,
}


class Event(NamedTuple):
    """One event as the tolerant way reads it. ``time`` is in seconds since 1970, ``text`` is that of a review."""

    name: str
    user: str
    time: int
    event_id: str | None
    category: Name
    item: Name
    order: Order
    text: str


def _none(_event: Any) -> Any:
    """Never called: an envelope without a shape has no event of a shape."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """How events of one shape are read.

    ``read`` makes an event of a JSON object and the record that it came in, on the tolerant way. It gives None for an
    event of no interest, and raises EventError for one without who, when or what.
    """

    read: Callable[[Json, Reader, Any], Event | None]
    #: Event name, in lower case → type, or ``ORDER_UPDATED``.
    names: Mapping[str, int]
    #: The struct of the fast way. The functions below read it.
    shape: type | None = None
    #: Gives None for an event of no interest.
    fields: Callable[[Any], Fields | None] = _none
    order: Callable[[Any], Order] = _none
    #: The text of a review, as JSON. It is decoded only for reviews. So an event with an unreadable text is still an
    #: event, and a "text" that is something else (80,000 empty lists) costs nothing.
    text: Callable[[Any], msgspec.Raw] = _none
    #: The JSON objects of the events of a record. Takes its value, and the most bytes that may be unpacked from it.
    unwrap: Callable[[Any, int], list[dict[str, Any]]] = events_of


def text_of_review(text: msgspec.Raw) -> str:
    """The text that stands in this JSON; empty if it is none."""
    try:
        return _TEXT.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
