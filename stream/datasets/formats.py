"""Formats: read the files of known data sets as events, in event-time order and the same ones every time.

==================  ==================================================================================
uci-online-retail   UCI Online Retail as Parquet; one order (or refund) per invoice, GBP, times as UTC
tmall               Tmall 2014 clickstream, CSV; days of 2013, no prices, brands stand for products
cdnow               CDNOW master or sample, text columns; one order per transaction, USD
rees46              REES46 Open CDP, CSV; streamed, so that a file can be larger than memory
jsonl               events that are JSON already, one on each line; sent unchanged, in file order
==================  ==================================================================================

Text files may be gzipped. A message id is a hash of the content and the place in the file. So if a file is replayed
twice, its events are known as repeated.
"""

from __future__ import annotations

import csv
import heapq
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stream.datasets.events import Event, Properties, RawEvent
from stream.datasets.jsonl import read_jsonl
from stream.datasets.reading import ReadSummary, message_id, refuse_shape, spread_days, text_lines, utc
from stream.datasets.uci_online_retail import read_uci_online_retail
from stream.errors import ConfigError

__all__ = ["FORMATS", "ReadSummary", "read_events"]

#: The REES46 reader holds this many lines back, to sort lines that are slightly out of order. The published files have
#: no such lines.
REORDER_EVENTS_MAX: Final = 10_000


def read_events(path: Path, format: str, summary: ReadSummary | None = None) -> Iterator[Event | RawEvent]:
    """The events of a file, in event-time order. ``summary`` counts lines, events and dropped lines.

    Raises ConfigError: at once for an unknown format or a missing file, at the first event for a file of a wrong shape.
    """
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}, known are {', '.join(FORMATS)}; check --format")
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give the path of a {format} file")
    return FORMATS[format](path, ReadSummary() if summary is None else summary)


# Tmall ------------------------------------------------------------------------------------------------

_TMALL_COLUMNS: Final = ("user_id", "brand_id", "type", "visit_datetime")
_TMALL_NAMES: Final = {
    "0": "Product Viewed",
    "1": "Order Completed",
    "2": "Product Added to Wishlist",
    "3": "Product Added",
}
_TMALL_YEAR: Final = 2013


def _tmall(path: Path, summary: ReadSummary) -> Iterator[Event]:
    rows = []
    for line, row in enumerate(_table(path, "tmall", _TMALL_COLUMNS, summary)):
        try:
            month, day = map(int, row[3].split("-"))
            rows.append((datetime(_TMALL_YEAR, month, day, tzinfo=UTC), (line, row[0], row[1], _TMALL_NAMES[row[2]])))
        except (ValueError, KeyError):
            summary.dropped["unreadable"] += 1
    for when, (line, user, brand, name) in spread_days(rows):
        summary.events += 1
        event_id = message_id("tmall", line, user, brand, name, when)
        yield Event(name, event_id, user, when, Properties(product_id=brand))


# CDNOW ------------------------------------------------------------------------------------------------


def _cdnow(path: Path, summary: ReadSummary) -> Iterator[Event]:
    rows = []
    for line, text in enumerate(text_lines(path)):
        fields = text.split()
        if not fields or (line == 0 and fields[0] == "customer_id"):
            continue
        summary.lines += 1
        try:
            # The sample file has its own customer number after that of the master file.
            user, *_, date, units, dollars = fields
            day = datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC)
            rows.append((day, (line, user, int(units), float(dollars))))
        except ValueError:
            if not rows:
                refuse_shape(path, "cdnow", f"line {text.strip()!r}", "customer, date (YYYYMMDD), units, dollars")
            summary.dropped["unreadable"] += 1
    for when, (line, user, n_units, total) in spread_days(rows):
        summary.events += 1
        event_id = message_id("cdnow", line, user, when, n_units, total)
        properties = Properties(
            category="music", quantity=n_units, order_id=f"cdnow-{event_id[:16]}", total=total, currency="USD"
        )
        yield Event("Order Completed", event_id, user, when, properties)


# REES46 -----------------------------------------------------------------------------------------------

_REES46_COLUMNS: Final = (
    "event_time", "event_type", "product_id", "category_id", "category_code", "brand", "price", "user_id",
    "user_session",
)  # fmt: skip
_REES46_NAMES: Final = {
    "view": "Product Viewed",
    "cart": "Product Added",
    "remove_from_cart": "Product Removed",
    "purchase": "Order Completed",
}


def _rees46(path: Path, summary: ReadSummary) -> Iterator[Event]:
    """Yield an event for each line. Each purchased product is an order of its own, because there are no order ids."""
    yield from _reordered(_rees46_lines(path, summary), summary)


def _rees46_lines(path: Path, summary: ReadSummary) -> Iterator[Event]:
    for line, row in enumerate(_table(path, "rees46", _REES46_COLUMNS, summary)):
        time, kind, product, category_id, category_code, brand, price, user, _session = row
        if not user:
            summary.dropped["without user"] += 1
            continue
        try:
            name, when, value = _REES46_NAMES[kind], utc(time.removesuffix(" UTC")), float(price or 0)
        except (ValueError, KeyError):
            summary.dropped["unreadable"] += 1
            continue
        properties = Properties(
            product_id=product,
            category=category_code or category_id or None,
            price=value,
            quantity=1,
            total=value if kind == "purchase" else None,
            name=brand or None,
        )
        yield Event(name, message_id("rees46", line, *row), user, when, properties)


def _reordered(events: Iterator[Event], summary: ReadSummary) -> Iterator[Event]:
    """Sort by event time, with up to ``REORDER_EVENTS_MAX`` events held back. Those still late are sent and counted."""
    held: list[tuple[datetime, int, Event]] = []
    newest = datetime.min.replace(tzinfo=UTC)
    for n, event in enumerate(events):
        item = (event.timestamp, n, event)
        if len(held) < REORDER_EVENTS_MAX:
            heapq.heappush(held, item)
            continue
        when, _, event = heapq.heappushpop(held, item)
        summary.events += 1
        summary.out_of_order += when < newest
        newest = max(newest, when)
        yield event
    for when, _, event in sorted(held):
        summary.events += 1
        summary.out_of_order += when < newest
        yield event


# Shared -----------------------------------------------------------------------------------------------


def _table(path: Path, name: str, columns: tuple[str, ...], summary: ReadSummary) -> Iterator[list[str]]:
    """Yield the rows of a CSV file with exactly these columns. Rows of another length are dropped and counted."""
    rows = csv.reader(text_lines(path))
    try:
        header = next(rows, [])
        if tuple(header) != columns:
            refuse_shape(path, name, f"columns {','.join(header) or '(none)'}", f"columns {','.join(columns)}")
        for row in rows:
            summary.lines += 1
            if len(row) == len(columns):
                yield row
            else:
                summary.dropped["unreadable"] += 1
    except csv.Error as error:
        raise ConfigError(f"{path}: line {rows.line_num} is not CSV ({error}); check --format") from error


_Reader = Callable[[Path, ReadSummary], Iterator[Event | RawEvent]]

#: Name on the command line → reader.
FORMATS: Final[dict[str, _Reader]] = {
    "uci-online-retail": read_uci_online_retail,
    "tmall": _tmall,
    "cdnow": _cdnow,
    "rees46": _rees46,
    "jsonl": read_jsonl,
}
