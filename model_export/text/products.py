"""Products: turns the texts of a catalogue into a table of vectors, found by the hash buckets that events carry.

An event is looked up by its item. If the item is unknown, its category is looked up, which has the mean vector of its
products. If that is unknown too, the row is 0, all zeros. So a product that is newer than the table is read as the
average of its category.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from model_export.text.encoder import TextBert, Vectors
from model_export.text.tables import read_rows
from stream.arrays import Floats, Slots
from stream.datasets.events import Event, RawEvent
from stream.decode.decoder import hash_bucket
from stream.errors import ConfigError

__all__ = ["BUCKETS", "Product", "ProductTable", "catalogue_of_events", "product_table", "read_catalogue"]

#: For each hash bucket ``(65536,)``, the row of its vector; 0: unknown.
TableRows: TypeAlias = npt.NDArray[np.int32]
#: The buckets of ``stream.decode.decoder.hash_bucket``: 0 (not given) to 65535.
BUCKETS: Final = 65_536
#: Most products, to bound memory: their vectors of 384 numbers take 770 MB.
PRODUCTS_MAX: Final = 500_000


class Product(NamedTuple):
    """A product of the catalogue. ``item`` and ``category`` are those in the events; the category may be empty."""

    item: str
    category: str
    text: str


@dataclass(frozen=True, slots=True)
class ProductTable:
    """``item_rows`` and ``category_rows (65536,)`` give the row of a bucket in ``vectors (rows, width)``."""

    item_rows: TableRows
    category_rows: TableRows
    vectors: Vectors

    def rows(self, items: Slots, categories: Slots) -> TableRows:
        """The row of each event: that of its item bucket; if that is 0, that of its category bucket."""
        by_item = self.item_rows[items]
        out: TableRows = np.where(by_item > 0, by_item, self.category_rows[categories])
        return out

    @classmethod
    def empty(cls, rows: int, width: int) -> ProductTable:
        """A table of zeros. Its values are loaded later, with the weights of a network."""
        unknown = np.zeros(BUCKETS, np.int32)
        return cls(unknown, unknown, np.zeros((rows, width), np.float32))


def product_table(catalogue: Sequence[Product], encoder: TextBert, width: int) -> ProductTable:
    """Embed the text of each product and reduce the vectors to ``width`` numbers. The same input gives the same table.

    Items in the same bucket share a row, which is their mean. Raises ConfigError for an empty catalogue or a wrong
    width.
    """
    if not catalogue:
        raise ConfigError("the catalogue holds no product with a text, expected at least one")
    if not 1 <= width <= encoder.width:
        raise ConfigError(f"width is {width}, expected 1 to {encoder.width}, the width of the text encoder")
    vectors = _reduced(encoder.embed([product.text for product in catalogue], unit=True), width)
    items = np.array([hash_bucket(product.item) for product in catalogue])
    categories = np.array([hash_bucket(product.category) for product in catalogue])
    item_rows, item_means = _means(items, vectors, first_row=1)
    category_rows, category_means = _means(categories, vectors, first_row=1 + len(item_means))
    unknown = np.zeros((1, width))
    return ProductTable(
        item_rows, category_rows, np.concatenate((unknown, item_means, category_means), dtype=np.float32)
    )


def catalogue_of_events(events: Iterable[Event | RawEvent]) -> list[Product]:
    """The products that events name, each once, with the last name it had."""
    products: dict[str, Product] = {}
    for event in events:
        if isinstance(event, Event):
            item, name = event.properties.product_id, event.properties.name
            if item and name:
                products[item] = Product(item, event.properties.category or "", name)
    if not products:
        raise ConfigError("no event names its product, expected property `name`; give text.catalogue, a file of texts")
    return [products[item] for item in sorted(products)]


def read_catalogue(
    path: Path, *, item: str = "item", category: str = "category", text: str = "text", rows_max: int = PRODUCTS_MAX
) -> list[Product]:
    """Read products from these columns of a CSV or JSON Lines file. Products without a text are left out."""
    products = []
    for line, values in read_rows(path, (item, category, text), rows_max):
        product = Product(*values)
        if not product.item:
            raise ConfigError(f"{path}, line {line}: column {item!r} is empty, expected the item id that events carry")
        if product.text.strip():
            products.append(product)
    return products


def _reduced(vectors: Vectors, width: int) -> Floats:
    """Principal components ``(n, width)`` of ``(n, d)``, all scaled by one number to a mean square length of 1.

    They come from the covariance, which is small, however many products there are. Directions beyond its rank are
    zeros.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    directions = directions[:, ::-1][:, :width] * (variances[::-1][:width] > 1e-12)
    # An eigenvector may point either way. Its largest part is made positive, so that the table is reproducible.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0)
    reduced = centred @ (directions * np.where(largest < 0, -1.0, 1.0))
    length = np.sqrt((reduced**2).sum(axis=1).mean())
    out: Floats = reduced / max(length, 1e-12)
    return out


def _means(buckets: Slots, vectors: Floats, first_row: int) -> tuple[TableRows, Floats]:
    """The row of each bucket (0: unknown), and the mean vector of each bucket that occurs; bucket 0 is "not given"."""
    known = buckets > 0
    occurring, index = np.unique(buckets[known], return_inverse=True)
    sums = np.zeros((len(occurring), vectors.shape[1]))
    np.add.at(sums, index, vectors[known])
    rows = np.zeros(BUCKETS, np.int32)
    rows[occurring] = np.arange(first_row, first_row + len(occurring))
    return rows, sums / np.bincount(index, minlength=len(occurring))[:, None]
