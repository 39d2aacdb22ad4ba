"""Int8: every product with weights runs on integers, stays near fp32, and gives a row the same in any batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from model_export.export.export import to_onnx
from model_export.export.int8 import after_features, in_int8
from model_export.export.precision_loss import outputs, precision_loss
from model_export.export.variants import fused
from model_export.network.serving_graph import Serving
from tests.model_export.small_run import CONFIG, network, sample

ROWS = sample()
BATCH = {"tokens": ROWS.tokens.astype(np.int32), "features": ROWS.features}


@pytest.fixture(scope="module", params=["serving", "fused"])
def graph(request: pytest.FixtureRequest) -> bytes:
    if request.param == "serving":
        return to_onnx(network(), Serving(network()))
    return fused(to_onnx(network()), CONFIG.heads, CONFIG.hidden)


@pytest.fixture(scope="module")
def int8(graph: bytes) -> bytes:
    return in_int8(graph, [BATCH])


def nodes_run(graph: bytes, folder: Path) -> Counter[str]:
    """Nodes that onnxruntime runs, after its own optimisation."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "run.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "run.onnx").graph.node)


def weights_of(graph: bytes) -> dict[str, np.ndarray]:
    return {x.name: numpy_helper.to_array(x) for x in onnx.load_model_from_string(graph).graph.initializer}


def test_products_of_the_history_run_on_integers_and_no_weight_is_turned_back_into_floats(
    graph: bytes, int8: bytes, tmp_path: Path
) -> None:
    counts = nodes_run(int8, tmp_path)
    model = onnx.load_model_from_string(graph)
    after, weights = set(after_features(model)), weights_of(graph)
    products = [
        node
        for node in model.graph.node
        if node.op_type in ("Gemm", "MatMul") and node.name not in after and node.input[1] in weights
    ]
    assert counts["MatMulIntegerToFloat"] == len(products) >= 6
    # One for each embedding table that is in int8.
    tables = [x for x in weights_of(int8).values() if x.dtype == np.int8 and len(x) >= 256]
    assert counts["DequantizeLinear"] == len(tables) >= 1


def test_int8_is_near_fp32_and_scores_a_row_the_same_alone_and_in_a_batch(graph: bytes, int8: bytes) -> None:
    loss = precision_loss(int8, outputs(graph, ROWS.tokens, ROWS.features), ROWS.tokens, ROWS.features)
    assert 0 < loss.mean_error < 0.004
    assert loss.error < 0.04
    assert loss.alone == 0


def test_weights_have_seven_bits_and_each_column_a_scale_of_its_own(int8: bytes) -> None:
    weights = weights_of(int8)
    products = {name: x for name, x in weights.items() if name.endswith("/weights")}
    assert products
    for name, x in products.items():
        assert np.abs(x.astype(int)).max() == 63
        assert weights[name.replace("/weights", "/scales")].shape == (x.shape[1],)


def test_nodes_after_the_features_and_the_mask_of_attention_stay_in_fp32(graph: bytes, int8: bytes) -> None:
    model = onnx.load_model_from_string(graph)
    after, kept = set(after_features(model)), weights_of(int8)
    for node in model.graph.node:
        if node.name in after or (node.op_type == "Gather" and len(weights_of(graph).get(node.input[0], [])) == 2):
            for name in set(node.input) & set(weights_of(graph)):
                assert kept[name].tobytes() == weights_of(graph)[name].tobytes()


def test_columns_and_inputs_of_zeros_give_no_nan() -> None:
    trained = network()
    trained.encoder.bert.encoder.layer[0].intermediate.dense.weight.data[:3] = 0
    graph = to_onnx(trained, Serving(trained))
    nobody = {"tokens": np.zeros_like(BATCH["tokens"]), "features": BATCH["features"]}
    with np.errstate(all="raise", under="ignore"):
        int8 = in_int8(graph, [nobody])
    found = outputs(int8, nobody["tokens"], nobody["features"])
    assert np.abs(found - outputs(graph, nobody["tokens"], nobody["features"])).max() < 0.2
