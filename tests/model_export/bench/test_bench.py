"""Bench: every way runs the same users, what is told adds up, and the page keeps what was written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from model_export.bench import bench as bench_module
from model_export.bench.bench import GPU, Bench, bench, flop
from model_export.bench.int8_speed import Int8, int8_gains
from model_export.bench.machine import machine
from model_export.bench.page import BEGIN, END, as_markdown, read_json, write_json, write_page
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
    Way,
    Ways,
)  # fmt: skip
from model_export.bench.workload import material
from model_export.cli import cli
from model_export.data.event_log import DataConfig
from stream.contract.tokens import CHANNELS
from stream.errors import ConfigError, ContractError
from stream.score.scorer import DEMO_MODEL
from tests.model_export.export.test_export import CONFIG, network, sample, write_run

BATCHES = (1, 16)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", network(), sample())


@pytest.fixture(scope="module")
def found(run_folder: Path) -> Bench:
    return bench(material(run_folder), batches=BATCHES, rounds=1, compiled=False, users_max=32)


def test_every_way_is_measured_or_says_why_not(found: Bench) -> None:
    assert "--no-compile" in found.not_measured[COMPILED]
    ways = {m.way for m in found.measured}
    assert {EAGER, PLAIN, SERVING, UNBUCKETED, FULL, INT8, PACKED} <= ways
    assert not ways & set(found.not_measured)
    for way in ways:
        assert {m.batch for m in found.measured if m.way == way} == set(BATCHES)


def test_padding_grows_from_buckets_to_the_longest_to_all_that_there_is_room_for(found: Bench) -> None:
    of = {(m.way, m.batch, m.threads): m for m in found.measured}
    buckets, longest, full = (of[way, 16, 1].padding for way in (SERVING, UNBUCKETED, FULL))
    assert 0 <= buckets < longest <= full < 1
    assert of[PACKED, 16, 1].padding == 0
    # Of one user there is nothing to be sorted.
    assert of[SERVING, 1, 1].padding == of[UNBUCKETED, 1, 1].padding


def test_figures_of_a_way_agree_with_each_other(found: Bench) -> None:
    for m in found.measured:
        assert m.users_per_second > 0
        assert m.share_of_peak == pytest.approx(m.gflop_per_second / found.peak_gflop_per_second[m.threads], rel=1e-2)
        if m.way == FULL:
            assert m.padding == pytest.approx(1 - m.events_per_second / m.users_per_second / 64, abs=1e-2)
            assert m.gflop_per_second == pytest.approx(m.users_per_second * flop(CONFIG, 64) / 1e9, rel=1e-2)


def test_packed_users_are_counted_by_their_own_lengths(found: Bench) -> None:
    of = {m.way: m for m in found.measured if (m.batch, m.threads) == (16, 1)}
    packed, full = (of[way].gflop_per_second / of[way].users_per_second for way in (PACKED, FULL))
    # Lengths are uniform, so about half of the positions hold an event.
    assert flop(CONFIG, 1) / 1e9 < packed < 0.8 * full


@pytest.mark.parametrize("length", [8, 64])
def test_operations_are_those_that_torch_counts(length: int) -> None:
    tokens = torch.ones((3, length, len(CHANNELS)), dtype=torch.int32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network().encoder(tokens)
    pooling = 2 * length * CONFIG.hidden
    assert counter.get_total_flops() == 3 * (flop(CONFIG, length) + pooling)


def test_ratio_is_of_users_per_second_and_of_nothing_where_one_was_not_measured(found: Bench) -> None:
    of = {m.way: m.users_per_second for m in found.measured if (m.batch, m.threads) == (16, 1)}
    assert found.ratio(SERVING, EAGER, 16) == of[SERVING] / of[EAGER]
    assert np.isnan(found.ratio("torch.compile", EAGER, 16))


def test_ways_of_a_gpu_are_told_apart_with_the_peak_of_the_card_and_not_of_the_cpu(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def peak(device: str, dtype: torch.dtype) -> float:
        asked.append((device, dtype))
        return {"cpu": 100.0, "cuda": 1_000.0}[device]

    def layout(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.arange(len(lengths)), np.full_like(lengths, 64)

    monkeypatch.setattr(bench_module, "_peak", peak)
    monkeypatch.setattr(
        bench_module, "gpu_ways", lambda _: Ways({CUDA: Way(lambda *_: None, layout)}, {PACKED_CUDA: "-"})
    )
    found = bench(material(run_folder), batches=(2,), rounds=1, compiled=False, users_max=2)
    assert asked[-1] == ("cuda", torch.float16)
    assert asked[0] == ("cpu", torch.float32)
    assert found.peak_gflop_per_second[GPU] == 1_000
    (row,) = (m for m in found.measured if m.threads == GPU)
    assert row.way == CUDA
    assert row.share_of_peak == pytest.approx(row.gflop_per_second / 1_000, rel=1e-2)
    assert "GPU, fp16, peak 1,000 GFLOP/s" in as_markdown(found)


def test_time_to_compile_is_told_by_threads_and_is_no_part_of_the_speed(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench_module.cpu_ways

    def ways(*given: Any) -> Ways:
        found = real(*given)
        way = found.of[EAGER]
        return Ways({**found.of, COMPILED: Way(way.run, way.layout, 3_600.0)}, {})

    monkeypatch.setattr(bench_module, "cpu_ways", ways)
    found = bench(material(run_folder), batches=(2,), rounds=1, compiled=False, users_max=2)
    assert found.compile_seconds[1] == 3_600
    assert next(m for m in found.measured if m.way == COMPILED).users_per_second > 1
    assert "torch.compile compiled for 3,600 s (1 thread)" in as_markdown(found)


def test_machine_names_its_gpu_or_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine()["gpu"] == "none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert machine()["gpu"] == "a card"


def test_gain_of_int8_is_measured_for_networks_of_any_width() -> None:
    found = int8_gains(16, 1)
    assert [(x.hidden, x.batch) for x in found] == [(16, 8), (16, 64)]
    assert all(x.gain > 0 and x.fp32_users_per_second > 0 for x in found)


def test_number_of_torch_threads_is_what_it_was_before(run_folder: Path) -> None:
    before = torch.get_num_threads()
    bench(material(run_folder), batches=(1,), rounds=1, compiled=False, users_max=1)
    assert torch.get_num_threads() == before


def test_model_folder_is_measured_by_a_network_of_its_size_and_its_own_int8() -> None:
    of = material(DEMO_MODEL)
    assert (of.network.config.hidden, of.network.config.layers, of.network.shape.categories) == (32, 2, 12)
    assert of.graphs["int8"] == (DEMO_MODEL / "model.int8.onnx").read_bytes()
    assert len(of.sample.tokens) > 100


def test_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no manifest.json"):
        material(tmp_path)


def test_data_beside_a_run_folder_is_refused_as_it_has_users_of_its_own(run_folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a run folder, which has users of its own; leave --data out"):
        material(run_folder, DataConfig("events.jsonl", "jsonl"))


# Page -------------------------------------------------------------------------------------------------


def test_tables_stand_between_the_marks_and_all_else_stays(found: Bench, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# before\n{BEGIN}\nold\n{END}\n# after\n", encoding="utf-8")
    write_page(page, found)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# before\n{BEGIN}\n")
    assert text.endswith(f"{END}\n# after\n")
    assert "old" not in text
    assert as_markdown(found) in text
    write_page(page, found)
    assert page.read_text(encoding="utf-8") == text
    page.write_text("# no marks\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no lines"):
        write_page(page, found)


def test_figures_are_read_as_they_were_written(found: Bench, tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", found)
    assert read_json(tmp_path / "bench.json") == found
    (tmp_path / "bench.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ContractError, match="cannot be read"):
        read_json(tmp_path / "bench.json")


def test_table_names_targets_ratios_and_what_is_missing(found: Bench) -> None:
    text = as_markdown(found)
    assert f"{found.ratio(SERVING, EAGER, 16):.2f}" in text
    assert "≥ 1.8" in text
    assert "not measured: torch.compile" in text
    assert "int8 over fp32, one thread, hidden" not in text
    gains = [Int8(256, 8, 100.0, 1.9), Int8(32, 8, 1_000.0, 1.04), Int8(32, 64, 1_000.0, 1.1)]
    text = as_markdown(msgspec.structs.replace(found, int8=gains))
    assert "| 32 | 1.04 | 1.10 |\n| 256 | 1.90 | – |" in text
    assert "AUC that int8 loses: –" in as_markdown(msgspec.structs.replace(found, auc_loss=None))


def test_command_prints_the_tables_and_writes_the_figures(run_folder: Path, tmp_path: Path) -> None:
    options = ["--batch", "2", "--rounds", "1", "--users", "4", "--no-compile", "--output", str(tmp_path / "b.json")]
    result = CliRunner().invoke(cli, ["bench", str(run_folder), *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert "int8 over fp32, one thread, hidden" not in result.output
    assert result.output.strip() == as_markdown(read_json(tmp_path / "b.json")).strip()
