"""Products: texts of a catalogue → a table of vectors, by the hash buckets that events carry.

A bucket's row is found by the item, else by the category (the mean of its products), else it is row 0, all zeros:
nothing is known. So a product that came after the table was made is read as the average of its category.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from model_export.text.encoder import TextBert
from model_export.text.tables import read_rows
from stream.datasets.events import Event, RawEvent
from stream.decode.decoder import hash_bucket
from stream.errors import ConfigError

__all__ = ["BUCKETS", "Product", "ProductTable", "catalogue_of_events", "product_table", "read_catalogue"]

Array = npt.NDArray[Any]
#: Of ``stream.decode.decoder.hash_bucket``: 0 (not given) to 65535.
BUCKETS: Final = 65_536
#: Bounds memory: their vectors of 384 numbers are 770 MB.
PRODUCTS_MAX: Final = 500_000


class Product(NamedTuple):
    """A product of the catalogue; ``item`` and ``category`` as in the events, the category may be empty."""

    item: str
    category: str
    text: str


@dataclass(frozen=True, slots=True)
class ProductTable:
    """``item_rows`` and ``category_rows (65536,)`` give the row of a bucket in ``vectors (rows, width)``."""

    item_rows: npt.NDArray[np.int32]
    category_rows: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.float32]

    def rows(self, items: Array, categories: Array) -> npt.NDArray[np.int32]:
        """Row of each event by its buckets: that of the item, else that of the category, else 0."""
        of_item = self.item_rows[items]
        out: npt.NDArray[np.int32] = np.where(of_item > 0, of_item, self.category_rows[categories])
        return out

    @classmethod
    def empty(cls, rows: int, width: int) -> ProductTable:
        """A table of zeros, whose values come from saved weights."""
        nothing = np.zeros(BUCKETS, np.int32)
        return cls(nothing, nothing, np.zeros((rows, width), np.float32))


def product_table(catalogue: Sequence[Product], encoder: TextBert, width: int) -> ProductTable:
    """Embed each product's text and reduce the vectors to ``width`` numbers; the same input gives the same table.

    Items that share a bucket share a row, their mean. Raises ConfigError for an empty catalogue or a wrong width.
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
    nothing = np.zeros((1, width))
    return ProductTable(
        item_rows, category_rows, np.concatenate((nothing, item_means, category_means), dtype=np.float32)
    )


def catalogue_of_events(events: Iterable[Event | RawEvent]) -> list[Product]:
    """What the events of a known format say of their products by name, each product once, as it was named last."""
    found: dict[str, Product] = {}
    for event in events:
        if isinstance(event, Event):
            item, name = event.properties.product_id, event.properties.name
            if item and name:
                found[item] = Product(item, event.properties.category or "", name)
    if not found:
        raise ConfigError("no event names its product, expected property `name`; give text.catalogue, a file of texts")
    return [found[item] for item in sorted(found)]


def read_catalogue(
    path: Path, *, item: str = "item", category: str = "category", text: str = "text", rows_max: int = PRODUCTS_MAX
) -> list[Product]:
    """Products of a CSV or JSON Lines file, by the names of its columns; those without a text are left out."""
    products = []
    for line, values in read_rows(path, (item, category, text), rows_max):
        product = Product(*values)
        if not product.item:
            raise ConfigError(f"{path}, line {line}: column {item!r} is empty, expected the item id that events carry")
        if product.text.strip():
            products.append(product)
    return products


def _reduced(vectors: Array, width: int) -> Array:
    """Principal components ``(n, width)`` float64 of ``(n, d)``, scaled by one number to a mean square length of 1.

    From the covariance, which is small however many products there are. Directions beyond the rank are zeros.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    directions = directions[:, ::-1][:, :width] * (variances[::-1][:width] > 1e-12)
    # An eigenvector may point either way: its largest part is made positive, so that the table is reproducible.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0)
    reduced = centred @ (directions * np.where(largest < 0, -1.0, 1.0))
    length = np.sqrt((reduced**2).sum(axis=1).mean())
    out: Array = reduced / max(length, 1e-12)
    return out


def _means(buckets: Array, vectors: Array, first_row: int) -> tuple[npt.NDArray[np.int32], Array]:
    """Row of each bucket (0: none) and the mean vector of each bucket met; bucket 0 is "not given"."""
    given = buckets > 0
    met, place = np.unique(buckets[given], return_inverse=True)
    sums = np.zeros((len(met), vectors.shape[1]))
    np.add.at(sums, place, vectors[given])
    rows = np.zeros(BUCKETS, np.int32)
    rows[met] = np.arange(first_row, first_row + len(met))
    return rows, sums / np.bincount(place, minlength=len(met))[:, None]
