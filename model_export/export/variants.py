"""Compress: the exported graph → one with fused nodes, and from that the same in fp16 and in int8."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from model_export.export.int8 import after_features, in_int8
from model_export.metrics.measures import spearman
from model_export.metrics.ranking import rank_predictions
from stream.errors import ContractError
from stream.score.scorer import open_session

__all__ = ["ALONE_MAX", "Fusions", "Loss", "Quantised", "fused", "fusions", "half", "loss", "outputs", "quantised"]

Array = npt.NDArray[Any]
#: A row alone may differ from the same row in a batch by rounding on CPUs we have not seen; on ours it does not.
ALONE_MAX: Final = 1e-6
_ALONE_ROWS: Final = 16
#: Rows run at once, a multiple of what onnxruntime's kernels take together (see ``stream.score.scorer``).
_ROWS: Final = 64
_ROWS_MULTIPLE: Final = 8
#: Lengths to which calibration rows are cut as well.
_SHORT: Final = (1, 2, 4)
#: Where onnxruntime keeps operators that are none of ONNX.
_FUSED_DOMAIN: Final = "com.microsoft"
_ATTENTION: Final = ("Attention", "MultiHeadAttention", "QAttention")
_NORMS: Final = ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")


@dataclass(frozen=True, slots=True)
class Loss:
    """Against fp32: largest and mean error in logits, worst rank correlation of an output, row alone against batch."""

    error: float
    mean_error: float
    spearman: float
    alone: float


@dataclass(frozen=True, slots=True)
class Quantised:
    """An int8 graph, which ``kind`` of quantisation made it, and what each kind lost on held-out rows."""

    graph: bytes
    kind: str
    losses: dict[str, Loss]


@dataclass(frozen=True, slots=True)
class Fusions:
    """How many nodes of each kind onnxruntime runs."""

    attention: int
    norms: int


def fused(graph: bytes, heads: int, hidden: int) -> bytes:
    """The graph with one node for each attention, layer norm and GELU.

    Skip connections stay apart from their layer norms: onnxruntime's node for both is slower on a CPU (measured: 10
    to 30 %), and with it the fused graph was slower than the plain one.
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


def half(graph: bytes) -> bytes:
    """The graph with weights and activations in fp16; inputs and outputs stay as they are.

    Features are logarithms, so they are far from the largest number of fp16, 65,504. onnxruntime has few fp16 kernels
    for CPUs and computes the rest in fp32: this variant is for GPUs, and half the size everywhere.
    """
    with _quiet():
        return _serialised(convert_float_to_float16(onnx.load_model_from_string(graph), keep_io_types=True))


def quantised(graph: bytes, tokens: Array, features: Array) -> Quantised:
    """The int8 graph that loses least of those that score a row the same alone and in a batch.

    Every other row calibrates, the rest measure. Raises ContractError where no graph keeps the promise: dynamic
    quantisation takes its ranges from each batch, so it cannot unless its nodes see one row at a time.
    """
    held_out = tokens[1::2], features[1::2]
    graphs = {
        "static": in_int8(graph, _calibration(tokens[::2], features[::2])),
        "dynamic": _dynamic(graph),
    }
    expected = outputs(graph, *held_out)
    losses = {kind: loss(data, expected, *held_out) for kind, data in graphs.items()}
    steady = [kind for kind, found in losses.items() if found.alone <= ALONE_MAX]
    if not steady:
        found = ", ".join(f"{kind} {x.alone:.1e}" for kind, x in losses.items())
        raise ContractError(
            f"a row alone differs from the same row in a batch by {found} in int8, expected at most {ALONE_MAX:g}; "
            "export without the variant int8"
        )
    kind = min(steady, key=lambda kind: losses[kind].mean_error)
    return Quantised(graphs[kind], kind, losses)


def loss(graph: bytes, expected: Array, tokens: Array, features: Array) -> Loss:
    """What ``graph`` loses against the outputs ``expected (n, columns)``."""
    session = open_session(Path("model.onnx"), graph, "cpu", 1)
    found = _run(session, tokens, features)
    some = np.linspace(0, len(tokens) - 1, min(_ALONE_ROWS, len(tokens))).astype(int)
    alone = np.concatenate([_run(session, tokens[[i]], features[[i]]) for i in some])
    error = np.abs(found - expected)
    ranks = [spearman(rank_predictions(found[:, c], expected[:, c])) for c in range(expected.shape[1])]
    return Loss(float(error.max()), float(error.mean()), min(ranks), float(np.abs(alone - found[some]).max()))


def outputs(graph: bytes, tokens: Array, features: Array) -> Array:
    """All outputs of a graph on the CPU, ``(n, columns)`` in the order of the graph."""
    return _run(open_session(Path("model.onnx"), graph, "cpu", 1), tokens, features)


def fusions(model: Path) -> Fusions:
    """Count nodes of a model file as onnxruntime runs it on a CPU, after its own optimisation."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(scratch) / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        counts = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return Fusions(*(sum(counts[name] for name in names) for names in (_ATTENTION, _NORMS)))


def _divide_by_scale(model: onnx.ModelProto) -> None:
    """Write attention's ``scores * scale`` as ``scores / (1 / scale)``.

    onnxruntime looks for the mask as the one product that is added, as in graphs of older transformers.
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
    """Quantised with the ranges of each batch."""
    model = onnx.load_model_from_string(graph)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=after_features(model),
            extra_options=_OPTIONS,
        )
        return _serialised(onnx.load(path))


#: Only products with weights are quantised; onnx's shape inference does not know the type that fused nodes give.
_OPTIONS: Final = {"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT}


def _calibration(tokens: Array, features: Array) -> Iterator[dict[str, Array]]:
    """Calibration rows, a batch at a time; then the same cut to a few events.

    The fewer events attention averages over, the further activations range (measured without the short ones: a user
    of one event was off by 1.2 in logits where no calibration row had fewer than four).
    """
    for histories in (tokens, *(_shortened(tokens, events) for events in _SHORT)):
        for i in range(0, len(histories), _ROWS):
            rows = slice(i, i + _ROWS)
            yield {"tokens": histories[rows].astype(np.int32), "features": features[rows]}


def _shortened(tokens: Array, events: int) -> Array:
    """Histories cut to their first events."""
    out = tokens.copy()
    out[:, events:] = 0
    return out


def _run(session: Any, tokens: Array, features: Array) -> Array:
    """Outputs of the rows, filled up with copies of the last to a number that kernels take together."""
    n = len(tokens)
    rows = np.minimum(np.arange(n + -n % _ROWS_MULTIPLE), n - 1)
    parts = [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]
    found = [session.run(None, {"tokens": tokens[p].astype(np.int32), "features": features[p]}) for p in parts]
    return np.concatenate([np.column_stack(columns) for columns in found])[:n].astype(np.float64)


def _serialised(model: onnx.ModelProto) -> bytes:
    out: bytes = model.SerializeToString(deterministic=True)
    return out


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice of onnxruntime's tools, which log to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
