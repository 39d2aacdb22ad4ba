"""Ways of the bench: all give what torch eager gives, and those that cannot be run say why."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

from model_export.bench import runners as bench_ways
from model_export.bench.runners import (
    COMPILED,
    CUDA,
    EAGER,
    INT8,
    PACKED,
    PACKED_CUDA,
    TENSORRT,
    Ways,
    cpu_ways,
    gpu_ways,
    packed_run,
)  # fmt: skip
from model_export.bench.workload import Material, material
from stream.errors import ConfigError
from tests.model_export.export.test_export import network, sample, write_run

COMPILE = torch.compile


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material(write_run(tmp_path_factory.mktemp("run") / "run", network(), sample()))


@pytest.fixture(scope="module")
def graphs() -> list[Any]:
    """What the compiler was given."""
    return []


@pytest.fixture(scope="module")
def ways(of: Material, graphs: list[Any]) -> Ways:
    """All of a CPU. The compiler only traces: making machine code of the smallest network takes it a minute."""

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda *args, **given: COMPILE(*args, **given, backend=backend))
        return cpu_ways(of, 1, True)


def test_every_way_of_a_cpu_can_be_run(ways: Ways) -> None:
    assert not ways.missing
    assert {EAGER, COMPILED, PACKED, INT8} <= set(ways.of)


def test_every_way_gives_every_user_what_torch_eager_gives_however_they_are_laid_out(of: Material, ways: Ways) -> None:
    tokens, features = of.sample.tokens.astype(np.int32), of.sample.features
    lengths = np.count_nonzero(tokens[:, :, 0], axis=1)

    def outputs(name: str) -> np.ndarray:
        found = np.full((len(tokens), 8), np.nan)
        for rows, positions in ways.of[name].layout(lengths):
            given: Any = ways.of[name].run(np.ascontiguousarray(tokens[rows, : positions.max()]), features[rows])
            found[rows] = np.column_stack([np.asarray(x).reshape(len(rows), -1) for x in given])
        return found

    expected = outputs(EAGER)
    for name in ways.of:
        assert np.abs(outputs(name) - expected).max() < (0.5 if name == INT8 else 1e-4), name


def test_layouts_hold_every_user_once_with_room_for_all_events(ways: Ways) -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 50)
    for way in ways.of.values():
        parts = list(way.layout(lengths))
        rows, positions = (np.concatenate(x) for x in zip(*parts, strict=True))
        assert sorted(rows.tolist()) == list(range(50))
        assert (positions >= lengths[rows]).all()


def test_compiler_sees_one_network_for_all_shapes_and_its_time_is_kept_apart(
    ways: Ways, graphs: list[Any], of: Material
) -> None:
    assert ways.of[COMPILED].compile_s > 0
    assert all(way.compile_s == 0 for name, way in ways.of.items() if name != COMPILED)
    assert len(graphs) == 2  # of several users, and of one
    tokens, features = of.sample.tokens.astype(np.int32), of.sample.features
    for n, length in ((3, 8), (64, 64), (1, 32), (7, 16)):
        ways.of[COMPILED].run(tokens[np.arange(n), :length], features[:n])
    assert len(graphs) == 2


def test_compiler_that_fails_is_a_reason_and_no_end(of: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\n  was found")

    monkeypatch.setattr(torch, "compile", fail)
    assert cpu_ways(of, 1, True).missing == {COMPILED: "no C++ compiler was found"}


def test_way_that_only_fails_when_it_is_run_is_a_reason_too(of: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(bench_ways, "packed_run", lambda _: fail)
    monkeypatch.setattr(torch, "compile", fail)
    assert cpu_ways(of, 1, False).missing[PACKED] == "no kernel"


def test_folder_without_int8_says_so(of: Material) -> None:
    bare = msgspec.structs.replace(of, graphs={"fp32": of.graphs["fp32"]})
    assert cpu_ways(bare, 1, False).missing[INT8] == "the model folder has no variant int8"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_each_of_its_ways_says_what_is_missing(of: Material) -> None:
    found = gpu_ways(of)
    assert not found.of
    assert set(found.missing) == {CUDA, TENSORRT, PACKED_CUDA}
    assert "has no TensorrtExecutionProvider" in found.missing[TENSORRT]
    assert "CUDA" in found.missing[PACKED_CUDA]
    with pytest.raises(ConfigError, match="torch finds no CUDA device"):
        packed_run(of.network, "cuda", torch.float16)


def test_ways_of_a_gpu_are_made_of_the_half_and_of_the_plain_graph(
    of: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    class Session:
        def __init__(self, graph: bytes, provider: str) -> None:
            given[provider] = graph
            self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

        def run(self, tokens: np.ndarray, features: np.ndarray) -> Any:
            return self._session.run(None, {"tokens": tokens, "features": features})

    monkeypatch.setattr(bench_ways, "BoundSession", Session)
    monkeypatch.setattr(bench_ways, "packed_run", lambda network, *_: packed_run(network, "cpu", torch.float16))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = gpu_ways(of)
    assert set(found.of) == {CUDA, TENSORRT, PACKED_CUDA}
    assert b"com.microsoft" in given["cuda"]
    assert b"com.microsoft" not in given["tensorrt"]
    assert len(given["cuda"]) < 0.7 * len(given["tensorrt"])
    tokens, features = of.sample.tokens.astype(np.int32), of.sample.features
    with torch.inference_mode():
        expected = of.network(torch.from_numpy(tokens), torch.from_numpy(features))
    for name, way in found.of.items():
        outputs: Any = way.run(tokens, features)
        worst = max(float(np.abs(np.asarray(a) - b.numpy()).max()) for a, b in zip(outputs, expected, strict=True))
        assert worst < 5e-2, name
