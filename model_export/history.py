"""History: the events of a data set, decoded by the serving code, in event-time order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream.contract.events import EVENT
from stream.datasets.formats import FORMATS, read_events
from stream.datasets.shoppers import CURRENCY, Market
from stream.decode import Decoder, Money
from stream.errors import ConfigError

__all__ = ["SIMULATOR", "DataConfig", "EventLog", "load", "read_log"]

Array = npt.NDArray[Any]
SIMULATOR: Final = "simulator"
#: The simulated market opens on this Monday; a fixed one, so that a seed names one history.
SIMULATION_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
#: Currency of each known format; the file itself says it only where orders carry one.
_CURRENCIES: Final = {SIMULATOR: CURRENCY, "uci-online-retail": "GBP", "tmall": "CNY"}
_CHUNK: Final = 10_000
_EVENT_BYTES_MAX: Final = 1 << 20
#: Training reads history: no event is too far in the future.
_NOW: Final = float(2**32)


class DataConfig(msgspec.Struct, frozen=True):
    """Where the events come from: a file of a known format, or the simulator."""

    source: str = SIMULATOR
    format: str = "jsonl"
    #: Envelope of a JSON-lines file; all other formats are read as Segment events.
    envelope: str = "segment"
    #: Reporting currency; empty: that of the format, else USD.
    currency: str = ""
    #: Simulator: shoppers living at any time, and days simulated.
    users: int = 2_500
    days: int = 210
    seed: int = 7
    #: Most events read: about 100 bytes of memory each.
    events_max: int = 20_000_000

    @property
    def name(self) -> str:
        """The data set without its folder."""
        return Path(self.source).name

    @property
    def money(self) -> str:
        """The reporting currency."""
        key = SIMULATOR if self.source == SIMULATOR else self.format
        return self.currency or _CURRENCIES.get(key, "USD")


@dataclass(frozen=True, slots=True)
class EventLog:
    """Usable events by event time: ``users[i]`` (index into ``names``) did ``rows[i]``; why others were dropped.

    The offset of an event is its place in this order, as if the file had been replayed into one partition.
    """

    names: list[str]
    users: npt.NDArray[np.int64]
    rows: Array
    dropped: Counter[str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def span(self) -> tuple[int, int]:
        """First and last event time, in seconds."""
        return int(self.rows["time"][0]), int(self.rows["time"][-1])


@dataclass(slots=True)
class _Record:
    offset: int
    value: bytes | None


def load(config: DataConfig) -> EventLog:
    """Read a data set; raises ConfigError where nothing usable is found, or more than ``events_max`` events."""
    envelope = "segment" if config.source == SIMULATOR or config.format != "jsonl" else config.envelope
    return read_log(_values(config), envelope=envelope, currency=config.money, events_max=config.events_max)


def read_log(values: Iterable[bytes], *, envelope: str, currency: str, events_max: int) -> EventLog:
    """Decode event bytes as the service would and sort them by event time (stable)."""
    decoder = Decoder(envelope, Money(currency), bytes_max=_EVENT_BYTES_MAX, future_skew_s=0)
    index: dict[str, int] = {}
    users: list[Array] = []
    rows: list[Array] = []
    dropped: Counter[str] = Counter()
    records = (_Record(offset, value) for offset, value in enumerate(values))
    while chunk := list(islice(records, _CHUNK)):
        if chunk[-1].offset >= events_max:
            raise ConfigError(
                f"data set has more than {events_max:,} events; give a smaller file or raise --events-max"
            )
        decoded = decoder.decode(chunk, _NOW)
        dropped.update(dead.reason for dead in decoded.dead)
        dropped["ignored"] += decoded.n_ignored
        users.append(np.array([index.setdefault(user, len(index)) for user in decoded.batch.users], np.int64))
        rows.append(decoded.batch.rows)
    if not index:
        raise ConfigError(
            f"data set has no usable event (dropped: {_reasons(dropped)}); check --data, --format and --envelope"
        )
    return _sorted(list(index), np.concatenate(users), np.concatenate(rows), +dropped)


def _sorted(names: list[str], users: Array, rows: Array, dropped: Counter[str]) -> EventLog:
    order = np.argsort(rows["time"], kind="stable")
    rows = rows[order].astype(EVENT)
    rows["offset"] = np.arange(len(rows))
    return EventLog(names, users[order], rows, dropped)


def _values(config: DataConfig) -> Iterator[bytes]:
    if config.source == SIMULATOR:
        market = Market(config.users, SIMULATION_START, config.seed)
        until = SIMULATION_START + timedelta(days=config.days)
        return (event.encode() for event in market.events(until))
    if config.format not in FORMATS:
        raise ConfigError(f"format is {config.format!r}, expected one of {', '.join(FORMATS)}; set --format")
    return (event.record()[1] for event in read_events(Path(config.source), config.format))


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in sorted((+dropped).items())) or "none"
