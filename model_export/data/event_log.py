"""Event log: reads the events of a data set, decoded by the serving code, in event-time order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from stream.arrays import EventRows, Numbers, OrderNotes, Rows
from stream.clock import SystemClock
from stream.contract.events import EVENT, ORDER_NOTE, EventBatch
from stream.datasets.formats import FORMATS, read_events
from stream.datasets.market import CURRENCY, Market
from stream.datasets.topic_source import is_topic
from stream.decode.decoder import Decoder, Money
from stream.decode.placeholders import Placeholders
from stream.errors import ConfigError
from stream.kafka.events_topic import end_offsets, read_topic
from stream.registry.connect import schemas_of
from stream.registry.schemas import Schemas
from stream.score.sentiment import Sentiment
from stream.settings import Settings, zone_of
from stream.state.partition_state import PartitionState

__all__ = [
    "NEVER_LATE_S",
    "SIMULATOR",
    "DataConfig",
    "EventLog",
    "UserTimeKeys",
    "decoder_of",
    "fingerprint",
    "load",
    "read_log",
    "user_time_keys",
]

#: Sentiments of reviews, -1 to 1; nan for an event without a review.
Sentiments: TypeAlias = npt.NDArray[np.float32]
#: Texts → sentiments ``(n,)``.
TextReader: TypeAlias = Callable[[Sequence[str]], Sentiments]
#: A user and a second as one number each, see :func:`user_time_keys`.
UserTimeKeys: TypeAlias = npt.NDArray[np.int64]
SIMULATOR: Final = "simulator"
#: The simulated market opens on this Monday. It is fixed, so that a seed always gives the same history.
SIMULATION_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
#: Currency of each known format, for files that name none in their orders.
_CURRENCIES: Final = {SIMULATOR: CURRENCY, "uci-online-retail": "GBP", "tmall": "CNY"}
_CHUNK: Final = 10_000
#: Training sees every event, however late it is: this lateness is longer than any history.
NEVER_LATE_S: Final = 2**40
_EVENT_BYTES_MAX: Final = 1 << 20
#: The clock that the decoder is given. It is later than any event time, so that no event is too far in the future.
_NOW: Final = float(2**32)


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the events come from: a file of a known format, ``kafka://host:port/topic``, or the simulator."""

    source: str = SIMULATOR
    format: str = "jsonl"
    #: Envelope of a JSON Lines file or a topic. All other formats are read as Segment events.
    envelope: str = "segment"
    #: Reporting currency. Empty: the currency of the format, or USD if the format has none.
    currency: str = ""
    #: How events are decoded, as the worker's settings of the same names say.
    fx_rates: dict[str, float] = {}
    decimal_comma: bool | None = None
    naive_time_zone: str = "UTC"
    placeholder_ids: tuple[str, ...] = ()
    #: For the simulator: how many shoppers are active at any time, and how many days are simulated.
    users: int = 2_500
    days: int = 210
    seed: int = 7
    #: Most events that are read; an event takes about 100 bytes of memory.
    events_max: int = 20_000_000
    #: Folder of the sentiment model that the worker reads reviews with. Empty: the worker reads no reviews.
    sentiment: str = ""
    #: CSV file with the columns user and group. Evaluation reports fairness by group; no model ever sees it.
    groups: str = ""

    @property
    def name(self) -> str:
        """Name of the data set, without its folder."""
        return Path(self.source).name

    @property
    def money(self) -> str:
        """The reporting currency."""
        key = SIMULATOR if self.source == SIMULATOR else self.format
        return self.currency or _CURRENCIES.get(key, "USD")


@dataclass(frozen=True, slots=True)
class EventLog:
    """All usable events in the order of event time: the user ``names[users[i]]`` did the event ``rows[i]``.

    The offset of an event is its place in this order, as if the file had been replayed into one partition.
    """

    names: list[str]
    users: Rows
    rows: EventRows
    #: How many events could not be used, by reason.
    dropped: Counter[str]
    #: Names of the categories seen, by hash bucket.
    categories: dict[int, str]
    #: Sentiment of the review in each event.
    sentiment: Sentiments

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def span(self) -> tuple[int, int]:
        """First and last event time, in seconds."""
        return int(self.rows["time"][0]), int(self.rows["time"][-1])

    def until(self, end: int) -> EventLog:
        """The log as it was known at ``end`` (seconds): what an earlier evaluation would have seen."""
        n = int(np.searchsorted(self.rows["time"], end, "right"))
        return replace(self, users=self.users[:n], rows=self.rows[:n], sentiment=self.sentiment[:n])


@dataclass(slots=True)
class _Record:
    offset: int
    value: bytes | None


def load(config: DataConfig) -> EventLog:
    """Read a data set. Raises ConfigError if it has no usable event, or more than ``events_max`` events."""
    reader = Sentiment(Path(config.sentiment)).run if config.sentiment else None
    schemas = schemas_of(Settings(), SystemClock()) if is_topic(config.source) else None
    decoder = decoder_of(config, schemas)
    return read_log(_values(config), decoder, events_max=config.events_max, read_texts=reader, schemas=schemas)


def decoder_of(config: DataConfig, schemas: Schemas | None = None) -> Decoder:
    """What decodes the events of a data set: the decoder of the service, with settings of the same meaning.

    Raises ConfigError for a setting that is none.
    """
    try:
        zone = zone_of(config.naive_time_zone)
    except ValueError as error:
        raise ConfigError(f"data.naive_time_zone is {config.naive_time_zone!r}, {error}") from None
    return Decoder(
        "segment" if config.source == SIMULATOR or config.format != "jsonl" else config.envelope,
        Money(config.money, config.fx_rates, config.decimal_comma),
        bytes_max=_EVENT_BYTES_MAX,
        future_skew_s=0,
        placeholders=Placeholders(config.placeholder_ids),
        zone=zone,
        content_of=schemas.content if schemas else None,
    )


