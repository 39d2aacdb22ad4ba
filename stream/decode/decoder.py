"""Decode: turn raw records into an event batch, and name the reason for each record that cannot be used.

A record is parsed into the typed struct of its envelope (:mod:`stream.decode.envelopes`) and then packed into one
``EVENT`` row. A bad record never raises an error here: it comes back as a :class:`DeadLetter`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from operator import attrgetter
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import xxhash

from stream.contract.columns import DAY_S
from stream.contract.events import EVENT, ORDER_UPDATED, EventBatch, EventType
from stream.decode.envelopes.envelope import Event, text_of_review
from stream.decode.envelopes.presets import PRESETS, envelope_of
from stream.decode.fields import (
    MILLISECONDS_FROM,
    TIME_MAX,
    USER_ID_CHARS_MAX,
    Name,
    checked_seconds,
    oversized,
    user_id,
)
from stream.decode.identity import ORIGIN_HEADER, hashed, origin, whole_origin
from stream.decode.money import Money, Order
from stream.decode.names import EventKinds, HashBuckets, hash_bucket
from stream.decode.order_events import order_notes, read_order
from stream.decode.placeholders import Placeholders
from stream.decode.pseudonyms import Pseudonyms
from stream.decode.tolerant import Reader
from stream.errors import EventError
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

_ROW: Final = struct.Struct("<qQIqHHB")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Of a longer review only the beginning is read: BERT takes at most 512 tokens, about 2,500 characters of English.
REVIEW_CHARS_MAX: Final = 4_000
# Plain integers: looking up an enum member and comparing it costs more than the rest of the row.
_PURCHASE: Final = int(EventType.PURCHASE)
_ORDER_KINDS: Final = frozenset((int(EventType.PURCHASE), int(EventType.REFUND), ORDER_UPDATED))
_REVIEW: Final = int(EventType.REVIEW)


class Record(Protocol):
    """What we read of a Kafka record. The records of aiokafka and of kafka-python fit."""

    offset: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be used. ``reason`` is a metric label; ``message`` is for people."""

    record: Any
    reason: str
    message: str
    stage: str = "decode"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was decoded: usable events, the ``records`` they came from, and dead letters.

    ``n_ignored`` counts the records of no interest. ``reviews`` are the texts of the reviews among the events, each
    with its index in the batch. ``erasures`` come from records that are not events: they ask us to forget a user.
    """

    batch: EventBatch
    records: list[Any]
    dead: list[DeadLetter]
    n_ignored: int
    reviews: list[tuple[int, str]] = field(default_factory=list)
    erasures: list[Erasure] = field(default_factory=list)
    #: How often each field was left out of its event, because it could not be read.
    fields_ignored: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Fetch:
    """What was decoded of one fetch so far. A usable event has its user, record and row at the same index."""

    latest: float
    reader: Reader
    users: list[str] = field(default_factory=list)
    records: list[Any] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    reviews: list[tuple[int, str]] = field(default_factory=list)
    #: The order that an event names: the index of the event, the hash of the order id, and an ``OrderChange``.
    orders: list[tuple[int, int, int]] = field(default_factory=list)
    erasures: list[Erasure] = field(default_factory=list)
    n_ignored: int = 0


class Decoder:
    """Decodes records of one envelope: a preset, or the file of a mapping. With ``pseudonyms`` no user id gets through.

    ``zone`` is that of times without one. ``content_of`` gives what a record of another format than JSON holds; see
    :meth:`stream.registry.schemas.Schemas.content`.
    """

    def __init__(
        self,
        envelope: str,
        money: Money,
        *,
        bytes_max: int,
        future_skew_s: float,
        pseudonyms: Pseudonyms | None = None,
        placeholders: Placeholders | None = None,
        zone: tzinfo = UTC,
        content_of: Callable[[Record], Any] | None = None,
    ) -> None:
        self._envelope = envelope_of(envelope)
        self._parse = _no_shape if self._envelope.shape is None else msgspec.json.Decoder(self._envelope.shape).decode
        self._placeholders, self._zone = placeholders or Placeholders(), zone
        self._money = money
        self._content_of = content_of or attrgetter("value")
        self._bytes_max = bytes_max
        self._future_skew_s = future_skew_s
        #: Replaces user ids, if there is a key.
        self.pseudonyms = pseudonyms
        self._kinds = EventKinds(self._envelope.names)
        self._categories = HashBuckets(self._placeholders.names)
        self._items = HashBuckets(self._placeholders.names)

    @property
    def categories(self) -> dict[int, str]:
        """Hash bucket → name of the categories that are remembered. If two share a bucket, the first one is given."""
        return self._categories.names()

    @property
    def unknown_names(self) -> Counter[str]:
        """How often each event name came that is in no table, since the decoder was made."""
        return self._kinds.unknown

    def decode(self, records: Sequence[Record], now: float) -> Decoded:
        """Decode records in order.

        ``now`` is the time of our clock in seconds. An event time further ahead of it than the allowed skew is refused.
        """
        fetch = _Fetch(now + self._future_skew_s, Reader(self._placeholders, self._zone))
        self._decode(records, fetch)
        users, erasures = fetch.users, fetch.erasures
        if self.pseudonyms:
            pseudonym_of = self.pseudonyms.pseudonym_of
            users = [*map(pseudonym_of, users)]
            erasures = [erasure._replace(user=pseudonym_of(erasure.user)) for erasure in erasures]
        batch = EventBatch(
            users, np.frombuffer(b"".join(fetch.rows), EVENT), order_notes(len(fetch.rows), fetch.orders)
        )
        ignored = fetch.reader.ignored
        return Decoded(batch, fetch.records, fetch.dead, fetch.n_ignored, fetch.reviews, erasures, ignored)

    def _decode(self, records: Sequence[Record], fetch: _Fetch) -> None:
        """Add what comes out of the records to ``fetch``.

        Every event goes through here. So the ordinary case is handled in place, and functions are called only for the
        rare ones. What does not fit the typed struct goes to :meth:`_tolerate`.
        """
        parse, fields_of, kinds = self._parse, self._envelope.fields, self._kinds
        order_of, text_of = self._envelope.order, self._envelope.text
        categories, items, bytes_max = self._categories, self._items, self._bytes_max
        used, users, rows, latest = fetch.records, fetch.users, fetch.rows, fetch.latest
        pack, digest, epoch, nobody = _ROW.pack, xxhash.xxh3_64_intdigest, _EPOCH, self._placeholders.ids
        # A time before this whole second is before ``latest``, whatever its fraction.
        surely_past = int(max(0, min(latest, TIME_MAX)))
        for record in records:
            try:
                value = record.value
                if value is None:
                    fetch.erasures.append(_erasure(record, latest))
                    continue
                if len(value) > bytes_max:
                    raise oversized(value, bytes_max)
                try:
                    event = parse(value)
                except Exception:
                    self._tolerate(record, fetch)
                    continue
                fields = fields_of(event)
                if fields is None:
                    fetch.n_ignored += 1
                    continue
                name, user, time, event_id, category, item = fields
                if user in nobody or type(user) is not str or len(user) > USER_ID_CHARS_MAX or "\0" in user:
                    if user in nobody:
                        self._tolerate(record, fetch)
                        continue
                    user = user_id(user)
                seconds = 0
                if type(time) is datetime and time.tzinfo:
                    since = time - epoch
                    seconds = since.days * DAY_S + since.seconds
                elif type(time) is int:
                    seconds = time // 1000 if time > MILLISECONDS_FROM else time
                if not 0 < seconds < surely_past:
                    if time is None:
                        self._tolerate(record, fetch)
                        continue
                    seconds = checked_seconds(time, latest, self._zone)
                kind, amount = kinds[name], 0
                if kind < _PURCHASE and event_id not in nobody:
                    identity = str(event_id)
                else:
                    order = order_of(event) if kind in _ORDER_KINDS else None
                    kind, identity, amount = self._rare(kind, order, event_id, item, record, fetch)
                    if kind == _REVIEW:
                        _note_review(text_of_review(text_of(event)), fetch)
                known_by = digest(identity.encode()) or 1
                rows.append(pack(record.offset, known_by, seconds, amount, categories[category], items[item], kind))
                users.append(user)
                used.append(record)
            except EventError as error:
                fetch.dead.append(DeadLetter(record, error.reason, str(error)))

    def _tolerate(self, record: Record, fetch: _Fetch) -> None:
        """Take in a record that does not fit its envelope's shape, and may hold several events.

        If any of its events cannot be used, the record becomes one dead letter, with the reason of the first of them.
        The others count all the same, so that a replay of the dead letter finds them to be repeats. Raises EventError
        if no event is found.
        """
        n_before, refused = len(fetch.rows), None
        events, reader = self._envelope.unwrap(self._content_of(record), self._bytes_max), fetch.reader
        for i, event in enumerate(events):
            reader.noted.clear()
            place = origin(record) if len(events) == 1 else f"{whole_origin(record)}/{i}"
            try:
                if (read := self._envelope.read(event, reader, record)) is not None:
                    self._append(read, record, place, fetch)
            except EventError as error:
                refused = refused or error
        if refused:
            fetch.dead.append(DeadLetter(record, refused.reason, str(refused)))
        elif len(fetch.rows) == n_before:
            fetch.n_ignored += 1

    def _append(self, event: Event, record: Record, place: str | int, fetch: _Fetch) -> None:
        """Append one event to ``fetch``, exactly as the loop of :meth:`_decode` does."""
        user, seconds = user_id(event.user), checked_seconds(event.time, fetch.latest, self._zone)
        kind = self._kinds[event.name]
        kind, identity, amount = self._rare(kind, event.order, event.event_id, event.item, record, fetch, place)
        if kind == _REVIEW:
            _note_review(event.text, fetch)
        buckets = self._categories[event.category], self._items[event.item]
        fetch.rows.append(_ROW.pack(record.offset, hashed(identity), seconds, amount, *buckets, kind))
        fetch.users.append(user)
        fetch.records.append(record)
        fetch.reader.ignored.update(fetch.reader.noted)

    def _rare(
        self,
        kind: int,
        order: Order | None,
        event_id: Name,
        item: Name,
        record: Record,
        fetch: _Fetch,
        place: str | int | None = None,
    ) -> tuple[int, str, int]:
        """Type, identity and value of an event of an order, a review, or an event without an id.

        The next event of ``fetch`` is this one: what it says about an order is noted there. ``place`` tells events
        without an id apart if their record holds several.
        """
        amount, nobody = 0, self._placeholders.ids
        if order is not None and kind in _ORDER_KINDS:
            said = read_order(kind, order, item, self._money, nobody)
            kind, amount = said.type, said.value
            if said.order:
                fetch.orders.append((len(fetch.records), said.order, said.change))
            if said.identity is not None:
                return kind, said.identity, amount
        if event_id not in nobody:
            return kind, str(event_id), amount
        return kind, f"\0{origin(record) if place is None else place}", amount


def _note_review(text: str, fetch: _Fetch) -> None:
    """Note the beginning of the text of a review, which the next event of the fetch is."""
    beginning = text.strip()[:REVIEW_CHARS_MAX]
    if beginning:
        fetch.reviews.append((len(fetch.records), beginning))


def _no_shape(_value: bytes) -> Any:
    """Stands in for the parser of an envelope without a shape: its events all go the tolerant way."""
    raise ValueError


def _erasure(record: Any, latest: float) -> Erasure:
    """The erasure that a record without a value asks for. Its time is that of the record, but never in the future."""
    # Records read from a file have no headers.
    if (COMMAND_HEADER, ERASE) not in getattr(record, "headers", ()):
        raise EventError("null", "value is null, expected a JSON object; a tombstone means nothing here")
    try:
        user = user_id((record.key or b"").decode())
    except UnicodeDecodeError:
        raise EventError("user", "key of an erasure is not UTF-8, expected the user id") from None
    seconds = max(0, min(record.timestamp / 1000, latest, TIME_MAX))
    return Erasure(user, int(seconds), record.offset)
