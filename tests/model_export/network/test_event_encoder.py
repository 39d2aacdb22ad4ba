"""Event encoder: product texts are read, and stay as they are."""

from __future__ import annotations

import numpy as np
import torch

from model_export.network.initial_weights import new_network
from model_export.run_folder import predict
from model_export.text.products import BUCKETS, ProductTable
from model_export.training.fit import refit
from tests.model_export.small import CATEGORY, QUICK, SMALL, examples, task


def products(width: int = 4) -> ProductTable:
    """Item 100 is row 1, category 50 is row 2, everything else is unknown."""
    items, categories = np.zeros(BUCKETS, np.int32), np.zeros(BUCKETS, np.int32)
    items[100], categories[50] = 1, 2
    vectors = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    vectors[0] = 0
    return ProductTable(items, categories, vectors)


def test_unknown_item_is_read_as_its_category_and_a_known_one_by_its_text() -> None:
    rows = examples(40, longest=4)
    network = new_network(rows, SMALL, task(QUICK, products=products()).shape(2), products())
    assert network.shape.product_rows == 3
    with torch.no_grad():
        torch.nn.init.normal_(network.heads.weight, std=1.0)
        assert network.encoder.products is not None
        network.encoder.products.read.weight.mul_(50)
        # The embedding of the item itself is not what this test is about.
        network.encoder.tables[2].weight.zero_()

    def churn(item: int, category: int) -> np.ndarray:
        tokens = rows.tokens.copy()
        tokens[:, 0, CATEGORY], tokens[:, 0, CATEGORY + 1] = category, item
        return predict(network, tokens, rows.features).churn

    assert np.array_equal(churn(7_000, 50), churn(8_000, 50))
    assert (churn(100, 50) != churn(7_000, 50)).all()
    # If even the category is unknown, nothing is known.
    assert (churn(7_000, 51) != churn(7_000, 50)).all()


def test_product_texts_stay_as_they_are_while_the_network_learns_to_read_them() -> None:
    rows = examples(200, longest=8)
    table = products()
    start, network = (refit(task(QUICK, products=table), rows, epochs) for epochs in (0, 1))
    assert network.encoder.products is not None
    assert start.encoder.products is not None
    assert np.array_equal(network.encoder.products.vectors.numpy(), table.vectors)
    assert not torch.equal(network.encoder.products.read.weight, start.encoder.products.read.weight)
