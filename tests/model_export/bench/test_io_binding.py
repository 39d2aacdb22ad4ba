"""IO binding: what a bound session asks of a GPU, as far as a CPU can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from model_export.bench import io_binding as io_binding_module
from model_export.bench.io_binding import BoundSession
from model_export.export.export import to_onnx
from model_export.export.variants import fused, in_fp16
from stream.contract.tokens import CHANNELS, FEATURES
from stream.errors import ConfigError
from tests.model_export.small_run import CONFIG, network, sample

ROWS = sample(48)
TOKENS, NUMBERS = ROWS.tokens.astype(np.int32), ROWS.features


@pytest.fixture(scope="module")
def graph() -> bytes:
    """The graph that the CUDA runner gets: fused, in fp16."""
    return in_fp16(fused(to_onnx(network()), CONFIG.heads, CONFIG.hidden))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_each_shape_is_recorded_once_but_not_at_its_first_run(
    graph: bytes, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = replace(
        io_binding_module._PROVIDERS[provider], name="CPUExecutionProvider", device="cpu", options={}, beside=()
    )
    monkeypatch.setitem(io_binding_module._PROVIDERS, provider, on_cpu)
    session = BoundSession(graph, provider)
    runs = []

    class Spy:
        def __init__(self, session: Any) -> None:
            self._session = session

        def io_binding(self) -> Any:
            return self._session.io_binding()

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            runs.append(options.get_run_config_entry("gpu_graph_id"))
            self._session.run_with_iobinding(binding, options)

    session._session = Spy(session._session)
    for n, length in ((3, 8), (4, 8), (4, 16), (3, 8)):
        session.run(np.ascontiguousarray(TOKENS[:n, :length]), NUMBERS[:n])
    assert runs == ["-1", "1", "1", "-1", "2", "1"]
    assert session.shapes == 2


def test_fp16_with_bound_buffers_stays_near_the_network(graph: bytes) -> None:
    plain = onnxruntime.InferenceSession(to_onnx(network()), providers=["CPUExecutionProvider"])
    expected = plain.run(None, {"tokens": TOKENS, "features": NUMBERS})
    for found, wanted in zip(BoundSession(graph, "cpu").run(TOKENS, NUMBERS), expected, strict=True):
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 5e-2


def test_provider_that_onnxruntime_replaces_is_refused(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA build without CUDA's libraries lists the provider, but runs on the CPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    loaded = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append("CUDA"))
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ConfigError, match="provider is CPUExecutionProvider, expected CUDAExecutionProvider; check"),
    ):
        BoundSession(graph, "cuda")
    assert loaded == ["CUDA"]


def test_tensorrt_builds_one_engine_for_all_shapes_and_other_nodes_stay_on_the_gpu() -> None:
    wanted = io_binding_module._PROVIDERS["tensorrt"]
    assert wanted.beside == ("CUDAExecutionProvider",)
    last = f"x{len(CHANNELS)},features"
    assert wanted.options["trt_profile_min_shapes"] == f"tokens:1x8{last}:1x{len(FEATURES)}"
    assert wanted.options["trt_profile_opt_shapes"] == f"tokens:64x16{last}:64x{len(FEATURES)}"
    assert wanted.options["trt_profile_max_shapes"] == f"tokens:1024x64{last}:1024x{len(FEATURES)}"
