"""Bound session: inputs and outputs that stay where the provider computes, at fixed addresses for each shape.

That is what a CUDA graph needs: it is recorded at the first run of a shape, and replayed ever after without a launch
of its own for each kernel. Batches are filled up to a power of two, so that there are few shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError

__all__ = ["BoundSession"]

Array = npt.NDArray[Any]
#: Provider and its options, by the name that commands know it by.
_PROVIDERS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"enable_cuda_graph": "1"}),
    "tensorrt": ("TensorrtExecutionProvider", {"trt_fp16_enable": "1", "trt_cuda_graph_enable": "1"}),
}


class BoundSession:
    """One graph on one device; one thread at a time. Raises ConfigError where the provider is not there."""

    def __init__(self, graph: bytes, provider: str) -> None:
        import onnxruntime

        name, options = _PROVIDERS[provider]
        available = onnxruntime.get_available_providers()
        if name not in available:
            raise ConfigError(f"this onnxruntime has no {name}, it has {', '.join(available)}")
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(graph, quiet, providers=[(name, options)])
        self._session.disable_fallback()
        if (found := self._session.get_providers()[0]) != name:
            raise ConfigError(f"provider is {found}, expected {name}; check the CUDA and cuDNN libraries")
        self._device = "cpu" if provider == "cpu" else "cuda"
        self._names = [output.name for output in self._session.get_outputs()]
        self._bound: dict[tuple[int, int], _Shape] = {}

    @property
    def shapes(self) -> int:
        """How many shapes have buffers, and on a GPU a graph."""
        return len(self._bound)

    def run(self, tokens: Array, features: Array) -> list[Array]:
        """The outputs for ``(n, length, channels)`` and ``(n, features)``."""
        n, size = len(tokens), 1 << (len(tokens) - 1).bit_length()
        rows = np.minimum(np.arange(size), n - 1)
        key = (size, tokens.shape[1])
        if key not in self._bound:
            self._bound[key] = self._bind(tokens[rows], features[rows], len(self._bound) + 1)
        found = self._bound[key]
        found.inputs["tokens"].update_inplace(np.ascontiguousarray(tokens[rows]))
        found.inputs["features"].update_inplace(np.ascontiguousarray(features[rows]))
        self._session.run_with_iobinding(found.binding, found.options)
        return [output.numpy()[:n].copy() for output in found.outputs]

    def _bind(self, tokens: Array, features: Array, number: int) -> _Shape:
        """Buffers of a shape; those of the outputs are as large as a first run, which is not recorded, gives them."""
        import onnxruntime as ort

        arrays = {"tokens": np.ascontiguousarray(tokens), "features": np.ascontiguousarray(features)}
        inputs = {name: ort.OrtValue.ortvalue_from_numpy(x, self._device, 0) for name, x in arrays.items()}
        first, binding = self._session.io_binding(), self._session.io_binding()
        for name, value in inputs.items():
            first.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_input(name, value)
        for name in self._names:
            first.bind_output(name, self._device)
        self._session.run_with_iobinding(first, _run_options(-1))
        outputs = [
            ort.OrtValue.ortvalue_from_numpy(value.numpy(), self._device, 0) for value in first.get_outputs()
        ]  # fmt: skip
        for name, value in zip(self._names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Shape(binding, inputs, outputs, _run_options(number))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Buffers of one shape, and which CUDA graph is its own."""

    binding: Any
    inputs: dict[str, Any]
    outputs: list[Any]
    options: Any


def _run_options(graph: int) -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
