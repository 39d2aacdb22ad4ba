"""Runners: the ways in which the bench runs the same network, each with the layout of its batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from model_export.bench.io_binding import BoundSession
from model_export.bench.layouts import Layout, bucketed, to_full, to_longest, without_padding
from model_export.bench.workload import Workload
from model_export.export.export import to_onnx
from model_export.export.variants import fused, in_fp16
from model_export.network.event_bert import EventBert
from model_export.network.serving_graph import Serving
from model_export.network.unpadded import pack, packed_network
from stream.arrays import FeatureRows, TokenRows
from stream.contract.tokens import CHANNELS, LENGTHS
from stream.errors import ConfigError
from stream.score.session import open_session

__all__ = ["Run", "Runner", "Runners", "cpu_runners", "gpu_runners", "packed_run"]

#: Takes tokens ``(n, length, channels)`` and features ``(n, features)``; returns once the outputs are computed.
Run: TypeAlias = Callable[[TokenRows, FeatureRows], object]

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
class Runner:
    """One way to run the network. ``compile_s`` is how many seconds it took until it could be run."""

    run: Run
    layout: Layout
    compile_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Runners:
    """The runners that work on this machine, and for each of the others the reason why it does not."""

    usable: dict[str, Runner]
    missing: dict[str, str]


def cpu_runners(workload: Workload, threads: int, compiled: bool) -> Runners:
    """All runners on the CPU. Those of torch use the number of threads that torch is set to."""
    network, config = workload.network.eval(), workload.network.config
    plain = to_onnx(network)
    serving = _session(to_onnx(network, Serving(network)), threads)
    return _tried(
        workload,
        {
            EAGER: lambda: Runner(_torch(network), to_longest),
            EAGER_BUCKETED: lambda: Runner(_torch(network), bucketed),
            COMPILED: lambda: _compiled(network, compiled),
            PACKED: lambda: Runner(packed_run(network), without_padding),
            PLAIN: lambda: Runner(_session(plain, threads), bucketed),
            FUSED: lambda: Runner(_session(fused(plain, config.heads, config.hidden), threads), bucketed),
            SERVING: lambda: Runner(serving, bucketed),
            UNBUCKETED: lambda: Runner(serving, to_longest),
            FULL: lambda: Runner(serving, to_full),
            INT8: lambda: Runner(_session(_int8(workload), threads), bucketed),
        },
    )


def gpu_runners(workload: Workload) -> Runners:
    """All runners on a GPU. TensorRT gets the graph as exported, because it does not know onnxruntime's own nodes."""
    network, config = workload.network.eval(), workload.network.config
    plain = to_onnx(network)
    tried = _tried(
        workload,
        {
            CUDA: lambda: Runner(
                BoundSession(in_fp16(fused(plain, config.heads, config.hidden)), "cuda").run, bucketed
            ),
            TENSORRT: lambda: Runner(BoundSession(plain, "tensorrt").run, bucketed),
            PACKED_CUDA: lambda: Runner(packed_run(network, "cuda", torch.float16), without_padding),
        },
    )
    if torch.cuda.is_available():
        return tried
    reason = "torch finds no CUDA device to measure the peak of"
    return Runners({}, dict.fromkeys(tried.usable, reason) | tried.missing)


def packed_run(network: EventBert, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
    """Run the packed network on a device; packing is part of each run. Raises ConfigError without the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA device")
    reader = packed_network(network).to(device, dtype)

    def run(tokens: TokenRows, features: FeatureRows) -> list[torch.Tensor]:
        with torch.inference_mode():
            outputs = reader(pack(tokens, device), torch.from_numpy(features).to(device, dtype))
            return [output.cpu() for output in outputs]  # copying waits until a GPU has finished

    return run


def _tried(workload: Workload, makers: Mapping[str, Callable[[], Runner]]) -> Runners:
    """Make each runner and run it once, because some fail only when they are run."""
    usable, missing = {}, {}
    tokens, features = workload.sample.tokens[:2].astype(np.int32), workload.sample.features[:2]
    for name, make in makers.items():
        try:
            runner = make()
            runner.run(tokens, features)
        except Exception as error:
            missing[name] = " ".join(str(error).split())[:200]
        else:
            usable[name] = runner
    return Runners(usable, missing)


def _torch(network: Callable[..., Any]) -> Run:
    def run(tokens: TokenRows, features: FeatureRows) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(tokens), torch.from_numpy(features))

    return run


def _compiled(network: EventBert, wanted: bool) -> Runner:
    """Compile for any number of users and events. torch treats one user as a shape of its own."""
    if not wanted:
        raise ConfigError("left out with --no-compile")
    began = time.perf_counter()
    run = _torch(torch.compile(network, dynamic=True))
    for users in (2, 1):
        for length in LENGTHS:
            run(np.ones((users, length, len(CHANNELS)), np.int32), np.zeros((users, len(network.mean)), np.float32))
    return Runner(run, bucketed, time.perf_counter() - began)


def _session(graph: bytes, threads: int) -> Run:
    session = open_session(Path("model.onnx"), graph, "cpu", threads)
    return lambda tokens, features: session.run(None, {"tokens": tokens, "features": features})


def _int8(workload: Workload) -> bytes:
    if "int8" not in workload.graphs:
        raise ConfigError("the model folder has no variant int8")
    return workload.graphs["int8"]
