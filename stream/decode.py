"""Decode: raw records → an event batch, and the records that cannot be used with the reason.

The envelope is read into a typed struct (a wrong type is an error that names the field), then folded into one
packed ``EVENT`` row. Nothing here raises for a bad record: it comes back as a :class:`DeadLetter`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import xxhash

from stream.contract.events import (
    EVENT,
    SEGMENT_NAMES,
    VALUE_LIMIT,
    VALUE_SCALE,
    EventBatch,
    EventType,
)
from stream.erasure import COMMAND_HEADER, ERASE, Erasure
from stream.errors import ConfigError, EventError
from stream.pseudonym import Pseudonyms

__all__ = [
    "ORIGIN_HEADER",
    "PRESETS",
    "REVIEW_CHARS_MAX",
    "DeadLetter",
    "Decoded",
    "Decoder",
    "Money",
    "Record",
    "hash_bucket",
]

_ROW: Final = struct.Struct("<qQIiHHB")
#: Header of a replayed event: where it was at first, as topic/partition/offset.
ORIGIN_HEADER: Final = "valuestream.origin"
_USER_ID_MAX: Final = 256
#: Numbers above this are milliseconds, not seconds: 1e11 s is the year 5138, 1e11 ms is 1973.
_MILLISECONDS_FROM: Final = 1e11
_TIME_MAX: Final = 2**32 - 1
#: Names remembered with their hash bucket, and the longest of them: together at most some 10 MB.
_HASH_CACHE_MAX: Final = 100_000
_NAME_REMEMBERED_MAX: Final = 64
#: Of longer reviews the beginning is read: BERT takes at most 512 tokens, some 2,500 characters of English.
REVIEW_CHARS_MAX: Final = 4_000
# Plain integers: looking a member up and comparing it costs more than the rest of the row.
_OTHER: Final = int(EventType.OTHER)
_PURCHASE: Final = int(EventType.PURCHASE)
_REFUND: Final = int(EventType.REFUND)
_REVIEW: Final = int(EventType.REVIEW)
_NO_TEXT: Final = msgspec.Raw()
_TEXT: Final = msgspec.json.Decoder(str)
#: What senders write where they have no id or no amount.
_ABSENT: Final = (None, "")


class Record(Protocol):
    """What is read of a Kafka record (aiokafka's ``ConsumerRecord`` fits)."""

    offset: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be used: ``reason`` is a metric label, ``message`` is for people."""

    record: Any
    reason: str
    message: str
    stage: str = "decode"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch of usable events, ``records`` they came from, dead letters, and how many were of no interest.

    ``reviews`` are the texts of the reviews among the events, each with its index into the batch. ``erasures`` are
    the records that are no events but ask for a user to be forgotten.
    """

    batch: EventBatch
    records: list[Any]
    dead: list[DeadLetter]
    n_ignored: int
    reviews: list[tuple[int, str]] = field(default_factory=list)
    erasures: list[Erasure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Money:
    """The reporting currency, and what one unit of other currencies is worth in it."""

    currency: str
    rates: Mapping[str, float] = field(default_factory=dict)

    def hundredths(self, amount: float, currency: str | None) -> int:
        """Convert; raises EventError for a currency without a rate or an amount that cannot be stored."""
        if currency and currency != self.currency:
            rate = self.rates.get(currency)
            if rate is None:
                raise EventError(
                    "currency",
                    f"currency is {currency!r:.40}, expected {self.currency!r} or one with a rate; set --fx-rates",
                )
            amount *= rate
        value = amount * VALUE_SCALE
        if not -VALUE_LIMIT <= value <= VALUE_LIMIT:
            raise EventError("value", f"value is {amount:.10g}, expected at most ±{VALUE_LIMIT / VALUE_SCALE:.10g}")
        return round(value)


class Fields(msgspec.Struct, frozen=True):
    """One event with its envelope off; what a preset makes of its own shape."""

    name: str
    user: str | int | None
    time: datetime | float | int | None
    event_id: str | int | None = None
    order_id: str | int | None = None
    category: str | int | None = None
    item: str | int | None = None
    amount: float | int | str | None = None
    currency: str | None = None
    #: Where the amount is not given: the lines whose price × quantity make it.
    lines: Sequence[_Product | _Flat] = ()
    #: What a review says, as JSON. It is read of reviews alone: an event whose text cannot be read is still an event,
    #: and a text that is no text (80,000 empty lists) costs nothing.
    text: msgspec.Raw = _NO_TEXT


# -- presets ----------------------------------------------------------------------------------------------


class _Product(msgspec.Struct, frozen=True):
    product_id: str | int | None = None
    sku: str | int | None = None
    category: str | int | None = None
    price: float | int | str | None = None
    quantity: float | int | str | None = None


class _Properties(_Product, frozen=True):
    order_id: str | int | None = None
    revenue: float | int | str | None = None
    total: float | int | str | None = None
    value: float | int | str | None = None
    currency: str | None = None
    products: list[_Product] | None = None
    review_body: msgspec.Raw = _NO_TEXT


class _Segment(msgspec.Struct, frozen=True):
    type: str
    event: str | None = None
    userId: str | int | None = None  # noqa: N815 - the names of the Segment spec
    anonymousId: str | int | None = None  # noqa: N815
    messageId: str | int | None = None  # noqa: N815
    timestamp: datetime | float | int | None = None
    properties: _Properties | None = None


_NO_PROPERTIES: Final = _Properties()


def _segment(e: _Segment) -> Fields | None:
    if e.type == "track":
        name = e.event or ""
    elif e.type in ("page", "screen"):
        name = "product list viewed"
    else:
        return None
    p = e.properties or _NO_PROPERTIES
    lead: _Product = p.products[0] if p.products and p.product_id is None else p
    amount: float | int | str | None = p.total
    if amount in _ABSENT:
        amount = p.value if p.revenue in _ABSENT else p.revenue
    return Fields(
        name,
        e.anonymousId if e.userId in _ABSENT else e.userId,
        e.timestamp,
        e.messageId,
        p.order_id,
        lead.category if lead.category is not None else p.category,
        lead.product_id if lead.product_id is not None else lead.sku,
        amount,
        p.currency,
        p.products or (p,),
        p.review_body,
    )


class _Flat(msgspec.Struct, frozen=True):
    type: str
    user_id: str | int | None = None
    ts: datetime | float | int | None = None
    event_id: str | int | None = None
    order_id: str | int | None = None
    category: str | int | None = None
    item_id: str | int | None = None
    price: float | int | str | None = None
    quantity: float | int | str | None = None
    currency: str | None = None
    text: msgspec.Raw = _NO_TEXT


def _flat(e: _Flat) -> Fields:
    return Fields(
        e.type, e.user_id, e.ts, e.event_id, e.order_id, e.category, e.item_id, None, e.currency, (e,), e.text
    )


_FLAT_NAMES: Final[dict[str, EventType]] = {
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

#: preset → (struct of the envelope, what takes it off, event names in lower case).
PRESETS: Final[dict[str, tuple[type, Callable[[Any], Fields | None], Mapping[str, EventType]]]] = {
    "segment": (_Segment, _segment, SEGMENT_NAMES),
    "flat": (_Flat, _flat, _FLAT_NAMES),
}


# -- the stage --------------------------------------------------------------------------------------------


class Decoder:
    """Decodes records of one envelope preset; with ``pseudonyms`` no user id goes past it."""

    def __init__(
        self,
        preset: str,
        money: Money,
        *,
        bytes_max: int,
        future_skew_s: float,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise ConfigError(f"envelope is {preset!r}, expected one of {', '.join(PRESETS)}; set --envelope")
        shape, self._open, names = PRESETS[preset]
        self._types = {name: int(kind) for name, kind in names.items()}
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(shape).decode
        self._money = money
        self._bytes_max = bytes_max
        self._future_skew_s = future_skew_s
        #: By which user ids are replaced, if they are.
        self.pseudonyms = pseudonyms
        self._category_bucket = _HashBuckets()
        self._item_bucket = _HashBuckets()

    @property
    def categories(self) -> dict[int, str]:
        """Hash bucket → name of the categories met, as far as they are remembered; of two in one bucket the first."""
        return self._category_bucket.names()

    def decode(self, records: Sequence[Record], now: float) -> Decoded:
        """Decode records in order; ``now`` is our clock in seconds, the bound for event times."""
        latest = now + self._future_skew_s
        users: list[str] = []
        rows: list[bytes] = []
        used: list[Any] = []
        dead: list[DeadLetter] = []
        reviews: list[tuple[int, str]] = []
        erasures: list[Erasure] = []
        for record in records:
            try:
                value = record.value
                if value is None:
                    erasures.append(_erasure(record, latest))
                    continue
                fields = self._fields(value)
                if fields is not None:
                    user = _user(fields.user)
                    rows.append(self._row(record, fields, latest))
                    users.append(user)
                    used.append(record)
                    if fields.text and (text := self._review(fields)):
                        reviews.append((len(used) - 1, text))
            except EventError as error:
                dead.append(DeadLetter(record, error.reason, str(error)))
        if self.pseudonyms:
            users = [self.pseudonyms.of(user) for user in users]
            erasures = [e._replace(user=self.pseudonyms.of(e.user)) for e in erasures]
        batch = EventBatch(users, np.frombuffer(b"".join(rows), EVENT))
        n_ignored = len(records) - len(used) - len(dead) - len(erasures)
        return Decoded(batch, used, dead, n_ignored, reviews, erasures)

    def _fields(self, value: bytes) -> Fields | None:
        if len(value) > self._bytes_max:
            raise EventError(
                "oversized",
                f"value has {len(value)} bytes, expected at most {self._bytes_max}; see --event-bytes-max",
            )
        try:
            return self._open(self._decode(value))
        except EventError:
            raise
        except Exception as error:
            raise _unreadable(value, error) from None

    def _row(self, record: Record, fields: Fields, latest: float) -> bytes:
        kind = self._types.get(fields.name.lower(), _OTHER)
        if kind == _PURCHASE and fields.order_id not in _ABSENT:
            # Orders and events are often numbered alike: order 17 is not event 17.
            identity = f"order\0{fields.order_id}"
        elif fields.event_id not in _ABSENT:
            identity = str(fields.event_id)
        else:
            identity = f"\0{_origin(record)}"
        return _ROW.pack(
            record.offset,
            xxhash.xxh3_64_intdigest(identity.encode()) or 1,
            _seconds(fields.time, latest),
            self._value(kind, fields) if kind in (_PURCHASE, _REFUND) else 0,
            self._category_bucket(fields.category),
            self._item_bucket(fields.item),
            kind,
        )

    def _review(self, fields: Fields) -> str:
        """The beginning of what a review says; empty for other events and where there is no text."""
        if self._types.get(fields.name.lower()) != _REVIEW:
            return ""
        try:
            return _TEXT.decode(fields.text).strip()[:REVIEW_CHARS_MAX]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ""

    def _value(self, kind: int, fields: Fields) -> int:
        """Net value: of a purchase what was paid, of a refund the same below zero (all else has none)."""
        amount = _line_total(fields.lines) if fields.amount in _ABSENT else _number(fields.amount)
        value = self._money.hundredths(amount, fields.currency) if amount else 0
        return -abs(value) if kind == _REFUND else value


def hash_bucket(name: str | int | None) -> int:
    """The bucket 1..65535 by which a category or item is known in state and tokens; 0 where none is given.

    >>> hash_bucket("shoes"), hash_bucket(17) == hash_bucket("17"), hash_bucket("")
    (42997, True, 0)
    """
    if name is None or name == "":
        return 0
    return 1 + xxhash.xxh3_64_intdigest(str(name).encode()) % 65_535


class _HashBuckets:
    """:func:`hash_bucket`, which remembers the names it met last.

    They are kept as text: a dict of numbers has no secret seed, so whoever chooses the numbers can make it slow.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, name: str | int | None) -> int:
        if name is None or name == "":
            return 0
        text = name if isinstance(name, str) else f"{name}"
        bucket = self._known.get(text)
        if bucket is None:
            if len(self._known) >= _HASH_CACHE_MAX:
                self._known.clear()
            bucket = hash_bucket(text)
            if len(text) <= _NAME_REMEMBERED_MAX:
                self._known[text] = bucket
        return bucket

    def names(self) -> dict[int, str]:
        """Bucket → name of those remembered, the first where several share a bucket."""
        return {bucket: name for name, bucket in reversed(self._known.items())}


def _origin(record: Any) -> str | int:
    """Where an event without an id was at first: its offset, or what a replay says of it."""
    for name, content in getattr(record, "headers", ()):
        if name == ORIGIN_HEADER and content:
            return str(content.decode(errors="replace"))
    return int(record.offset)


def _erasure(record: Any, latest: float) -> Erasure:
    """The erasure that a record without a value asks for; it is of the record's time, never of the future."""
    # Records read from a file have no headers.
    if (COMMAND_HEADER, ERASE) not in getattr(record, "headers", ()):
        raise EventError("null", "value is null, expected a JSON object; a tombstone means nothing here")
    try:
        user = _user((record.key or b"").decode())
    except UnicodeDecodeError:
        raise EventError("user", "key of an erasure is not UTF-8, expected the user id") from None
    seconds = max(0, min(record.timestamp / 1000, latest, _TIME_MAX))
    return Erasure(user, int(seconds), record.offset)


def _user(user: str | int | None) -> str:
    name = "" if user is None else str(user)
    if not name:
        raise EventError("user", "user id is missing, expected a string or a number")
    if len(name) > _USER_ID_MAX:
        raise EventError("user", f"user id has {len(name)} characters, expected at most {_USER_ID_MAX}")
    if "\0" in name:
        raise EventError("user", "user id holds a NUL, expected text")
    return name


def _seconds(time: datetime | float | int | None, latest: float) -> int:
    if isinstance(time, datetime):
        seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    elif time is None:
        raise EventError("timestamp", "timestamp is missing, expected ISO 8601 or seconds or milliseconds since 1970")
    else:
        # Whole milliseconds, as a huge integer does not fit a float.
        seconds = time // 1000 if time > _MILLISECONDS_FROM else time
    if not 1 <= seconds <= _TIME_MAX:
        raise EventError("timestamp", f"timestamp is {time!s:.40}, expected a time between 1970 and 2106")
    if seconds > latest:
        raise EventError(
            "future", f"timestamp is {seconds - latest:.0f} s past the allowed skew; check the sender's clock"
        )
    return int(seconds)


def _number(amount: float | int | str | None) -> float:
    try:
        number = float(amount or 0)
    except ValueError:
        raise EventError("schema", f"amount is {amount!r:.40}, expected a number") from None
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EventError("value", f"amount is {amount!r:.40}, expected a finite number")
    return number


def _line_total(lines: Sequence[_Product | _Flat]) -> float:
    return sum(_number(line.price) * _number(1 if line.quantity in _ABSENT else line.quantity) for line in lines)


def _unreadable(value: bytes, error: Exception) -> EventError:
    if value[:1] == b"\0" and len(value) > 5:
        return EventError(
            "confluent",
            "value starts with the magic byte of the Confluent wire format, expected plain JSON; "
            "no schema registry is configured, so send JSON without a registry serializer",
        )
    if isinstance(error, msgspec.ValidationError):
        return EventError("schema", str(error))
    if isinstance(error, RecursionError):
        return EventError("too_deep", "value is nested too deeply to read, expected a flat event")
    return EventError(
        "malformed", f"value is not JSON ({error}), expected one JSON object; check the producer's serializer"
    )
