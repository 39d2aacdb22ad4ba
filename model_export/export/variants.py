"""Variants: make a graph with fused nodes from the exported one, and graphs in fp16 and int8."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from model_export.export.int8 import after_features, in_int8
from model_export.export.precision_loss import ALONE_MAX, BATCH_ROWS, PrecisionLoss, outputs, precision_loss
from model_export.run_folder import Tokens
from stream.arrays import FeatureRows, Numbers
from stream.errors import ContractError

__all__ = ["Quantised", "fused", "in_fp16", "quantised"]

#: Lengths to which calibration histories are cut as well.
_SHORT: Final = (1, 2, 4)
#: onnxruntime keeps operators that are not part of ONNX in this domain.
_FUSED_DOMAIN: Final = "com.microsoft"
#: Only products with weights are quantised. onnx's shape inference does not know the type that fused nodes give.
_DYNAMIC_OPTIONS: Final = {"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT}


@dataclass(frozen=True, slots=True)
class Quantised:
    """An int8 graph, the ``kind`` of quantisation that made it, and what each kind lost on held-out rows."""

    graph: bytes
    kind: str
    losses: dict[str, PrecisionLoss]


def fused(graph: bytes, heads: int, hidden: int) -> bytes:
    """Fuse the nodes of each attention, layer norm and GELU into one.

    Skip connections stay apart from their layer norms. onnxruntime has a node for both, but it is slower on a CPU
    (measured: 10 to 30 %), and with it the fused graph was slower than the plain one.
    """
    model = onnx.load_model_from_string(graph)
    _divide_by_scale(model)
    options = FusionOptions("bert")
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False
    with _quiet():
        out = optimize_model(model, "bert", heads, hidden, optimization_options=options, opt_level=0).model
    if all(opset.domain != _FUSED_DOMAIN for opset in out.opset_import):
        out.opset_import.append(onnx.helper.make_opsetid(_FUSED_DOMAIN, 1))
    return _serialised(out)


def in_fp16(graph: bytes) -> bytes:
    """Turn weights and activations into fp16; inputs and outputs keep their type.

    Features are logarithms, so they are far below 65,504, the largest number of fp16. onnxruntime has few fp16 kernels
    for CPUs and computes the rest in fp32. So this variant is for GPUs, but it is half the size everywhere.
    """
    with _quiet():
        return _serialised(convert_float_to_float16(onnx.load_model_from_string(graph), keep_io_types=True))


def quantised(graph: bytes, tokens: Tokens, features: FeatureRows) -> Quantised:
    """Choose the int8 graph that loses least among those that score a row the same alone and in a batch.

    Every other row calibrates, the rest measure the loss. Raises ContractError if no graph scores a row the same.
    Dynamic quantisation takes its ranges from each batch, so it keeps the promise only if its nodes see one row at a
    time.
    """
    held_out = tokens[1::2], features[1::2]
    graphs = {
        "static": in_int8(graph, _calibration(tokens[::2], features[::2])),
        "dynamic": _dynamic(graph),
    }
    expected = outputs(graph, *held_out)
    losses = {kind: precision_loss(data, expected, *held_out) for kind, data in graphs.items()}
    steady = [kind for kind, loss in losses.items() if loss.alone <= ALONE_MAX]
    if not steady:
        differences = ", ".join(f"{kind} {x.alone:.1e}" for kind, x in losses.items())
        raise ContractError(
            f"a row alone differs from the same row in a batch by {differences} in int8, "
            f"expected at most {ALONE_MAX:g}; export without the variant int8"
        )
    kind = min(steady, key=lambda kind: losses[kind].mean_error)
    return Quantised(graphs[kind], kind, losses)


def _divide_by_scale(model: onnx.ModelProto) -> None:
    """Write the ``scores * scale`` of attention as ``scores / (1 / scale)``.

    onnxruntime finds the mask of attention as the only product that is added, as in graphs of older transformers. A
    second product would hide the mask.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    for softmax in (node for node in model.graph.node if node.op_type == "Softmax"):
        scaled = producers[producers[softmax.input[0]].input[0]]
        if scaled.op_type == "Mul":
            scale = onnx.numpy_helper.to_array(producers[scaled.input[1]].attribute[0].t)
            name = f"{scaled.name}/divisor"
            model.graph.initializer.append(onnx.numpy_helper.from_array((1 / scale).astype(np.float32), name))
            scaled.op_type, scaled.input[1] = "Div", name


def _dynamic(graph: bytes) -> bytes:
    """Quantise so that ranges are taken from each batch."""
    model = onnx.load_model_from_string(graph)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=after_features(model),
            extra_options=_DYNAMIC_OPTIONS,
        )
        return _serialised(onnx.load(path))


def _calibration(tokens: Tokens, features: FeatureRows) -> Iterator[dict[str, Numbers]]:
    """Yield the calibration rows, a batch at a time; then the same rows with histories cut to a few events.

    The fewer events attention averages over, the wider activations range. Without the short histories, and with no
    calibration row of fewer than four events, a user of one event was off by 1.2 in logits (measured).
    """
    for histories in (tokens, *(_shortened(tokens, events) for events in _SHORT)):
        for i in range(0, len(histories), BATCH_ROWS):
            rows = slice(i, i + BATCH_ROWS)
            yield {"tokens": histories[rows].astype(np.int32), "features": features[rows]}


def _shortened(tokens: Tokens, events: int) -> Tokens:
    """Histories cut to their first events."""
    cut = tokens.copy()
    cut[:, events:] = 0
    return cut


def _serialised(model: onnx.ModelProto) -> bytes:
    out: bytes = model.SerializeToString(deterministic=True)
    return out


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice of onnxruntime's tools, which log to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
