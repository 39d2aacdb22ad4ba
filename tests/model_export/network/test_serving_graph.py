"""The network written for serving, and the session with bound buffers: the same numbers by another way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model_export.bench.io_binding import BoundSession
from model_export.export.export import to_onnx
from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.network.serving_graph import MASKED, Serving
from model_export.text.products import ProductTable
from stream.contract.tokens import CHANNELS
from stream.errors import ConfigError
from stream.score.session import open_session
from tests.model_export.small_run import network, sample

ROWS = sample(48)
TOKENS, NUMBERS = ROWS.tokens.astype(np.int32), ROWS.features
TYPE = CHANNELS.index("type")


@pytest.fixture(scope="module")
def graph() -> bytes:
    return to_onnx(network(), Serving(network()))


def difference(trained: EventBert, tokens: np.ndarray = TOKENS) -> float:
    with torch.inference_mode():
        given = torch.from_numpy(tokens), torch.from_numpy(NUMBERS)
        pairs = zip(trained(*given), Serving(trained)(*given), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)


def test_it_gives_what_the_trained_network_gives() -> None:
    assert difference(network()) < 1e-5


def test_it_reads_item_and_category_that_were_not_given_and_every_fold_of_the_others() -> None:
    tokens = TOKENS.copy()
    folds = [0, 1, 511, 512, 513, 2047, 2048, 2049, 4094, 4095, 65_535]
    for i, value in enumerate(folds):
        tokens[i, 0, [CHANNELS.index("item"), CHANNELS.index("category")]] = value
    assert difference(network(), tokens) < 1e-5


def test_a_user_without_events_is_read_too() -> None:
    assert difference(network(), np.zeros_like(TOKENS)) < 1e-5


@pytest.mark.parametrize("changes", [{"use_numeric": False}, {"use_time": False}], ids=str)
def test_networks_with_parts_left_out_are_written_too(changes: dict[str, bool]) -> None:
    torch.manual_seed(3)
    assert difference(EventBert(ModelConfig(hidden=16, heads=2, **changes), Shape()).eval()) < 1e-5


def test_products_with_texts_are_read_too() -> None:
    torch.manual_seed(4)
    table = ProductTable.empty(7, 4)
    table.item_rows[:] = np.arange(len(table.item_rows)) % 7
    table.vectors[1:] = np.random.default_rng(0).normal(size=table.vectors[1:].shape)
    config = ModelConfig(hidden=16, heads=2, product_width=4)
    assert difference(EventBert(config, Shape(product_rows=7), table).eval()) < 1e-5


def test_padding_weighs_nothing_and_its_weight_is_no_denormal_number() -> None:
    assert np.exp(np.float32(MASKED)) * 64 < np.finfo(np.float32).eps ** 2
    # Between the largest and the smallest logit there is room for e to the 20 in either direction.
    assert np.exp(np.float32(MASKED - 20)) / 64 > np.finfo(np.float32).tiny


def test_padding_does_not_change_what_is_said(graph: bytes) -> None:
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


def test_graph_runs_few_nodes_and_one_attention_for_each_layer(graph: bytes, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert counts["MultiHeadAttention"] == 2
    assert counts.total() < 115  # the same network as it is exported, fused: 142


# Bound buffers ----------------------------------------------------------------------------------------


def test_bound_session_gives_what_a_session_gives_for_any_number_of_rows(graph: bytes) -> None:
    plain, bound = open_session(Path("model.onnx"), graph, "cpu", 1), BoundSession(graph, "cpu")
    for n, length in ((1, 8), (5, 8), (8, 8), (5, 64), (7, 8)):
        given = np.ascontiguousarray(TOKENS[:n, :length]), NUMBERS[:n]
        expected = plain.run(None, {"tokens": given[0], "features": given[1]})
        for found, wanted in zip(bound.run(*given), expected, strict=True):
            assert np.abs(found - wanted).max() < 1e-5
    # Of 1 and of 8 rows, and of 8 rows of another length.
    assert bound.shapes == 3


def test_what_a_bound_session_gave_stays_as_it_was(graph: bytes) -> None:
    bound = BoundSession(graph, "cpu")
    first = bound.run(TOKENS[:4], NUMBERS[:4])
    kept = [x.copy() for x in first]
    bound.run(TOKENS[4:8], NUMBERS[4:8])
    for a, b in zip(first, kept, strict=True):
        assert a.tobytes() == b.tobytes()


def test_provider_that_is_not_there_is_refused_with_those_that_are(graph: bytes) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has TensorRT")
    with pytest.raises(ConfigError, match=r"this onnxruntime has no TensorrtExecutionProvider, it has .*CPU"):
        BoundSession(graph, "tensorrt")
