"""Runners: all give what torch eager gives, and those that cannot be run say why."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

from model_export.bench import runners as runners_module
from model_export.bench.runners import (
    COMPILED,
    CUDA,
    EAGER,
    INT8,
    PACKED,
    PACKED_CUDA,
    TENSORRT,
    Runners,
    cpu_runners,
    gpu_runners,
    packed_run,
)  # fmt: skip
from model_export.bench.workload import Workload, load_workload
from stream.errors import ConfigError
from tests.model_export.small_run import network, sample, write_run

COMPILE = torch.compile


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return load_workload(write_run(tmp_path_factory.mktemp("run") / "run", network(), sample()))


@pytest.fixture(scope="module")
def graphs() -> list[Any]:
    """The graphs that the compiler was given."""
    return []


@pytest.fixture(scope="module")
def runners(workload: Workload, graphs: list[Any]) -> Runners:
    """All runners of a CPU. The compiler only traces: making machine code of the smallest network takes a minute."""

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda *args, **kwargs: COMPILE(*args, **kwargs, backend=backend))
        return cpu_runners(workload, 1, True)


def test_every_runner_of_a_cpu_can_be_run(runners: Runners) -> None:
    assert not runners.missing
    assert {EAGER, COMPILED, PACKED, INT8} <= set(runners.usable)


def test_every_runner_gives_every_user_what_torch_eager_gives_in_any_layout(
    workload: Workload, runners: Runners
) -> None:
    tokens, features = workload.sample.tokens.astype(np.int32), workload.sample.features
    lengths = np.count_nonzero(tokens[:, :, 0], axis=1)

    def outputs(name: str) -> np.ndarray:
        by_user = np.full((len(tokens), 8), np.nan)
        for rows, positions in runners.usable[name].layout(lengths):
            columns: Any = runners.usable[name].run(
                np.ascontiguousarray(tokens[rows, : positions.max()]), features[rows]
            )
            by_user[rows] = np.column_stack([np.asarray(x).reshape(len(rows), -1) for x in columns])
        return by_user

    expected = outputs(EAGER)
    for name in runners.usable:
        assert np.abs(outputs(name) - expected).max() < (0.5 if name == INT8 else 1e-4), name


def test_layouts_hold_every_user_once_with_room_for_all_events(runners: Runners) -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 50)
    for runner in runners.usable.values():
        parts = list(runner.layout(lengths))
        rows, positions = (np.concatenate(x) for x in zip(*parts, strict=True))
        assert sorted(rows.tolist()) == list(range(50))
        assert (positions >= lengths[rows]).all()


def test_network_is_compiled_once_for_all_shapes_and_compile_time_is_kept_apart(
    runners: Runners, graphs: list[Any], workload: Workload
) -> None:
    assert runners.usable[COMPILED].compile_s > 0
    assert all(runner.compile_s == 0 for name, runner in runners.usable.items() if name != COMPILED)
    assert len(graphs) == 2  # one for several users, one for a single user
    tokens, features = workload.sample.tokens.astype(np.int32), workload.sample.features
    for n, length in ((3, 8), (64, 64), (1, 32), (7, 16)):
        runners.usable[COMPILED].run(tokens[np.arange(n), :length], features[:n])
    assert len(graphs) == 2


def test_compiler_that_fails_gives_a_reason_and_stops_nothing(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\n  was found")

    monkeypatch.setattr(torch, "compile", fail)
    assert cpu_runners(workload, 1, True).missing == {COMPILED: "no C++ compiler was found"}


def test_runner_that_only_fails_when_it_is_run_gives_a_reason_too(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(runners_module, "packed_run", lambda _: fail)
    monkeypatch.setattr(torch, "compile", fail)
    assert cpu_runners(workload, 1, False).missing[PACKED] == "no kernel"


def test_model_folder_without_int8_says_so(workload: Workload) -> None:
    bare = msgspec.structs.replace(workload, graphs={"fp32": workload.graphs["fp32"]})
    assert cpu_runners(bare, 1, False).missing[INT8] == "the model folder has no variant int8"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_each_gpu_runner_says_what_is_missing(workload: Workload) -> None:
    found = gpu_runners(workload)
    assert not found.usable
    assert set(found.missing) == {CUDA, TENSORRT, PACKED_CUDA}
    assert "has no TensorrtExecutionProvider" in found.missing[TENSORRT]
    assert "CUDA" in found.missing[PACKED_CUDA]
    with pytest.raises(ConfigError, match="torch finds no CUDA device"):
        packed_run(workload.network, "cuda", torch.float16)


def test_gpu_runners_are_made_of_the_fp16_graph_and_of_the_plain_graph(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph_of = {}

    class Session:
        def __init__(self, graph: bytes, provider: str) -> None:
            graph_of[provider] = graph
            self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

        def run(self, tokens: np.ndarray, features: np.ndarray) -> Any:
            return self._session.run(None, {"tokens": tokens, "features": features})

    monkeypatch.setattr(runners_module, "BoundSession", Session)
    monkeypatch.setattr(runners_module, "packed_run", lambda network, *_: packed_run(network, "cpu", torch.float16))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = gpu_runners(workload)
    assert set(found.usable) == {CUDA, TENSORRT, PACKED_CUDA}
    assert b"com.microsoft" in graph_of["cuda"]
    assert b"com.microsoft" not in graph_of["tensorrt"]
    assert len(graph_of["cuda"]) < 0.7 * len(graph_of["tensorrt"])
    tokens, features = workload.sample.tokens.astype(np.int32), workload.sample.features
    with torch.inference_mode():
        expected = workload.network(torch.from_numpy(tokens), torch.from_numpy(features))
    for name, runner in found.usable.items():
        outputs: Any = runner.run(tokens, features)
        worst = max(float(np.abs(np.asarray(a) - b.numpy()).max()) for a, b in zip(outputs, expected, strict=True))
        assert worst < 5e-2, name
