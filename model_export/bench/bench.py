"""Bench: how fast the same network runs in torch and in onnxruntime, at the lengths that histories have.

All ways run the same users, in rounds one after the other, so that a busy moment of the machine hits all of them;
what is told is the median of the rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from model_export.bench.int8_speed import Int8, int8_gains
from model_export.bench.machine import machine
from model_export.bench.runners import COMPILED, Layout, Way, Ways, cpu_ways, gpu_ways
from model_export.bench.workload import Material
from model_export.export.variants import outputs
from model_export.metrics.measures import auc
from model_export.metrics.ranking import rank_predictions
from model_export.network.event_bert import ModelConfig
from stream.contract.tokens import CHANNELS

__all__ = ["BATCHES", "GPU", "Bench", "Measured", "bench", "flop"]

Array = npt.NDArray[Any]
BATCHES: Final = (1, 8, 64, 256)
_TYPE: Final = CHANNELS.index("type")
#: The number of threads that stands for a GPU.
GPU: Final = 0
#: Rows of the matrices that the peak is measured with: enough for every core, on a GPU for each of its many.
_PEAK_WIDTH: Final = {"cpu": 1_536, "cuda": 8_192}


class Measured(msgspec.Struct, frozen=True):
    """One way at one batch size, with 0 threads on a GPU. ``padding`` is the share of positions that hold no event."""

    way: str
    batch: int
    threads: int
    users_per_second: float
    events_per_second: float
    padding: float
    gflop_per_second: float
    share_of_peak: float


class Bench(msgspec.Struct, frozen=True):
    """What was measured; ``not_measured`` gives the reason by way. ``auc_loss`` of int8 is the largest of a head."""

    model: str
    machine: dict[str, str]
    rounds: int
    #: Of a product of large fp32 matrices, by number of threads; of fp16 ones on a GPU, which is 0 threads.
    peak_gflop_per_second: dict[int, float]
    measured: list[Measured]
    not_measured: dict[str, str]
    auc_loss: float | None
    events_per_user: float
    #: Of torch.compile, by number of threads; no part of what was measured.
    compile_seconds: dict[int, float] = {}
    #: What int8 gains at other widths of the network, where that was asked for.
    int8: list[Int8] = []

    def ratio(self, fast: str, slow: str, batch: int, threads: int = 1) -> float:
        """Users per second of one way over those of another; NaN where one was not measured."""
        found = {m.way: m.users_per_second for m in self.measured if (m.batch, m.threads) == (batch, threads)}
        return found.get(fast, float("nan")) / found.get(slow, float("nan"))


def bench(
    of: Material,
    *,
    batches: Sequence[int] = BATCHES,
    rounds: int = 9,
    compiled: bool = True,
    users_max: int = 1_024,
    widths: Sequence[int] = (),
) -> Bench:
    """Run all ways that this machine has, with one thread, with all, and on a GPU; int8 also at other ``widths``."""
    users = _Users.drawn(of, max(users_max, *batches))
    before = torch.get_num_threads()
    at: dict[int, _At] = {}
    try:
        for threads in (*sorted({1, len(os.sched_getaffinity(0))}), GPU):
            torch.set_num_threads(threads or before)
            ways = gpu_ways(of) if threads == GPU else cpu_ways(of, threads, compiled)
            at[threads] = _At.measured_by(ways, users, threads, batches, rounds)
    finally:
        torch.set_num_threads(before)
    compile_seconds = {threads: x.ways.of[COMPILED].compile_s for threads, x in at.items() if COMPILED in x.ways.of}
    return Bench(
        model=of.name,
        machine=machine(),
        rounds=rounds,
        peak_gflop_per_second={threads: x.peak for threads, x in at.items() if x.rows},
        measured=[row for x in at.values() for row in x.rows],
        not_measured={name: reason for x in at.values() for name, reason in x.ways.missing.items()},
        auc_loss=_auc_loss(of),
        events_per_user=float(users.lengths.mean()),
        compile_seconds={threads: round(seconds, 1) for threads, seconds in compile_seconds.items()},
        int8=[gain for width in widths for gain in int8_gains(width, rounds)],
    )


def flop(config: ModelConfig, length: int) -> int:
    """Floating-point operations of the encoder's products for a user padded to ``length``; a multiply-add is two."""
    hidden = config.hidden
    # Query, key, value and output; the two of the feed-forward net, which is twice as wide; logits and their sum.
    per_event = 4 * hidden * hidden + 2 * hidden * 2 * hidden + 2 * length * hidden
    return 2 * config.layers * length * per_event


