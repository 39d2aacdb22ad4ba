"""Serving graph: it gives the numbers of the trained network, with fewer and faster nodes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model_export.export.export import to_onnx
from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.network.serving_graph import MASKED, Serving
from model_export.text.products import ProductTable
from stream.contract.tokens import CHANNELS
from stream.score.scorer import open_session
from tests.model_export.small_run import network, sample

ROWS = sample(48)
TOKENS, NUMBERS = ROWS.tokens.astype(np.int32), ROWS.features
TYPE = CHANNELS.index("type")


@pytest.fixture(scope="module")
def graph() -> bytes:
    return to_onnx(network(), Serving(network()))


def difference(trained: EventBert, tokens: np.ndarray = TOKENS) -> float:
    with torch.inference_mode():
        inputs = torch.from_numpy(tokens), torch.from_numpy(NUMBERS)
        pairs = zip(trained(*inputs), Serving(trained)(*inputs), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)


def test_serving_graph_gives_what_the_trained_network_gives() -> None:
    assert difference(network()) < 1e-5


def test_serving_graph_reads_missing_items_and_categories_and_folds_all_others() -> None:
    tokens = TOKENS.copy()
    folds = [0, 1, 511, 512, 513, 2047, 2048, 2049, 4094, 4095, 65_535]
    for i, value in enumerate(folds):
        tokens[i, 0, [CHANNELS.index("item"), CHANNELS.index("category")]] = value
    assert difference(network(), tokens) < 1e-5


def test_a_user_without_events_scores_as_by_the_trained_network() -> None:
    assert difference(network(), np.zeros_like(TOKENS)) < 1e-5


@pytest.mark.parametrize("changes", [{"use_numeric": False}, {"use_time": False}], ids=str)
def test_networks_without_features_or_times_score_as_by_the_trained_network(changes: dict[str, bool]) -> None:
    torch.manual_seed(3)
    assert difference(EventBert(ModelConfig(hidden=16, heads=2, **changes), Shape()).eval()) < 1e-5


def test_product_texts_score_as_by_the_trained_network() -> None:
    torch.manual_seed(4)
    table = ProductTable.empty(7, 4)
    table.item_rows[:] = np.arange(len(table.item_rows)) % 7
    table.vectors[1:] = np.random.default_rng(0).normal(size=table.vectors[1:].shape)
    config = ModelConfig(hidden=16, heads=2, product_width=4)
    assert difference(EventBert(config, Shape(product_rows=7), table).eval()) < 1e-5


def test_attention_weight_of_padding_is_negligible_and_no_denormal_number() -> None:
    assert np.exp(np.float32(MASKED)) * 64 < np.finfo(np.float32).eps ** 2
    # The logits of a row may differ by 20 before a weight becomes a denormal number.
    assert np.exp(np.float32(MASKED - 20)) / 64 > np.finfo(np.float32).tiny


def test_padding_does_not_change_the_outputs(graph: bytes) -> None:
    session = open_session(Path("model.onnx"), graph, "cpu", 1)
    short = np.count_nonzero(TOKENS[:, :, TYPE], axis=1) <= 16
    found = [
        session.run(None, {"tokens": np.ascontiguousarray(TOKENS[short, :length]), "features": NUMBERS[short]})
        for length in (16, 64)
    ]
    for a, b in zip(*found, strict=True):
        assert np.abs(a - b).max() < 1e-5


def test_a_row_is_the_same_to_the_bit_in_any_number_of_rows(graph: bytes) -> None:
    session = open_session(Path("model.onnx"), graph, "cpu", 1)

    def run(n: int) -> np.ndarray:
        return np.column_stack(session.run(None, {"tokens": TOKENS[-n:], "features": NUMBERS[-n:]}))

    everyone = run(len(TOKENS))
    for n in (1, 2, 3, 4, 5, 7, 9, 31):
        assert run(n).tobytes() == everyone[-n:].tobytes()


def test_graph_runs_few_nodes_and_one_attention_node_for_each_layer(graph: bytes, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert counts["MultiHeadAttention"] == 2
    assert counts.total() < 115  # the plain export of the same network, fused, has 142
