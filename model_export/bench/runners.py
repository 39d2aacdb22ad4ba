"""Bench ways: in what ways the same network is run here, and how each lays histories of differing length out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from model_export.bench.io_binding import BoundSession
from model_export.bench.workload import Material
from model_export.export.export import to_onnx
from model_export.export.variants import fused, half
from model_export.network.event_bert import EventBert
from model_export.network.serving_graph import Serving
from model_export.network.unpadded import pack, packed_network
from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNELS, LENGTHS
from stream.errors import ConfigError
from stream.score.encode import padded_length
from stream.score.scorer import open_session

__all__ = ["Layout", "Run", "Way", "Ways", "cpu_ways", "gpu_ways", "packed_run"]

Array = npt.NDArray[Any]
#: Tokens ``(n, length, channels)`` and features → anything, once it is computed.
Run = Callable[[Array, Array], object]
#: Lengths of the histories of a batch → rows that are run at once, and how many positions each of them takes.
Layout = Callable[[Array], Iterator[tuple[Array, Array]]]

EAGER: Final = "torch eager"
EAGER_BUCKETED: Final = "torch eager, bucketed"
COMPILED: Final = "torch.compile"
PACKED: Final = "torch, packed"
PLAIN: Final = "onnxruntime, as exported"
FUSED: Final = "onnxruntime, its BERT optimizer"
SERVING: Final = "onnxruntime, written for serving"
UNBUCKETED: Final = "the same, padded to the longest of the batch"
FULL: Final = "the same, padded to 64"
INT8: Final = "onnxruntime, int8"
CUDA: Final = "onnxruntime, fp16, CUDA graph and IO binding"
TENSORRT: Final = "onnxruntime, fp16, TensorRT"
PACKED_CUDA: Final = "torch, packed, fp16 on CUDA"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run the network; ``compile_s`` seconds went by before it could."""

    run: Run
    layout: Layout
    compile_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ways:
    """Those that can be run here, and of the others why they cannot."""

    of: dict[str, Way]
    missing: dict[str, str]


def cpu_ways(of: Material, threads: int, compiled: bool) -> Ways:
    """All ways on the CPU; torch's use the threads that torch is set to."""
    network, config = of.network.eval(), of.network.config
    plain = to_onnx(network)
    serving = _session(to_onnx(network, Serving(network)), threads)
    return _tried(
        of,
        {
            EAGER: lambda: Way(_torch(network), _to_longest),
            EAGER_BUCKETED: lambda: Way(_torch(network), _bucketed),
            COMPILED: lambda: _compiled(network, compiled),
            PACKED: lambda: Way(packed_run(network), _packed),
            PLAIN: lambda: Way(_session(plain, threads), _bucketed),
            FUSED: lambda: Way(_session(fused(plain, config.heads, config.hidden), threads), _bucketed),
            SERVING: lambda: Way(serving, _bucketed),
            UNBUCKETED: lambda: Way(serving, _to_longest),
            FULL: lambda: Way(serving, _to_full),
            INT8: lambda: Way(_session(_int8(of), threads), _bucketed),
        },
    )


def gpu_ways(of: Material) -> Ways:
    """All ways on a GPU. TensorRT gets the graph as it was exported: it knows none of onnxruntime's own nodes."""
    network, config = of.network.eval(), of.network.config
    plain = to_onnx(network)
    found = _tried(
        of,
        {
            CUDA: lambda: Way(BoundSession(half(fused(plain, config.heads, config.hidden)), "cuda").run, _bucketed),
            TENSORRT: lambda: Way(BoundSession(plain, "tensorrt").run, _bucketed),
            PACKED_CUDA: lambda: Way(packed_run(network, "cuda", torch.float16), _packed),
        },
    )
    if torch.cuda.is_available():
        return found
    return Ways({}, dict.fromkeys(found.of, "torch finds no CUDA device to measure the peak of") | found.missing)


def packed_run(network: EventBert, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
    """The packed network on a device; packing is part of each run. Raises ConfigError without such a device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA device")
    reader = packed_network(network).to(device, dtype)

    def run(tokens: Array, features: Array) -> list[torch.Tensor]:
        with torch.inference_mode():
            outputs = reader(pack(tokens, device), torch.from_numpy(features).to(device, dtype))
            return [output.cpu() for output in outputs]  # waits for a GPU

    return run


def _tried(of: Material, makers: Mapping[str, Callable[[], Way]]) -> Ways:
    """Make each way and run it once: some only fail then."""
    ways, missing = {}, {}
    tokens, features = of.sample.tokens[:2].astype(np.int32), of.sample.features[:2]
    for name, make in makers.items():
        try:
            way = make()
            way.run(tokens, features)
        except Exception as error:
            missing[name] = " ".join(str(error).split())[:200]
        else:
            ways[name] = way
    return Ways(ways, missing)


def _torch(network: Callable[..., Any]) -> Run:
    def run(tokens: Array, features: Array) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(tokens), torch.from_numpy(features))

    return run


def _compiled(network: EventBert, wanted: bool) -> Way:
    """Compiled for any number of users and events; one user is a shape of its own to torch."""
    if not wanted:
        raise ConfigError("left out with --no-compile")
    began = time.perf_counter()
    run = _torch(torch.compile(network, dynamic=True))
    for users in (2, 1):
        for length in LENGTHS:
            run(np.ones((users, length, len(CHANNELS)), np.int32), np.zeros((users, len(network.mean)), np.float32))
    return Way(run, _bucketed, time.perf_counter() - began)


def _session(graph: bytes, threads: int) -> Run:
    session = open_session(Path("model.onnx"), graph, "cpu", threads)
    return lambda tokens, features: session.run(None, {"tokens": tokens, "features": features})


def _int8(of: Material) -> bytes:
    if "int8" not in of.graphs:
        raise ConfigError("the model folder has no variant int8")
    return of.graphs["int8"]


# Layouts --------------------------------------------------------------------------------------------


def _bucketed(lengths: Array) -> Iterator[tuple[Array, Array]]:
    """As the worker does: users of like history length together."""
    padded = np.array([padded_length(n) for n in range(HISTORY_LEN + 1)])[lengths]
    for length in LENGTHS:
        if len(rows := np.flatnonzero(padded == length)):
            yield rows, padded[rows]


def _to_longest(lengths: Array) -> Iterator[tuple[Array, Array]]:
    yield np.arange(len(lengths)), np.full_like(lengths, padded_length(int(lengths.max())))


def _to_full(lengths: Array) -> Iterator[tuple[Array, Array]]:
    yield np.arange(len(lengths)), np.full_like(lengths, HISTORY_LEN)


def _packed(lengths: Array) -> Iterator[tuple[Array, Array]]:
    """Without padding: as many positions as there are events."""
    yield np.arange(len(lengths)), lengths
