"""Int8: turns products with weights into products of integers, by the ranges that activations had on some rows.

A product of the history, ``x @ weights``, becomes three steps: x is turned into 8 bits with a fixed range, integers
are multiplied, and the sums are turned back into fp32. All else stays fp32. onnxruntime's own ``quantize_static`` is
not used, because it knows no type for the outputs of onnxruntime's attention and GELU. It would leave the products of
those outputs in fp32, with weights that every run turns back into floats (docs/inference.md).

Nodes that depend on the numeric features stay in fp32 as well. Features range widely, and one beyond the calibration
rows would be cut: on random networks the error was 0.6 in logits instead of 0.05 (measured). There is little to gain,
because these are a few products per user and not per event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from stream.arrays import Numbers
from stream.score.session import open_session

__all__ = ["after_features", "in_int8"]

#: Steps of an activation, which has 8 bits.
_STEPS: Final = 255
#: Weights have 7 bits. CPUs without VNNI add pairs of 8-bit products in 16 bits, which would overflow with 8.
_WEIGHT_MAX: Final = 63
_TABLE_MAX: Final = 127
#: Embedding tables with fewer rows stay in fp32: little would be saved, and one of them is the mask of attention.
_TABLE_ROWS_MIN: Final = 256
#: Added to every range, so that a tensor of zeros has a scale above 0 too.
_TINY: Final = np.float32(1e-30)
_DOMAIN: Final = "com.microsoft"


def in_int8(graph: bytes, batches: Iterable[Mapping[str, Numbers]]) -> bytes:
    """Turn products with weights and large embedding tables into int8, for the ranges that ``batches`` of inputs give.

    No range depends on the rows of a later run, so a row gives the same alone and in any batch.
    """
    model = onnx.load_model_from_string(graph)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    after = set(after_features(model))
    nodes = [node for node in model.graph.node if node.name not in after]
    products = {node.output[0]: node for node in nodes if _is_product(node, weights)}
    tables = {node.output[0]: node for node in nodes if _is_table(node, weights)}
    ranges = _ranges(model, sorted({node.input[0] for node in products.values()}), batches)
    writer = _Writer(model, weights)
    for node in list(model.graph.node):
        if node.output[0] in products:
            writer.product(node, ranges[node.input[0]])
        elif node.output[0] in tables:
            writer.table(node)
        else:
            writer.nodes.append(node)
    return writer.written()


def after_features(model: ModelProto) -> list[str]:
    """Names of the nodes that depend on the numeric features."""
    reached, names = {"features"}, []
    for node in model.graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            names.append(node.name)
    return names


def _is_product(node: NodeProto, weights: Mapping[str, Numbers]) -> bool:
    """Whether the node is ``x @ weights``, for a Gemm plus a bias, with no factor transposed or scaled."""
    plain = all(helper.get_attribute_value(a) == (not a.name.startswith("trans")) for a in node.attribute)
    return node.op_type in ("Gemm", "MatMul") and plain and weights.get(node.input[1], np.zeros(0)).ndim == 2


def _is_table(node: NodeProto, weights: Mapping[str, Numbers]) -> bool:
    table = weights.get(node.input[0], np.zeros(0)) if node.op_type == "Gather" else np.zeros(0)
    return table.ndim == 2 and len(table) >= _TABLE_ROWS_MIN and table.dtype == np.float32


def _ranges(
    model: ModelProto, names: Sequence[str], batches: Iterable[Mapping[str, Numbers]]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest number that each of these tensors held; a range always includes 0."""
    observed = ModelProto.FromString(model.SerializeToString())
    observed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(Path("model.onnx"), observed.SerializeToString(), "cpu", 1)
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for batch in batches:
        for name, values in zip(names, session.run(list(names), dict(batch)), strict=True):
            low, high = ranges[name]
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


class _Writer:
    """Collects the nodes of the new graph, and the constants that they read."""

    def __init__(self, model: ModelProto, weights: Mapping[str, Numbers]) -> None:
        self._model, self._weights = model, weights
        self._constants: dict[str, Numbers] = {}
        self.nodes: list[NodeProto] = []

    def product(self, node: NodeProto, value_range: tuple[float, float]) -> None:
        """Write ``x @ weights [+ added]`` with integers; each column of the weights has its own scale."""
        name, (x, scale, zero) = node.name, self._activation(node.input[0], value_range)
        weights = self._weights[node.input[1]]
        scales = (np.abs(weights).max(axis=0) + _TINY) / np.float32(_WEIGHT_MAX)
        factors = [
            self._constant(f"{name}/weights", np.round(weights / scales).astype(np.int8)),
            scale,
            self._constant(f"{name}/scales", scales.astype(np.float32)),
            zero,
            self._constant(f"{name}/zeros", np.zeros(len(scales), np.int8)),
        ]
        added = list(node.input[2:])
        as_bias = [a for a in added if a in self._weights and self._weights[a].ndim == 1]
        out = node.output[0] if added == as_bias else f"{name}/product"
        self.nodes.append(helper.make_node("MatMulIntegerToFloat", [x, *factors, *as_bias], [out], domain=_DOMAIN))
        if added != as_bias:
            self.nodes.append(helper.make_node("Add", [out, *added], node.output))

    def table(self, node: NodeProto) -> None:
        """Write a look-up in a table of integers, times one scale."""
        name, table = node.name, self._weights[node.input[0]]
        scale = np.float32((np.abs(table).max() + _TINY) / _TABLE_MAX)
        rows = self._constant(f"{name}/table", np.round(table / scale).astype(np.int8))
        gathered = helper.make_node("Gather", [rows, node.input[1]], [f"{name}/rows"])
        gathered.attribute.extend(node.attribute)
        self.nodes += [
            gathered,
            helper.make_node(
                "DequantizeLinear", [f"{name}/rows", self._constant(f"{name}/scale", np.asarray(scale))], node.output
            ),
        ]

    def written(self) -> bytes:
        """Return the model with the new nodes, without the weights that no node reads any more."""
        graph = self._model.graph
        read = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in self._constants.items())
        if all(opset.domain != _DOMAIN for opset in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        out: bytes = self._model.SerializeToString(deterministic=True)
        return out

    def _activation(self, x: str, value_range: tuple[float, float]) -> tuple[str, str, str]:
        """Names of ``x`` in 8 bits, of its scale, and of the number that stands for 0.

        The nodes are written once and shared by all products that read ``x``.
        """
        names = f"{x}/int8", f"{x}/scale", f"{x}/zero"
        if names[1] not in self._constants:
            low, high = value_range
            scale = np.float32((high - low + _TINY) / _STEPS)
            self._constant(names[1], np.asarray(scale))
            self._constant(names[2], np.asarray(np.round(-low / scale), np.uint8))
            self.nodes.append(helper.make_node("QuantizeLinear", [x, names[1], names[2]], [names[0]]))
        return names

    def _constant(self, name: str, value: Numbers) -> str:
        self._constants[name] = value
        return name
