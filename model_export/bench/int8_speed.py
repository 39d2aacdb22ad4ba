"""Int8 speed: measures how many times as fast as fp32 int8 is, by the width of the network. Weights are random."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch

from model_export.export.export import to_onnx
from model_export.export.int8 import in_int8
from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.network.serving_graph import Serving
from stream.arrays import Numbers
from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNEL_SIZES, FEATURES
from stream.score.session import open_session

__all__ = ["WIDTHS", "Int8Speedup", "int8_speedups"]

#: Hidden sizes that `valuestream-model bench --sizes` measures.
WIDTHS: Final = (32, 64, 128, 256, 512, 768)
_BATCHES: Final = (8, 64)
_HEAD_WIDTH: Final = 64
_CALIBRATION_ROWS: Final = 16


class Int8Speedup(msgspec.Struct, frozen=True):
    """One width and batch size, with one thread and full histories. ``gain`` is how many times as fast int8 is."""

    hidden: int
    batch: int
    fp32_users_per_second: float
    gain: float


def int8_speedups(hidden: int, rounds: int) -> list[Int8Speedup]:
    """Run the graph that serves in fp32 and in int8, in turn; compare the fastest round of each, without the first."""
    torch.manual_seed(0)
    heads = max(ModelConfig().heads, hidden // _HEAD_WIDTH)
    network = EventBert(ModelConfig(hidden=hidden, heads=heads), Shape()).eval()
    graph = to_onnx(network, Serving(network))
    graphs = graph, in_int8(graph, [_inputs(_CALIBRATION_ROWS)])
    sessions = [open_session(Path("model.onnx"), data, "cpu", 1) for data in graphs]
    speedups = []
    for batch in _BATCHES:
        inputs = _inputs(batch)
        seconds = [[_seconds(session, inputs) for session in sessions] for _ in range(rounds + 1)]
        fp32, int8 = (min(of_graph[1:]) for of_graph in zip(*seconds, strict=True))
        speedups.append(Int8Speedup(hidden, batch, float(f"{batch / fp32:.4g}"), float(f"{fp32 / int8:.3g}")))
    return speedups


def _seconds(session: Any, inputs: dict[str, Numbers]) -> float:
    began = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - began


def _inputs(n: int) -> dict[str, Numbers]:
    """Users with a full history of random events."""
    rng = np.random.default_rng(0)
    channels = [rng.integers(1, size, (n, HISTORY_LEN)) for size in CHANNEL_SIZES.values()]
    return {
        "tokens": np.stack(channels, axis=2).astype(np.int32),
        "features": rng.normal(size=(n, len(FEATURES))).astype(np.float32),
    }
