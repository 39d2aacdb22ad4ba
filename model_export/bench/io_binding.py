"""IO binding: keeps inputs and outputs where the provider computes, at fixed addresses for each shape.

A CUDA graph needs fixed addresses. It is recorded at the first run of a shape and replayed at every later run, which
saves a launch for each kernel. Batches are filled up to a power of two, so that there are few shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from stream.arrays import FeatureRows, Numbers, TokenRows
from stream.contract.tokens import CHANNELS, FEATURES, LENGTHS
from stream.errors import ConfigError

__all__ = ["BoundSession"]

#: How many users TensorRT builds its engine for: the fewest, the number that it is tuned for, and the most.
_ENGINE_ROWS: Final = {"min": 1, "opt": 64, "max": 1_024}
_ENGINE_LENGTHS: Final = {"min": LENGTHS[0], "opt": LENGTHS[1], "max": LENGTHS[-1]}


@dataclass(frozen=True, slots=True)
class _Provider:
    """A provider of onnxruntime: its name, the device of its buffers, and its options."""

    name: str
    device: str
    options: dict[str, str] = field(default_factory=dict)
    #: Providers that run the nodes that this one does not know.
    beside: tuple[str, ...] = ()


def _engine_shapes() -> dict[str, str]:
    """Options for one TensorRT engine that takes all shapes.

    Without them TensorRT builds a new engine, which takes minutes, at each shape that is beyond the earlier ones.
    """
    inputs = "tokens:{rows}x{length}x{channels},features:{rows}x{features}"
    sizes = {"channels": len(CHANNELS), "features": len(FEATURES)}
    return {
        f"trt_profile_{end}_shapes": inputs.format(rows=rows, length=_ENGINE_LENGTHS[end], **sizes)
        for end, rows in _ENGINE_ROWS.items()
    }


#: Providers by their short names.
_PROVIDERS: Final[dict[str, _Provider]] = {
    "cpu": _Provider("CPUExecutionProvider", "cpu"),
    "cuda": _Provider("CUDAExecutionProvider", "cuda", {"enable_cuda_graph": "1"}),
    "tensorrt": _Provider(
        "TensorrtExecutionProvider",
        "cuda",
        # No CUDA graph: onnxruntime refuses to record one if a single node runs outside of TensorRT.
        {"trt_fp16_enable": "1", **_engine_shapes()},
        ("CUDAExecutionProvider",),
    ),
}


class BoundSession:
    """One graph on one device, for one thread at a time. Raises ConfigError if the provider is not available."""

    def __init__(self, graph: bytes, provider: str) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        wanted = _PROVIDERS[provider]
        available = onnxruntime.get_available_providers()
        if wanted.name not in available:
            raise ConfigError(f"this onnxruntime has no {wanted.name}, it has {', '.join(available)}")
        if wanted.device == "cuda":
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        providers = [(wanted.name, wanted.options), *wanted.beside]
        self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        self._session.disable_fallback()
        if (found := self._session.get_providers()[0]) != wanted.name:
            raise ConfigError(f"provider is {found}, expected {wanted.name}; check the CUDA and cuDNN libraries")
        self._device = wanted.device
        self._names = [output.name for output in self._session.get_outputs()]
        self._buffers: dict[tuple[int, int], _ShapeBuffers] = {}

    @property
    def shapes(self) -> int:
        """How many shapes have buffers; on a GPU each of them has a CUDA graph too."""
        return len(self._buffers)

    def run(self, tokens: TokenRows, features: FeatureRows) -> list[Numbers]:
        """Return the outputs for tokens ``(n, length, channels)`` and features ``(n, features)``."""
        n, size = len(tokens), 1 << (len(tokens) - 1).bit_length()
        rows = np.minimum(np.arange(size), n - 1)
        shape = (size, tokens.shape[1])
        if shape not in self._buffers:
            self._buffers[shape] = self._bind(tokens[rows], features[rows], len(self._buffers) + 1)
        buffers = self._buffers[shape]
        buffers.inputs["tokens"].update_inplace(np.ascontiguousarray(tokens[rows]))
        buffers.inputs["features"].update_inplace(np.ascontiguousarray(features[rows]))
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        buffers.binding.synchronize_outputs()
        return [output.numpy()[:n].copy() for output in buffers.outputs]

    def _bind(self, tokens: TokenRows, features: FeatureRows, graph_id: int) -> _ShapeBuffers:
        """Make the buffers of a shape. A first run, which is not recorded, tells how large the outputs are."""
        import onnxruntime as ort

        arrays: dict[str, Numbers] = {
            "tokens": np.ascontiguousarray(tokens),
            "features": np.ascontiguousarray(features),
        }
        inputs = {name: ort.OrtValue.ortvalue_from_numpy(x, self._device, 0) for name, x in arrays.items()}
        first, binding = self._session.io_binding(), self._session.io_binding()
        for name, value in inputs.items():
            first.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_input(name, value)
        for name in self._names:
            first.bind_output(name, self._device)
        self._session.run_with_iobinding(first, _run_options(-1))
        first_outputs = [value.numpy() for value in first.get_outputs()]
        outputs = [ort.OrtValue.ortvalue_from_numpy(x, self._device, 0) for x in first_outputs]
        for name, value in zip(self._names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _ShapeBuffers(binding, inputs, outputs, _run_options(graph_id))


@dataclass(frozen=True, slots=True)
class _ShapeBuffers:
    """The buffers of one shape, and the run options that name its CUDA graph."""

    binding: Any
    inputs: dict[str, Any]
    outputs: list[Any]
    options: Any


def _run_options(graph_id: int) -> Any:
    """Options of a run that records or replays this CUDA graph; -1 does neither."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
