"""Session: the provider that was asked for runs the model, or the worker does not start."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from stream.contract.manifest import MODEL_FILE
from stream.errors import ConfigError
from stream.score.scorer import DEMO_MODEL
from stream.score.session import open_session


def open_demo(provider: str) -> Any:
    path = DEMO_MODEL / MODEL_FILE
    return open_session(path, path.read_bytes(), provider, 1)


def test_session_runs_on_the_provider_that_was_asked_for() -> None:
    assert open_demo("cpu").get_providers() == ["CPUExecutionProvider"]


def test_cuda_on_a_machine_without_it_is_refused_not_replaced() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ConfigError, match=r"provider is 'cuda', this onnxruntime has .*; install 'valuestream\[gpu\]'"):
        open_demo("cuda")


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.metadata.distribution

    def distribution(name: str) -> Any:
        if not name.startswith("onnxruntime"):
            return real(name)
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_two_builds_of_onnxruntime_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(ConfigError, match=r"both installed and overwrite each other; uninstall both, then install"):
        open_demo("cpu")


@pytest.mark.parametrize(("provider", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_no_onnxruntime_is_refused_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, provider: str, extra: str
) -> None:
    pretend_installed(monkeypatch)
    with pytest.raises(ConfigError, match=rf"onnxruntime is not installed; install 'valuestream\[{extra}\]'"):
        open_demo(provider)
