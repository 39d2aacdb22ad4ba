"""Bench: measures how fast the same network runs in torch and in onnxruntime, at the lengths that histories have.

All runners run the same users, in rounds one after the other, so that a busy moment of the machine slows all of them.
The result is the median of the rounds.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnxruntime
import torch

from model_export.bench.int8_speed import Int8Speedup, int8_speedups
from model_export.bench.runners import COMPILED, Runner, Runners, cpu_runners, gpu_runners
from model_export.bench.users import BenchUsers, Work
from model_export.bench.workload import Workload
from model_export.export.precision_loss import outputs
from model_export.metrics.measures import auc
from model_export.metrics.ranking import rank_predictions

__all__ = ["BATCHES", "GPU", "BenchResult", "Measurement", "bench", "machine"]

BATCHES: Final = (1, 8, 64, 256)
#: Stands for a GPU where a number of threads is expected.
GPU: Final = 0
#: Width of the square matrices that measure the peak. They are large enough to keep every core busy, and on a GPU
#: each of its many.
_PEAK_WIDTH: Final = {"cpu": 1_536, "cuda": 8_192}


class Measurement(msgspec.Struct, frozen=True):
    """One runner at one batch size. ``threads`` is 0 on a GPU; ``padding`` is the share of positions without event."""

    runner: str = msgspec.field(name="way")
    batch: int
    threads: int
    users_per_second: float
    events_per_second: float
    padding: float
    gflop_per_second: float
    share_of_peak: float


class BenchResult(msgspec.Struct, frozen=True):
    """What the bench found. ``not_measured`` gives the reason for each runner that could not be run."""

    model: str
    machine: dict[str, str]
    rounds: int
    #: Speed of a product of large matrices by number of threads: fp32 on a CPU, fp16 on a GPU (0 threads).
    peak_gflop_per_second: dict[int, float]
    measured: list[Measurement]
    not_measured: dict[str, str]
    #: AUC of fp32 less that of int8, the largest over the heads.
    auc_loss: float | None
    events_per_user: float
    #: How long torch.compile took, by number of threads. This time is not part of ``measured``.
    compile_seconds: dict[int, float] = {}
    #: What int8 gains at other widths of the network; empty unless the caller asked for it.
    int8: list[Int8Speedup] = []

    def ratio(self, fast: str, slow: str, batch: int, threads: int = 1) -> float:
        """Users per second of one runner over those of another; NaN if one of them was not measured."""
        speeds = {m.runner: m.users_per_second for m in self.measured if (m.batch, m.threads) == (batch, threads)}
        return speeds.get(fast, float("nan")) / speeds.get(slow, float("nan"))


def bench(
    workload: Workload,
    *,
    batches: Sequence[int] = BATCHES,
    rounds: int = 9,
    compiled: bool = True,
    users_max: int = 1_024,
    widths: Sequence[int] = (),
) -> BenchResult:
    """Measure all runners of this machine with one thread, with all threads, and on a GPU; int8 also at ``widths``."""
    users = BenchUsers.drawn(workload, max(users_max, *batches))
    threads_before = torch.get_num_threads()
    by_threads: dict[int, _DeviceResult] = {}
    try:
        for threads in (*sorted({1, len(os.sched_getaffinity(0))}), GPU):
            torch.set_num_threads(threads or threads_before)
            runners = gpu_runners(workload) if threads == GPU else cpu_runners(workload, threads, compiled)
            by_threads[threads] = _measure_device(runners, users, threads, batches=batches, rounds=rounds)
    finally:
        torch.set_num_threads(threads_before)
    return BenchResult(
        model=workload.name,
        machine=machine(),
        rounds=rounds,
        peak_gflop_per_second={threads: x.peak for threads, x in by_threads.items() if x.measured},
        measured=[row for x in by_threads.values() for row in x.measured],
        not_measured={name: reason for x in by_threads.values() for name, reason in x.runners.missing.items()},
        auc_loss=_auc_loss(workload),
        events_per_user=float(users.lengths.mean()),
        compile_seconds={
            threads: round(x.runners.usable[COMPILED].compile_s, 1)
            for threads, x in by_threads.items()
            if COMPILED in x.runners.usable
        },
        int8=[speedup for width in widths for speedup in int8_speedups(width, rounds)],
    )


@dataclass(frozen=True, slots=True)
class _DeviceResult:
    """What was measured with one number of threads, or on a GPU. ``peak`` is the most it can do, in GFLOP/s."""

    runners: Runners
    measured: list[Measurement]
    peak: float


def _measure_device(
    runners: Runners, users: BenchUsers, threads: int, *, batches: Sequence[int], rounds: int
) -> _DeviceResult:
    if not runners.usable:
        return _DeviceResult(runners, [], 0.0)
    peak = _peak("cuda", torch.float16) if threads == GPU else _peak("cpu", torch.float32)
    measured = []
    for batch in batches:
        for name, work, seconds in _timed(runners.usable, users, batch, rounds):
            measured.append(_measurement(name, work, batch=batch, threads=threads, seconds=seconds, peak=peak))
    return _DeviceResult(runners, measured, peak)


def _timed(
    runners: Mapping[str, Runner], users: BenchUsers, batch: int, rounds: int
) -> Iterator[tuple[str, Work, float]]:
    """Run all runners in turn; yield the name, the work and the median seconds of each. The first round warms up."""
    calls = {name: users.laid_out(runner.layout, batch) for name, runner in runners.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, runner in runners.items():
            began = time.perf_counter()
            for call in calls[name]:
                runner.run(*call)
            seconds[name].append(time.perf_counter() - began)
    for name, runner in runners.items():
        yield name, users.work(runner.layout, batch), statistics.median(seconds[name][1:])


def _measurement(runner: str, work: Work, *, batch: int, threads: int, seconds: float, peak: float) -> Measurement:
    """Speeds and shares, each rounded to four digits."""
    speed = work.flop / seconds / 1e9
    padding = 1 - work.events / work.positions
    numbers = (work.users / seconds, work.events / seconds, padding, speed, speed / peak)
    return Measurement(runner, batch, threads, *(float(f"{x:.4g}") for x in numbers))


def _peak(device: str, dtype: torch.dtype) -> float:
    """GFLOP/s of a product of two large matrices: the most that the device can do, on a CPU with torch's threads."""
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


def _auc_loss(workload: Workload) -> float | None:
    """AUC of fp32 less that of int8, the largest over the heads whose labels have both classes.

    None if there is no int8 graph or no such head.
    """
    if "int8" not in workload.graphs:
        return None
    sample = workload.sample
    labels = np.column_stack((sample.churn, sample.purchase))
    fp32, int8 = (outputs(workload.graphs[name], sample.tokens, sample.features) for name in ("fp32", "int8"))
    heads = [h for h in range(labels.shape[1]) if 0 < labels[:, h].sum() < len(labels)]
    losses = [
        auc(rank_predictions(fp32[:, h], labels[:, h])) - auc(rank_predictions(int8[:, h], labels[:, h])) for h in heads
    ]
    return max(losses, default=None)


def machine() -> dict[str, str]:
    """Processor, cores that this process may use, GPU, and versions of the software that computes."""
    return {
        "cpu": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