@dataclass(frozen=True, slots=True)
class _Users:
    """Users that every way runs: tokens, features and number of events of each, and the network's size."""

    tokens: Array
    features: Array
    lengths: Array
    config: ModelConfig

    @classmethod
    def drawn(cls, of: Material, n: int) -> _Users:
        rows = np.random.default_rng(0).integers(0, len(of.sample.tokens), n)
        tokens = of.sample.tokens[rows].astype(np.int32)
        lengths = np.count_nonzero(tokens[:, :, _TYPE], axis=1)
        return cls(tokens, of.sample.features[rows], lengths, of.network.config)

    def laid_out(self, layout: Layout, batch: int) -> list[tuple[Array, Array]]:
        """What is run in turn: tokens and features."""
        out = []
        for part in _parts(len(self.lengths), batch):
            tokens, features = self.tokens[part], self.features[part]
            for rows, positions in layout(self.lengths[part]):
                out.append((np.ascontiguousarray(tokens[rows, : positions.max()]), features[rows]))
        return out


@dataclass(frozen=True, slots=True)
class _At:
    """What was measured with one number of threads, or on a GPU, and the most that it can do in GFLOP/s."""

    ways: Ways
    rows: list[Measured]
    peak: float

    @classmethod
    def measured_by(cls, ways: Ways, users: _Users, threads: int, batches: Sequence[int], rounds: int) -> _At:
        if not ways.of:
            return cls(ways, [], 0.0)
        peak = _peak("cuda", torch.float16) if threads == GPU else _peak("cpu", torch.float32)
        rows = [row for batch in batches for row in _measured(ways.of, users, batch, threads, rounds, peak)]
        return cls(ways, rows, peak)


def _measured(
    ways: Mapping[str, Way], users: _Users, batch: int, threads: int, rounds: int, peak: float
) -> Iterator[Measured]:
    """Figures of each way; all run in turn, and the first round warms up."""
    groups = {name: users.laid_out(way.layout, batch) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            for part in groups[name]:
                way.run(*part)
            seconds[name].append(time.perf_counter() - began)
    for name, way in ways.items():
        work = _Work.of(users, way.layout, batch)
        yield work.measured(name, batch, threads, statistics.median(seconds[name][1:]), peak)


@dataclass(frozen=True, slots=True)
class _Work:
    """What running all users once comes to."""

    users: int
    events: int
    positions: int
    flop: int

    @classmethod
    def of(cls, users: _Users, layout: Layout, batch: int) -> _Work:
        parts = _parts(len(users.lengths), batch)
        positions = [n for part in parts for _, taken in layout(users.lengths[part]) for n in taken.tolist()]
        n = batch * len(parts)
        flops = sum(flop(users.config, length) for length in positions)
        return cls(n, int(users.lengths[:n].sum()), sum(positions), flops)

    def measured(self, way: str, batch: int, threads: int, seconds: float, peak: float) -> Measured:
        speed = self.flop / seconds / 1e9
        padding = 1 - self.events / self.positions
        figures = (self.users / seconds, self.events / seconds, padding, speed, speed / peak)
        return Measured(way, batch, threads, *(float(f"{x:.4g}") for x in figures))


def _parts(n: int, batch: int) -> list[slice]:
    """Whole batches only; of batches of one, few are enough."""
    n = min(n, batch * 64)
    return [slice(i, i + batch) for i in range(0, n - batch + 1, batch)]


def _peak(device: str, dtype: torch.dtype) -> float:
    """GFLOP/s of a product of two large matrices: the most that the device does, a CPU with the threads it has."""
    width = _PEAK_WIDTH[device]
    a = torch.rand(width, width, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return float(f"{2 * width**3 / min(seconds) / 1e9:.4g}")


def _auc_loss(of: Material) -> float | None:
    """AUC of fp32 less that of int8, the most over the heads with both classes; None without int8 or such a head."""
    if "int8" not in of.graphs:
        return None
    sample = of.sample
    labels = np.column_stack((sample.churn, sample.purchase))
    fp32, int8 = (outputs(of.graphs[name], sample.tokens, sample.features) for name in ("fp32", "int8"))
    heads = [h for h in range(labels.shape[1]) if 0 < labels[:, h].sum() < len(labels)]
    losses = [
        auc(rank_predictions(fp32[:, h], labels[:, h])) - auc(rank_predictions(int8[:, h], labels[:, h])) for h in heads
    ]
    return max(losses, default=None)
