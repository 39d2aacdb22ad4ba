"""Readers of known data files: each gives events in event-time order, the same ones on every reading.

==================  ==================================================================================
uci-online-retail   UCI Online Retail as Parquet; one order (or refund) per invoice, GBP, times as UTC
tmall               Tmall 2014 clickstream, CSV; days of 2013, no prices, the brand stands for the product
cdnow               CDNOW master or sample, text columns; one order per transaction, USD
rees46              REES46 Open CDP, CSV; streamed, so that a file larger than memory can be read
jsonl               events that are JSON already, one a line, sent as they are and in file order
==================  ==================================================================================

Text files may be gzipped. Message ids are hashes of content and place in the file, so the events of a
file that is replayed twice are known as repeats.
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
from stream.datasets.retail import read_uci_online_retail
from stream.errors import ConfigError

__all__ = ["FORMATS", "ReadSummary", "read_events"]

#: Lines that the REES46 reader holds back to put small disorder right; the published files have none.
REORDER_EVENTS_MAX: Final = 10_000


def read_events(path: Path, format: str, summary: ReadSummary | None = None) -> Iterator[Event | RawEvent]:
    """Give the events of a file in event-time order; ``summary`` counts lines, events and dropped lines.

    Raises ConfigError for an unknown format or a missing file at once, for a wrong shape on the first event.
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
        ident = message_id("tmall", line, user, brand, name, when)
        yield Event(name, ident, user, when, Properties(product_id=brand))


# CDNOW ------------------------------------------------------------------------------------------------


def _cdnow(path: Path, summary: ReadSummary) -> Iterator[Event]:
    rows = []
    for line, text in enumerate(text_lines(path)):
        fields = text.split()
        if not fields or (line == 0 and fields[0] == "customer_id"):
            continue
        summary.lines += 1
        try:
            # The sample has its own customer number after the master's.
            user, *_, date, units, dollars = fields
            day = datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC)
            rows.append((day, (line, user, int(units), float(dollars))))
        except ValueError:
            if not rows:
                refuse_shape(path, "cdnow", f"line {text.strip()!r}", "customer, date (YYYYMMDD), units, dollars")
            summary.dropped["unreadable"] += 1
    for when, (line, user, n_units, total) in spread_days(rows):
        summary.events += 1
        ident = message_id("cdnow", line, user, when, n_units, total)
        properties = Properties(
            category="music", quantity=n_units, order_id=f"cdnow-{ident[:16]}", total=total, currency="USD"
        )
        yield Event("Order Completed", ident, user, when, properties)


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
    """Give an event per line; a purchased product is an order of its own, as there are no order ids."""
    yield from _reordered(_rees46_lines(path, summary), summary)


def _rees46_lines(path: Path, summary: ReadSummary) -> Iterator[Event]:
    for line, row in enumerate(_table(path, "rees46", _REES46_COLUMNS, summary)):
        time, type_, product, category_id, category_code, brand, price, user, _session = row
        if not user:
            summary.dropped["without user"] += 1
            continue
        try:
            name, when, value = _REES46_NAMES[type_], utc(time.removesuffix(" UTC")), float(price or 0)
        except (ValueError, KeyError):
            summary.dropped["unreadable"] += 1
            continue
        properties = Properties(
            product_id=product,
            category=category_code or category_id or None,
            price=value,
            quantity=1,
            total=value if type_ == "purchase" else None,
            name=brand or None,
        )
        yield Event(name, message_id("rees46", line, *row), user, when, properties)


def _reordered(events: Iterator[Event], summary: ReadSummary) -> Iterator[Event]:
    """Sort by event time within a window of lines; what is older still goes out late, counted."""
    window: list[tuple[datetime, int, Event]] = []
    newest = datetime.min.replace(tzinfo=UTC)
    for n, event in enumerate(events):
        item = (event.timestamp, n, event)
        if len(window) < REORDER_EVENTS_MAX:
            heapq.heappush(window, item)
            continue
        when, _, event = heapq.heappushpop(window, item)
        summary.events += 1
        summary.out_of_order += when < newest
        newest = max(newest, when)
        yield event
    for when, _, event in sorted(window):
        summary.events += 1
        summary.out_of_order += when < newest
        yield event


# Shared -----------------------------------------------------------------------------------------------


def _table(path: Path, name: str, columns: tuple[str, ...], summary: ReadSummary) -> Iterator[list[str]]:
    """Give the rows of a CSV file that has exactly these columns; rows of another length are dropped."""
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

#: Every format by its name on the command line.
FORMATS: Final[dict[str, _Reader]] = {
    "uci-online-retail": read_uci_online_retail,
    "tmall": _tmall,
    "cdnow": _cdnow,
    "rees46": _rees46,
    "jsonl": read_jsonl,
}
