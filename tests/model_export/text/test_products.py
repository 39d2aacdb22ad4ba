"""Products: an event is read by its item, else by its category."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.text.encoder import TextBert
from model_export.text.products import BUCKETS, Product, product_table, read_catalogue
from stream.decode.decoder import hash_bucket
from stream.errors import ConfigError

CATALOGUE = [
    Product("a", "shoes", "great shoes"),
    Product("b", "shoes", "lovely shoes"),
    Product("c", "bags", "awful bag"),
    Product("d", "", "the box"),
]


def test_event_is_looked_up_by_item_then_by_category_and_is_else_unknown(encoder: TextBert) -> None:
    table = product_table(CATALOGUE, encoder, 3)
    assert table.item_rows.shape == table.category_rows.shape == (BUCKETS,)
    assert table.vectors.shape == (1 + 4 + 2, 3) and (table.vectors[0] == 0).all()
    items = np.array([hash_bucket("a"), hash_bucket("new"), hash_bucket("new"), 0, 0])
    categories = np.array([hash_bucket("shoes"), hash_bucket("shoes"), hash_bucket("toys"), hash_bucket("bags"), 0])
    found = table.vectors[table.rows(items, categories)]
    a, b, c = (table.vectors[table.item_rows[hash_bucket(item)]] for item in "abc")
    np.testing.assert_allclose(found, [a, (a + b) / 2, np.zeros(3), c, np.zeros(3)], atol=1e-6)
    assert table.item_rows[0] == table.category_rows[0] == 0


def test_items_in_one_bucket_share_their_mean(encoder: TextBert, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = product_table(CATALOGUE, encoder, 3)
    a, b = (alone.vectors[alone.item_rows[hash_bucket(item)]] for item in "ab")
    monkeypatch.setattr(
        "model_export.text.products.hash_bucket", lambda name: 0 if not name else 9 if name in "ab" else 10
    )
    shared = product_table(CATALOGUE, encoder, 3)
    np.testing.assert_allclose(shared.vectors[shared.item_rows[9]], (a + b) / 2, atol=1e-6)


def test_reduced_vectors_keep_distances_and_are_the_same_each_time(encoder: TextBert) -> None:
    table, again = (product_table(CATALOGUE, encoder, 32) for _ in range(2))
    assert table.vectors.tobytes() == again.vectors.tobytes()
    whole = encoder.embed([p.text for p in CATALOGUE], unit=True)
    reduced = table.vectors[[table.item_rows[hash_bucket(p.item)] for p in CATALOGUE]]
    distances = [np.linalg.norm(v[:, None] - v[None], axis=2)[np.triu_indices(4, 1)] for v in (whole, reduced)]
    np.testing.assert_allclose(distances[1] / distances[1][0], distances[0] / distances[0][0], rtol=1e-3)
    np.testing.assert_allclose((reduced**2).sum(axis=1).mean(), 1, rtol=1e-5)


@pytest.mark.parametrize(("catalogue", "width", "message"), [([], 3, "no product"), (CATALOGUE, 33, "width is 33")])
def test_empty_catalogue_and_too_large_a_width_are_refused(
    encoder: TextBert, catalogue: list[Product], width: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        product_table(catalogue, encoder, width)


def test_catalogue_is_read_from_csv_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('sku,kind,title\n17,shoes,"red, soft"\n18,,\n19,,hat\n')
    (tmp_path / "c.jsonl").write_text(
        '{"sku": 17, "kind": "shoes", "title": "red, soft"}\n{"sku": "19", "title": "hat"}\n'
    )
    expected = [Product("17", "shoes", "red, soft"), Product("19", "", "hat")]
    for name in ("c.csv", "c.jsonl"):
        assert read_catalogue(tmp_path / name, item="sku", category="kind", text="title") == expected
    (tmp_path / "c.csv").write_text("item,category,text\n,shoes,red\n")
    with pytest.raises(ConfigError, match="line 2: column 'item' is empty"):
        read_catalogue(tmp_path / "c.csv")
    with pytest.raises(ConfigError, match="does not exist"):
        read_catalogue(tmp_path / "none.csv")
