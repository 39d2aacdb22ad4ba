"""UCI Online Retail: read invoice lines and make orders and refunds of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from stream.datasets.events import Event, Properties
from stream.datasets.reading import ReadSummary, message_id, refuse_shape
from stream.errors import ConfigError

__all__ = ["read_uci_online_retail"]

NAME: Final = "uci-online-retail"
COLUMNS: Final = (
    "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID",
)  # fmt: skip


@dataclass
class _Invoice:
    """One invoice, as far as its lines were read. ``top`` is the line with the largest value."""

    number: str
    customer: str
    when: datetime
    quantity: int = 0
    total: float = 0.0
    top_value: float = -1.0
    top: tuple[str, str, float] = ("", "", 0.0)


def read_uci_online_retail(path: Path, summary: ReadSummary) -> Iterator[Event]:
    """Yield one order for each invoice, and one refund for each cancelling invoice (its number starts with C).

    The total of an order is the sum of its lines with a positive quantity. The total of a refund is the absolute value
    of the sum of its lines with a negative quantity. Product, price and category are those of the line with the largest
    value. The data has no categories, so the last word of the description is taken ("t-light holder" is a "holder").
    Times have no zone and are taken as UTC. Lines without a customer are dropped.
    """
    invoices: dict[str, _Invoice] = {}
    for line in _lines(path):
        summary.lines += 1
        _add(invoices, line, summary)
    for ordinal, invoice in enumerate(sorted(invoices.values(), key=lambda i: i.when)):
        summary.events += 1
        yield _event(ordinal, invoice)


def _lines(path: Path) -> Iterator[tuple[Any, ...]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(
            f"reading {path} needs pyarrow, which is not installed; pip install 'valuestream[data]'"
        ) from error
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if not set(COLUMNS) <= set(names):
                refuse_shape(path, NAME, f"columns {','.join(names)}", f"columns {','.join(COLUMNS)}")
            for batch in file.iter_batches(columns=list(COLUMNS)):
                yield from zip(*(batch.column(name).to_pylist() for name in COLUMNS), strict=True)
    except ArrowException as error:
        refuse_shape(path, NAME, f"no readable Parquet ({error})", "a Parquet file")


def _add(invoices: dict[str, _Invoice], line: tuple[Any, ...], summary: ReadSummary) -> None:
    number, stock_code, description, quantity, when, price, customer = line
    if customer is None:
        summary.dropped["without customer"] += 1
        return
    number = str(number)
    if number.startswith("C"):
        quantity = -quantity
    if quantity <= 0:
        summary.dropped["quantity against its invoice's sign"] += 1
        return
    invoice = invoices.get(number)
    if invoice is None:
        invoice = _Invoice(number, str(int(customer)), when.replace(tzinfo=UTC))
        invoices[number] = invoice
    value = quantity * price
    invoice.quantity += quantity
    invoice.total += value
    if value > invoice.top_value:
        invoice.top_value, invoice.top = value, (str(stock_code), description or "", price)


def _event(ordinal: int, invoice: _Invoice) -> Event:
    name = "Order Refunded" if invoice.number.startswith("C") else "Order Completed"
    stock_code, description, price = invoice.top
    words = description.lower().split()
    total = round(invoice.total, 2)
    return Event(
        name,
        message_id(NAME, ordinal, invoice.number, invoice.customer, invoice.when, total),
        invoice.customer,
        invoice.when,
        Properties(
            product_id=stock_code,
            category=words[-1] if words else None,
            price=price,
            quantity=invoice.quantity,
            order_id=invoice.number,
            total=total,
            currency="GBP",
            name=description.strip() or None,
        ),
    )
