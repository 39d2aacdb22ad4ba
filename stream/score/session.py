"""Session: opens an onnxruntime session that runs where it was told to, and nowhere else."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any, Final

from stream.errors import ConfigError, ContractError
from stream.score.external_data import check_self_contained

__all__ = ["open_session"]

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: This fused kernel is slower on a CPU than its parts (measured: 4 times a layer norm).
_SLOW_ON_CPU: Final = ["SkipLayerNormFusion"]


def open_session(path: Path, graph: bytes, provider: str, threads: int) -> Any:
    """An onnxruntime session of the ONNX model in ``graph``; ``path`` only names the model in error messages.

    The session never falls back to another provider, and reads no other file, whatever the graph says.
    Raises ConfigError if the provider cannot be had here, ContractError if the model cannot be loaded.
    """
    onnxruntime = _import_onnxruntime(provider)
    wanted = _PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"provider is {provider!r}, this onnxruntime has {onnxruntime.get_available_providers()}; "
            f"install 'valuestream[{_extra(provider)}]' or set --provider"
        )
    check_self_contained(path, graph)
    try:
        session = onnxruntime.InferenceSession(
            graph,
            _options(onnxruntime, threads),
            providers=[wanted],
            disabled_optimizers=_SLOW_ON_CPU if provider == "cpu" else [],
        )
        session.disable_fallback()
    except Exception as error:
        one_line = " ".join(str(error).split())
        raise ContractError(f"model {path} cannot be loaded: {one_line}; export it again") from None
    found = session.get_providers()[0]
    if found != wanted:
        raise ConfigError(f"provider is {found}, expected {wanted}; check the CUDA and cuDNN libraries")
    return session


def _import_onnxruntime(provider: str) -> Any:
    _check_install(provider)
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    if provider == "cuda":
        onnxruntime.preload_dlls()
    return onnxruntime


def _options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Pool threads that spin while they wait for work would take the cores of the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without this, onnxruntime guesses the format from the bytes. It would then also load its own format, in which
    # nothing looks for external data.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _check_install(provider: str) -> None:
    """Refuse an environment without onnxruntime, or with both of its builds: they overwrite each other's files."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise ConfigError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install 'valuestream[cpu]' or 'valuestream[gpu]'"
        )
    if not installed:
        raise ConfigError(f"onnxruntime is not installed; install 'valuestream[{_extra(provider)}]'")


def _extra(provider: str) -> str:
    return "gpu" if provider == "cuda" else "cpu"


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
