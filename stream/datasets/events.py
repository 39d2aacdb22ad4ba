"""Events as the file readers and the simulator write them: the Segment ``track`` envelope, and its key and value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

__all__ = ["Event", "Properties", "RawEvent", "Record", "event_stream"]

#: Key, value and event time (milliseconds since 1970) of one Kafka record.
Record = tuple[bytes, bytes, int]


class Properties(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a shop says about one event. Unknown fields are left out of the JSON."""

    product_id: str | None = None
    category: str | None = None
    price: float | None = None
    quantity: int | None = None
    order_id: str | None = None
    total: float | None = None
    currency: str | None = None
    name: str | None = None
    review_body: str | None = None
    rating: float | None = None


class Event(msgspec.Struct, frozen=True, tag_field="type", tag="track", rename="camel", gc=False):
    """One event of the Segment e-commerce spec. ``timestamp`` is the event time, in UTC.

    >>> from datetime import UTC
    >>> when = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
    >>> event = Event("Product Viewed", "m1", "u1", when, Properties(product_id="p1"))
    >>> sorted(msgspec.json.decode(event.encode()))
    ['event', 'messageId', 'properties', 'timestamp', 'type', 'userId']
    >>> event.encode().decode()[-68:]
    '"timestamp":"2024-05-01T12:00:00Z","properties":{"product_id":"p1"}}'
    """

    event: str
    message_id: str
    user_id: str
    timestamp: datetime
    properties: Properties

    @property
    def time_ms(self) -> int:
        """Event time in milliseconds since 1970."""
        return round(self.timestamp.timestamp() * 1000)

    def encode(self) -> bytes:
        """The JSON bytes of the envelope."""
        return _ENCODER.encode(self)

    def record(self) -> Record:
        """Key, value and event time, ready for Kafka."""
        return self.user_id.encode(), _ENCODER.encode(self), self.time_ms


class RawEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that is JSON already. It is sent byte for byte as it was read."""

    key: bytes
    value: bytes
    time_ms: int

    def record(self) -> Record:
        """Key, value and event time, ready for Kafka."""
        return self.key, self.value, self.time_ms


def event_stream(events: Iterable[Event | RawEvent]) -> Iterator[Record]:
    """Yield key, value and event time in milliseconds of each event, in the same order."""
    return (event.record() for event in events)


_ENCODER = msgspec.json.Encoder()
