"""Bench: every runner runs the same users, and the numbers of a runner agree with each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export.bench import bench as bench_module
from model_export.bench.bench import GPU, BenchResult, bench, machine
from model_export.bench.page import as_markdown
from model_export.bench.runners import (
    COMPILED,
    CUDA,
    EAGER,
    FULL,
    INT8,
    PACKED,
    PACKED_CUDA,
    PLAIN,
    SERVING,
    UNBUCKETED,
    Runner,
    Runners,
)  # fmt: skip
from model_export.bench.users import flop
from model_export.bench.workload import load_workload
from tests.model_export.bench.conftest import BATCHES
from tests.model_export.small_run import CONFIG


def test_every_runner_is_measured_or_says_why_not(result: BenchResult) -> None:
    assert "--no-compile" in result.not_measured[COMPILED]
    names = {m.runner for m in result.measured}
    assert {EAGER, PLAIN, SERVING, UNBUCKETED, FULL, INT8, PACKED} <= names
    assert not names & set(result.not_measured)
    for name in names:
        assert {m.batch for m in result.measured if m.runner == name} == set(BATCHES)


def test_padding_grows_from_buckets_to_the_longest_history_to_full_length(result: BenchResult) -> None:
    measured = {(m.runner, m.batch, m.threads): m for m in result.measured}
    buckets, longest, full = (measured[name, 16, 1].padding for name in (SERVING, UNBUCKETED, FULL))
    assert 0 <= buckets < longest <= full < 1
    assert measured[PACKED, 16, 1].padding == 0
    # With one user in a batch there is nothing to sort.
    assert measured[SERVING, 1, 1].padding == measured[UNBUCKETED, 1, 1].padding


def test_numbers_of_a_runner_agree_with_each_other(result: BenchResult) -> None:
    for m in result.measured:
        assert m.users_per_second > 0
        assert m.share_of_peak == pytest.approx(m.gflop_per_second / result.peak_gflop_per_second[m.threads], rel=1e-2)
        if m.runner == FULL:
            assert m.padding == pytest.approx(1 - m.events_per_second / m.users_per_second / 64, abs=1e-2)
            assert m.gflop_per_second == pytest.approx(m.users_per_second * flop(CONFIG, 64) / 1e9, rel=1e-2)


def test_ratio_compares_users_per_second_and_is_nan_if_a_runner_was_not_measured(result: BenchResult) -> None:
    speeds = {m.runner: m.users_per_second for m in result.measured if (m.batch, m.threads) == (16, 1)}
    assert result.ratio(SERVING, EAGER, 16) == speeds[SERVING] / speeds[EAGER]
    assert np.isnan(result.ratio("torch.compile", EAGER, 16))


def test_gpu_runners_are_compared_with_the_peak_of_the_gpu(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def peak(device: str, dtype: torch.dtype) -> float:
        calls.append((device, dtype))
        return {"cpu": 100.0, "cuda": 1_000.0}[device]

    def layout(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.arange(len(lengths)), np.full_like(lengths, 64)

    monkeypatch.setattr(bench_module, "_peak", peak)
    monkeypatch.setattr(
        bench_module, "gpu_runners", lambda _: Runners({CUDA: Runner(lambda *_: None, layout)}, {PACKED_CUDA: "-"})
    )
    result = bench(load_workload(run_folder), batches=(2,), rounds=1, compiled=False, users_max=2)
    assert calls[-1] == ("cuda", torch.float16)
    assert calls[0] == ("cpu", torch.float32)
    assert result.peak_gflop_per_second[GPU] == 1_000
    (row,) = (m for m in result.measured if m.threads == GPU)
    assert row.runner == CUDA
    assert row.share_of_peak == pytest.approx(row.gflop_per_second / 1_000, rel=1e-2)
    assert "GPU, fp16, peak 1,000 GFLOP/s" in as_markdown(result)


def test_compile_time_is_given_by_threads_and_is_no_part_of_the_speed(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench_module.cpu_runners

    def with_slow_compiler(*args: Any) -> Runners:
        usable = real(*args).usable
        compiled = Runner(usable[EAGER].run, usable[EAGER].layout, compile_s=3_600.0)
        return Runners({**usable, COMPILED: compiled}, {})

    monkeypatch.setattr(bench_module, "cpu_runners", with_slow_compiler)
    result = bench(load_workload(run_folder), batches=(2,), rounds=1, compiled=False, users_max=2)
    assert result.compile_seconds[1] == 3_600
    assert next(m for m in result.measured if m.runner == COMPILED).users_per_second > 1
    assert "torch.compile compiled for 3,600 s (1 thread)" in as_markdown(result)


def test_bench_leaves_the_number_of_torch_threads_as_it_was(run_folder: Path) -> None:
    before = torch.get_num_threads()
    bench(load_workload(run_folder), batches=(1,), rounds=1, compiled=False, users_max=1)
    assert torch.get_num_threads() == before


def test_machine_names_its_gpu_or_says_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine()["gpu"] == "none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert machine()["gpu"] == "a card"
