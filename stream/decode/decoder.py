"""Decode: raw records → an event batch, and the records that cannot be used with the reason.

The envelope (:mod:`stream.decode.envelopes`) is read into a typed struct, then folded into one packed ``EVENT``
row. Nothing here raises for a bad record: it comes back as a :class:`DeadLetter`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import xxhash

from stream.contract.columns import DAY_S
from stream.contract.events import EVENT, EventBatch, EventType
from stream.decode.envelopes import PRESETS, Name, Time
from stream.decode.money import ABSENT, Money
from stream.decode.names import EventKinds, HashBuckets, hash_bucket
from stream.decode.pseudonyms import Pseudonyms
from stream.errors import ConfigError, EventError
from stream.state.erasure import COMMAND_HEADER, ERASE, Erasure

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
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Numbers above this are milliseconds, not seconds: 1e11 s is the year 5138, 1e11 ms is 1973.
_MILLISECONDS_FROM: Final = 1e11
_TIME_MAX: Final = 2**32 - 1
#: Of longer reviews the beginning is read: BERT takes at most 512 tokens, some 2,500 characters of English.
REVIEW_CHARS_MAX: Final = 4_000
# Plain integers: looking a member up and comparing it costs more than the rest of the row.
_PURCHASE: Final = int(EventType.PURCHASE)
_REFUND: Final = int(EventType.REFUND)
_REVIEW: Final = int(EventType.REVIEW)
_TEXT: Final = msgspec.json.Decoder(str)


class Record(Protocol):
    """What is read of a Kafka record (those of aiokafka and kafka-python fit)."""

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
        self._envelope = PRESETS[preset]
        self._parse: Callable[[bytes], Any] = msgspec.json.Decoder(self._envelope.shape).decode
        self._money = money
        self._bytes_max = bytes_max
        self._future_skew_s = future_skew_s
        #: By which user ids are replaced, if they are.
        self.pseudonyms = pseudonyms
        self._kinds = EventKinds(self._envelope.names)
        self._categories = HashBuckets()
        self._items = HashBuckets()

    @property
    def categories(self) -> dict[int, str]:
        """Hash bucket → name of the categories met, as far as they are remembered; of two in one bucket the first."""
        return self._categories.names()

    def decode(self, records: Sequence[Record], now: float) -> Decoded:
        """Decode records in order; ``now`` is our clock in seconds, the bound for event times."""
        latest = now + self._future_skew_s
        out = Decoded(EventBatch([], np.empty(0, EVENT)), [], [], 0)
        rows = self._rows(records, latest, out)
        users, erasures = out.batch.users, out.erasures
        if self.pseudonyms:
            of = self.pseudonyms.pseudonym_of
            users, erasures = [*map(of, users)], [e._replace(user=of(e.user)) for e in erasures]
        batch = EventBatch(users, np.frombuffer(b"".join(rows), EVENT))
        n_ignored = len(records) - len(out.records) - len(out.dead) - len(erasures)
        return Decoded(batch, out.records, out.dead, n_ignored, out.reviews, erasures)

    def _rows(self, records: Sequence[Record], latest: float, out: Decoded) -> list[bytes]:
        """The packed rows of the usable events; all else that comes of the records is added to ``out``.

        Every event goes through here, so what is ordinary is done in place, and functions are called for what is not.
        """
        parse, fields_of, kinds = self._parse, self._envelope.fields, self._kinds
        categories, items, bytes_max = self._categories, self._items, self._bytes_max
        used, users, rows = out.records, out.batch.users, list[bytes]()
        pack, digest, epoch = _ROW.pack, xxhash.xxh3_64_intdigest, _EPOCH
        # A time before this whole second is before ``latest`` with any fraction.
        certain = int(max(0, min(latest, _TIME_MAX)))
        for record in records:
            try:
                value = record.value
                if value is None:
                    out.erasures.append(_erasure(record, latest))
                    continue
                if len(value) > bytes_max:
                    raise _oversized(value, bytes_max)
                try:
                    event = parse(value)
                except Exception as error:
                    raise _unreadable(value, error) from None
                fields = fields_of(event)
                if fields is None:
                    continue
                name, user, time, event_id, category, item = fields
                if type(user) is not str or not user or len(user) > _USER_ID_MAX or "\0" in user:
                    user = _user(user)
                seconds = 0
                if type(time) is datetime and time.tzinfo:
                    since = time - epoch
                    seconds = since.days * DAY_S + since.seconds
                elif type(time) is int:
                    seconds = time // 1000 if time > _MILLISECONDS_FROM else time
                if not 0 < seconds < certain:
                    seconds = _seconds(time, latest)
                kind, amount = kinds[name], 0
                if event_id and kind < _PURCHASE:
                    identity = str(event_id)
                else:
                    identity, amount = self._rare(kind, event, event_id, record)
                    if kind == _REVIEW and (text := self._review(event)):
                        out.reviews.append((len(used), text))
                hashed = digest(identity.encode()) or 1
                rows.append(pack(record.offset, hashed, seconds, amount, categories[category], items[item], kind))
                users.append(user)
                used.append(record)
            except EventError as error:
                out.dead.append(DeadLetter(record, error.reason, str(error)))
        return rows

    def _rare(self, kind: int, event: Any, event_id: Name, record: Record) -> tuple[str, int]:
        """Identity and net value: of a purchase what was paid, of a refund the same below zero (all else has none)."""
        amount, order_id = 0, None
        if kind in (_PURCHASE, _REFUND):
            order = self._envelope.order(event)
            amount = self._money.paid(order)
            order_id = order.order_id
        if kind == _PURCHASE and order_id not in ABSENT:
            # Orders and events are often numbered alike: order 17 is not event 17.
            return f"order\0{order_id}", amount
        identity = f"\0{_origin(record)}" if event_id in ABSENT else str(event_id)
        return identity, -abs(amount) if kind == _REFUND else amount

    def _review(self, event: Any) -> str:
        """The beginning of what a review says; empty where there is no text."""
        try:
            return _TEXT.decode(self._envelope.text(event)).strip()[:REVIEW_CHARS_MAX]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ""


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


def _user(user: Name) -> str:
    name = "" if user is None else str(user)
    if not name:
        raise EventError("user", "user id is missing, expected a string or a number")
    if len(name) > _USER_ID_MAX:
        raise EventError("user", f"user id has {len(name)} characters, expected at most {_USER_ID_MAX}")
    if "\0" in name:
        raise EventError("user", "user id holds a NUL, expected text")
    return name


def _seconds(time: Time, latest: float) -> int:
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


def _oversized(value: bytes, bytes_max: int) -> EventError:
    return EventError("oversized", f"value has {len(value)} bytes, expected at most {bytes_max}; see --event-bytes-max")


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
