"""Bench: how fast the same network runs in torch and in onnxruntime, at the lengths that histories have.

All ways run the same users, in rounds one after the other, so that a busy moment of the machine hits all of them;
what is told is the median of the rounds.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from model_export.bench_material import Material
from model_export.bound import BoundSession
from model_export.compress import fused, half, outputs
from model_export.export import to_onnx
from model_export.measures import auc, tally
from model_export.model import EventBert, ModelConfig
from model_export.serving import Serving
from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNELS, LENGTHS
from stream.encode import padded_length
from stream.errors import ConfigError
from stream.score import open_session

__all__ = ["BATCHES", "Bench", "Measured", "bench", "flop"]

Array = npt.NDArray[Any]
#: Tokens ``(n, length, channels)`` and features → anything.
Way = Callable[[Array, Array], object]
#: Rows, and the length that they are padded to, for the history lengths of a batch.
Padding = Callable[[Array], Iterator[tuple[Array, int]]]

BATCHES: Final = (1, 8, 64, 256)
_TYPE: Final = CHANNELS.index("type")
_PEAK_WIDTH: Final = 1_536
EAGER: Final = "torch eager"
COMPILED: Final = "torch.compile"
PLAIN: Final = "onnxruntime, as exported"
FUSED: Final = "onnxruntime, its BERT optimizer"
SERVING: Final = "onnxruntime, written for serving"
UNBUCKETED: Final = "the same, padded to the longest of the batch"
FULL: Final = "the same, padded to 64"
INT8: Final = "onnxruntime, int8"
CUDA: Final = "onnxruntime, fp16, CUDA graph and IO binding"
TENSORRT: Final = "onnxruntime, fp16, TensorRT"


class Measured(msgspec.Struct, frozen=True):
    """One way at one batch size. ``padding`` is the share of positions that hold no event."""

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
    #: Of a product of large fp32 matrices, by number of threads.
    peak_gflop_per_second: dict[int, float]
    measured: list[Measured]
    not_measured: dict[str, str]
    auc_loss: float | None
    events_per_user: float

    def ratio(self, fast: str, slow: str, batch: int, threads: int = 1) -> float:
        """Users per second of one way over those of another; NaN where one was not measured."""
        found = {m.way: m.users_per_second for m in self.measured if (m.batch, m.threads) == (batch, threads)}
        return found.get(fast, float("nan")) / found.get(slow, float("nan"))


def bench(
    of: Material, *, batches: Sequence[int] = BATCHES, rounds: int = 9, compiled: bool = True, users_max: int = 1_024
) -> Bench:
    """Run all ways that this machine has, with one thread and with all."""
    cores = len(os.sched_getaffinity(0))
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(of.sample.tokens), max(users_max, *batches))
    tokens, features = of.sample.tokens[drawn].astype(np.int32), of.sample.features[drawn]
    lengths = np.count_nonzero(tokens[:, :, _TYPE], axis=1)
    measured: list[Measured] = []
    peaks: dict[int, float] = {}
    missing: dict[str, str] = {}
    before = torch.get_num_threads()
    try:
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            peaks[threads] = _peak()
            ways, missing = _ways(of, threads, compiled)
            for batch in batches:
                seconds = _interleaved(ways, tokens, features, batch, rounds)
                for way, (_, padding) in ways.items():
                    work = _Work.of(of.network.config, lengths, padding, batch)
                    measured.append(work.measured(way, batch, threads, seconds[way], peaks[threads]))
    finally:
        torch.set_num_threads(before)
    return Bench(of.name, _machine(), rounds, peaks, measured, missing, _auc_loss(of), float(lengths.mean()))


def flop(config: ModelConfig, length: int) -> int:
    """Floating-point operations of the encoder's products for a user padded to ``length``; a multiply-add is two."""
    hidden = config.hidden
    # Query, key, value and output; the two of the feed-forward net, which is twice as wide; logits and their sum.
    per_event = 4 * hidden * hidden + 2 * hidden * 2 * hidden + 2 * length * hidden
    return 2 * config.layers * length * per_event


class _Work(msgspec.Struct, frozen=True):
    """What running all users once comes to."""

    users: int
    events: int
    positions: int
    flop: int

    @classmethod
    def of(cls, config: ModelConfig, lengths: Array, padding: Padding, batch: int) -> _Work:
        parts = _parts(len(lengths), batch)
        groups = [(len(rows), length) for part in parts for rows, length in padding(lengths[part])]
        users = batch * len(parts)
        return cls(
            users=users,
            events=int(lengths[:users].sum()),
            positions=sum(n * length for n, length in groups),
            flop=sum(n * flop(config, length) for n, length in groups),
        )

    def measured(self, way: str, batch: int, threads: int, seconds: float, peak: float) -> Measured:
        speed = self.flop / seconds / 1e9
        padding = 1 - self.events / self.positions
        figures = (self.users / seconds, self.events / seconds, padding, speed, speed / peak)
        return Measured(way, batch, threads, *(float(f"{x:.4g}") for x in figures))


