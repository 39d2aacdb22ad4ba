"""Bound session: inputs and outputs that stay where the provider computes, at fixed addresses for each shape.

That is what a CUDA graph needs: it is recorded at the first run of a shape, and replayed ever after without a launch
of its own for each kernel. Batches are filled up to a power of two, so that there are few shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.tokens import CHANNELS, FEATURES, LENGTHS
from stream.errors import ConfigError

__all__ = ["BoundSession"]

Array = npt.NDArray[Any]
#: Users at once that TensorRT builds its engine for: fewest, what it is tuned for, most.
_ENGINE_ROWS: Final = {"min": 1, "opt": 64, "max": 1_024}
_ENGINE_LENGTHS: Final = {"min": LENGTHS[0], "opt": LENGTHS[1], "max": LENGTHS[-1]}


@dataclass(frozen=True, slots=True)
class _Provider:
    """A provider of onnxruntime, where its buffers lie, its options, and who runs the nodes that it does not know."""

    name: str
    device: str
    options: dict[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


def _engine_shapes() -> dict[str, str]:
    """One TensorRT engine for all shapes; without it, one is built (minutes) at each shape beyond those before."""
    inputs = "tokens:{rows}x{length}x{channels},features:{rows}x{features}"
    sizes = {"channels": len(CHANNELS), "features": len(FEATURES)}
    return {
        f"trt_profile_{end}_shapes": inputs.format(rows=rows, length=_ENGINE_LENGTHS[end], **sizes)
        for end, rows in _ENGINE_ROWS.items()
    }


#: By the name that commands know it by.
_PROVIDERS: Final[dict[str, _Provider]] = {
    "cpu": _Provider("CPUExecutionProvider", "cpu"),
    "cuda": _Provider("CUDAExecutionProvider", "cuda", {"enable_cuda_graph": "1"}),
    "tensorrt": _Provider(
        "TensorrtExecutionProvider",
        "cuda",
        # No CUDA graph: onnxruntime refuses one where a single node runs beside TensorRT.
        {"trt_fp16_enable": "1", **_engine_shapes()},
        ("CUDAExecutionProvider",),
    ),
}


class BoundSession:
    """One graph on one device; one thread at a time. Raises ConfigError where the provider is not there."""

    def __init__(self, graph: bytes, provider: str) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        wanted = _PROVIDERS[provider]
        available = onnxruntime.get_available_providers()
        if wanted.name not in available:
            raise ConfigError(f"this onnxruntime has no {wanted.name}, it has {', '.join(available)}")
        if wanted.device == "cuda":
            onnxruntime.preload_dlls()
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        providers = [(wanted.name, wanted.options), *wanted.beside]
        self._session = onnxruntime.InferenceSession(graph, quiet, providers=providers)
        self._session.disable_fallback()
        if (found := self._session.get_providers()[0]) != wanted.name:
            raise ConfigError(f"provider is {found}, expected {wanted.name}; check the CUDA and cuDNN libraries")
        self._device = wanted.device
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
        found.binding.synchronize_outputs()
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
        given = [value.numpy() for value in first.get_outputs()]
        outputs = [ort.OrtValue.ortvalue_from_numpy(x, self._device, 0) for x in given]
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