def fingerprint(config: DataConfig) -> bytes:
    """Bytes that differ if other events stand under the same name: of a topic, its end offsets as they are now."""
    if config.source == SIMULATOR:
        return b""
    if is_topic(config.source):
        return msgspec.json.encode(list(end_offsets(config.source).items()))
    return Path(config.source).read_bytes()


def read_log(
    values: Iterable[bytes],
    decoder: Decoder,
    *,
    events_max: int,
    read_texts: TextReader | None = None,
    schemas: Schemas | None = None,
) -> EventLog:
    """Decode events as the service would and sort them by event time; events of one second keep their order.

    ``read_texts`` reads the reviews; without it, no event has a sentiment. ``schemas`` are those of values in the
    Confluent wire format; the decoder reads by them.
    """
    index: dict[str, int] = {}
    users: list[Rows] = []
    rows: list[EventRows] = []
    orders: list[OrderNotes] = []
    reviews: dict[int, str] = {}
    dropped: Counter[str] = Counter()
    for chunk in _chunks(values, events_max):
        if schemas is not None:
            schemas.fetch_now(chunk)
        decoded = decoder.decode(chunk, _NOW)
        dropped.update(dead.reason for dead in decoded.dead)
        dropped["ignored"] += decoded.n_ignored
        if read_texts is not None:
            begin = sum(map(len, rows))
            reviews.update((begin + i, text) for i, text in decoded.reviews)
        users.append(np.array([index.setdefault(user, len(index)) for user in decoded.batch.users], np.int64))
        rows.append(decoded.batch.rows)
        orders.append(decoded.batch.orders if len(decoded.batch.orders) else np.zeros(len(decoded.batch), ORDER_NOTE))
    if not index:
        raise ConfigError(
            f"data set has no usable event (dropped: {_reasons(dropped)}); "
            "check data.source, data.format and data.envelope"
        )
    sentiment = np.full(sum(map(len, rows)), np.nan, np.float32)
    if read_texts is not None and reviews:
        sentiment[list(reviews)] = read_texts(list(reviews.values()))
    log = EventLog(
        names=list(index),
        users=np.concatenate(users),
        rows=np.concatenate(rows),
        dropped=+dropped,
        categories=decoder.categories,
        sentiment=sentiment,
    )
    return _settled(*_sorted(log, np.concatenate(orders)))


def user_time_keys(users: Rows, seconds: Numbers) -> UserTimeKeys:
    """One int64 for each user and time. Sorting by it sorts by user, then by time.

    Times, or any other numbers in their place, must lie below 2³².
    """
    return (users << 32) | seconds.astype(np.int64)


def _chunks(values: Iterable[bytes], events_max: int) -> Iterator[list[_Record]]:
    """The values as records, in chunks. Raises ConfigError if there are more than ``events_max``."""
    records = (_Record(offset, value) for offset, value in enumerate(values))
    while chunk := list(islice(records, _CHUNK)):
        if chunk[-1].offset >= events_max:
            raise ConfigError(
                f"data set has more than {events_max:,} events; give a smaller file or raise data.events_max"
            )
        yield chunk


def _sorted(log: EventLog, orders: OrderNotes) -> tuple[EventLog, OrderNotes]:
    """The log in the order of event time, and what each event says about an order."""
    order = np.argsort(log.rows["time"], kind="stable")
    rows = log.rows[order].astype(EVENT)
    rows["offset"] = np.arange(len(rows))
    return replace(log, users=log.users[order], rows=rows, sentiment=log.sentiment[order]), orders[order]


def _settled(log: EventLog, notes: OrderNotes) -> EventLog:
    """The log without repeats, and with the type and value that each event's order leaves it, as serving counts them.

    Each event of the log stands at the offset of its place.
    """
    if not notes["change"].any():
        return log
    state, rows, counts = PartitionState(NEVER_LATE_S), log.rows.copy(), np.zeros(len(log), bool)
    for begin in range(0, len(log), _CHUNK):
        end = min(begin + _CHUNK, len(log))
        names = [log.names[user] for user in log.users[begin:end].tolist()]
        applied = state.apply(EventBatch(names, log.rows[begin:end], notes[begin:end]))
        accepted = begin + applied.accepted
        counts[accepted] = True
        rows["type"][accepted], rows["value"][accepted] = applied.events["type"], applied.events["value"]
    rows = rows[counts]
    rows["offset"] = np.arange(len(rows))
    n_repeats = Counter({"duplicate": len(log) - len(rows)})
    return replace(
        log, users=log.users[counts], rows=rows, sentiment=log.sentiment[counts], dropped=+(log.dropped + n_repeats)
    )


def _values(config: DataConfig) -> Iterator[bytes]:
    if config.source == SIMULATOR:
        market = Market(config.users, SIMULATION_START, config.seed)
        until = SIMULATION_START + timedelta(days=config.days)
        return (event.encode() for event in market.events(until))
    if is_topic(config.source):
        return read_topic(config.source, records_max=config.events_max)
    if config.format not in FORMATS:
        raise ConfigError(f"format is {config.format!r}, expected one of {', '.join(FORMATS)}; set data.format")
    return (event.record()[1] for event in read_events(Path(config.source), config.format))


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in sorted((+dropped).items())) or "none"