def _bucketed(lengths: Array) -> Iterator[tuple[Array, int]]:
    """As the worker does: users of like history length together."""
    padded = np.array([padded_length(n) for n in range(HISTORY_LEN + 1)])[lengths]
    for length in LENGTHS:
        if len(rows := np.flatnonzero(padded == length)):
            yield rows, length


def _to_longest(lengths: Array) -> Iterator[tuple[Array, int]]:
    yield np.arange(len(lengths)), padded_length(int(lengths.max()))


def _to_full(lengths: Array) -> Iterator[tuple[Array, int]]:
    yield np.arange(len(lengths)), HISTORY_LEN


def _ways(of: Material, threads: int, compiled: bool) -> tuple[dict[str, tuple[Way, Padding]], dict[str, str]]:
    """All ways that can be run here with their padding, and the reasons of those that cannot."""
    network, config = of.network.eval(), of.network.config
    plain = to_onnx(network)
    optimised = fused(plain, config.heads, config.hidden)
    serving = _session(to_onnx(network, Serving(network)), threads)
    ways: dict[str, tuple[Way, Padding]] = {
        EAGER: (_torch(network), _to_longest),
        f"{EAGER}, bucketed": (_torch(network), _bucketed),
        PLAIN: (_session(plain, threads), _bucketed),
        FUSED: (_session(optimised, threads), _bucketed),
        SERVING: (serving, _bucketed),
        UNBUCKETED: (serving, _to_longest),
        FULL: (serving, _to_full),
    }
    missing = {}
    if "int8" in of.graphs:
        ways[INT8] = (_session(of.graphs["int8"], threads), _bucketed)
    else:
        missing[INT8] = "the model folder has no variant int8"
    makers: dict[str, Callable[[], Way]] = {
        COMPILED: lambda: _compiled(network, compiled),
        CUDA: lambda: BoundSession(half(optimised), "cuda").run,
        TENSORRT: lambda: BoundSession(half(optimised), "tensorrt").run,
    }
    for name, make in makers.items():
        try:
            ways[name] = (make(), _bucketed)
        except Exception as error:
            missing[name] = " ".join(str(error).split())[:200]
    return ways, missing


def _torch(network: Callable[..., Any]) -> Way:
    def run(tokens: Array, features: Array) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(tokens), torch.from_numpy(features))

    return run


def _compiled(network: EventBert, wanted: bool) -> Way:
    if not wanted:
        raise ConfigError("left out with --no-compile")
    way = _torch(torch.compile(network, dynamic=True))
    for length in (LENGTHS[0], LENGTHS[-1]):  # compiles here, or says why it cannot
        way(np.ones((2, length, len(CHANNELS)), np.int32), np.zeros((2, network.mean.shape[0]), np.float32))
    return way


def _session(graph: bytes, threads: int) -> Way:
    session = open_session(Path("model.onnx"), graph, "cpu", threads)
    return lambda tokens, features: session.run(None, {"tokens": tokens, "features": features})


def _interleaved(
    ways: Mapping[str, tuple[Way, Padding]], tokens: Array, features: Array, batch: int, rounds: int
) -> dict[str, float]:
    """Seconds of all users in batches, the median of the rounds, after one round that warms up."""
    prepared = {name: (way, _prepared(padding, tokens, features, batch)) for name, (way, padding) in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, (way, groups) in prepared.items():
            began = time.perf_counter()
            for part in groups:
                way(*part)
            found[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def _prepared(padding: Padding, tokens: Array, features: Array, batch: int) -> list[tuple[Array, Array]]:
    out = []
    for part in _parts(len(tokens), batch):
        inside, numbers = tokens[part], features[part]
        for rows, length in padding(np.count_nonzero(inside[:, :, _TYPE], axis=1)):
            out.append((np.ascontiguousarray(inside[rows, :length]), numbers[rows]))
    return out


def _parts(n: int, batch: int) -> list[slice]:
    """Whole batches only; of batches of one, few are enough."""
    n = min(n, batch * 64)
    return [slice(i, i + batch) for i in range(0, n - batch + 1, batch)]


def _peak() -> float:
    """GFLOP/s of a product of two large fp32 matrices: the most that this machine does with the threads it has."""
    a = torch.rand(_PEAK_WIDTH, _PEAK_WIDTH)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - began)
    return float(f"{2 * _PEAK_WIDTH**3 / min(seconds) / 1e9:.4g}")


def _auc_loss(of: Material) -> float | None:
    """AUC of fp32 less that of int8, the most over the heads with both classes; None without int8 or such a head."""
    if "int8" not in of.graphs:
        return None
    sample = of.sample
    labels = np.column_stack((sample.churn, sample.purchase))
    fp32, int8 = (outputs(of.graphs[name], sample.tokens, sample.features) for name in ("fp32", "int8"))
    heads = [h for h in range(labels.shape[1]) if 0 < labels[:, h].sum() < len(labels)]
    losses = [auc(tally(fp32[:, h], labels[:, h])) - auc(tally(int8[:, h], labels[:, h])) for h in heads]
    return max(losses, default=None)


def _machine() -> dict[str, str]:
    import onnxruntime

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
    }
