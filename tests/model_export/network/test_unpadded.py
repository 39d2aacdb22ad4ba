"""Unpadded: the events of all users in one long row give what padded histories give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.network.event_encoder import MASKED
from model_export.network.unpadded import pack, packed_network
from model_export.text.products import ProductTable
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, FEATURES
from tests.model_export.small_run import network

TYPE = CHANNELS.index("type")


def histories(lengths: list[int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(1, size, (len(lengths), 64)) for size in CHANNEL_SIZES.values()], axis=2)
    tokens[np.arange(64) >= np.array(lengths)[:, None]] = 0
    return tokens.astype(np.int32)


def numbers(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, len(FEATURES))).astype(np.float32))


def difference(trained: EventBert, tokens: np.ndarray, dtype: torch.dtype = torch.float32) -> float:
    """Largest difference from the trained network, which reads padded histories in fp32."""
    features = numbers(len(tokens))
    with torch.inference_mode():
        expected = trained(torch.from_numpy(tokens), features)
        found = packed_network(trained).to(dtype)(pack(tokens), features.to(dtype))
        return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_histories_of_any_lengths_score_as_with_padding(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 65, 20).tolist()
    assert difference(network(), histories([1, *lengths, 64, 1], seed)) < 1e-4


@pytest.mark.parametrize("lengths", [[1], [64], [1, 1, 1], [64, 64]], ids=str)
def test_histories_of_equal_lengths_score_as_with_padding(lengths: list[int]) -> None:
    assert difference(network(), histories(lengths)) < 1e-4


def test_a_user_without_events_scores_as_with_padding() -> None:
    # With padding, the softmax of such a user is over masked events only. Packed, it is over no event at all.
    assert MASKED < 0
    assert difference(network(), histories([3, 0, 64, 0])) < 1e-4


def test_half_precision_is_off_by_little() -> None:
    assert 0 < difference(network(), histories([1, 5, 64, 17, 2]), torch.float16) < 5e-2


def test_networks_without_features_or_times_or_with_product_texts_score_as_with_padding() -> None:
    torch.manual_seed(4)
    table = ProductTable.empty(7, 4)
    table.item_rows[:] = np.arange(len(table.item_rows)) % 7
    table.vectors[1:] = np.random.default_rng(0).normal(size=table.vectors[1:].shape)
    for config, shape, texts in (
        (ModelConfig(hidden=16, heads=2, use_numeric=False), Shape(), None),
        (ModelConfig(hidden=16, heads=2, use_time=False), Shape(), None),
        (ModelConfig(hidden=16, heads=2, product_width=4), Shape(product_rows=7), table),
    ):
        assert difference(EventBert(config, shape, texts).eval(), histories([1, 9, 64])) < 1e-4


def test_packing_keeps_a_row_for_each_event_and_none_for_padding() -> None:
    lengths = [3, 1, 64]
    tokens = histories(lengths)
    events = pack(tokens)
    assert events.tokens.shape == (sum(lengths), len(CHANNELS))
    assert events.offsets.tolist() == [0, 3, 4, 68]
    assert (events.shortest, events.longest) == (1, 64)
    assert (events.tokens[:, TYPE] > 0).all()
    assert events.tokens[3].tolist() == tokens[1, 0].tolist()


def test_packing_does_not_change_the_network() -> None:
    trained = network()
    packed_network(trained).half()
    assert {weights.dtype for weights in trained.parameters()} == {torch.float32}
    assert trained.encoder.states(torch.from_numpy(histories([4]))).shape == (1, 64, 16)
