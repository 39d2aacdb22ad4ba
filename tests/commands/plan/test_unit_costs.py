"""Unit costs are derived from benchmark results, and an unmeasured one names the command that measures it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from stream.commands.plan.unit_costs import COST_NAMES, UnitCost, read_unit_costs
from tests.bench import unit_costs
from tests.bench.unit_costs import derive

MACHINE = {"cpu": "abacus", "cores": 2, "python": "3.11.7", "began": "2026-01-02T03:04:05+00:00"}
EVENT_S, VALUE_S = 12e-6, 5e-6
SIZED = {name: figure for name, figure in read_unit_costs().items() if "unit_costs" in figure.command}


def point(users: int, rate: float = 50_000.0, keys: str = "uniform") -> dict[str, Any]:
    changed = -np.expm1(-rate / users) * users / rate
    cpu = (EVENT_S + VALUE_S * changed) * 1e6
    return {
        "users": users,
        "keys": keys,
        "events": 1_000_000,
        "events_per_second": rate,
        "cpu_seconds_per_million_events": cpu,
    }


def results(**values: Any) -> dict[str, Any]:
    stages = {"features": 1.0, "encode": 2.0, "decide": 3.0, "infer": 8.0, "publish": 50.0}
    run = {"system": "valuestream_scoring", "users": 100, "events": 100, "events_per_second": 10.0}
    return {
        "machine": MACHINE,
        "machine.scale": MACHINE,
        "machine.recovery": MACHINE,
        "rounds": [{**run, "emitted": 100_000, "seconds_by_stage": stages, "peak_rss_bytes": 200e6}],
        "scale": [point(2_000_000), point(100_000), point(10_000), point(10_000, keys="zipf")],
        "recovery": {"changelog_users_per_second": 200_000, "local_users_per_second": 500_000},
        **values,
    }


def values(figures: dict[str, UnitCost]) -> dict[str, float | None]:
    return {name: figure.value for name, figure in figures.items()}


def test_derived_costs_are_those_that_the_results_were_made_of() -> None:
    found = values(derive(results(), SIZED))
    assert found.keys() == COST_NAMES
    assert found["event_s"] == pytest.approx(EVENT_S, rel=1e-3)
    assert found["value_s"] == pytest.approx(VALUE_S, rel=1e-3)
    assert (found["score_s"], found["inference_s"]) == (6e-5, 8e-5)
    assert (found["changelog_recovery_s"], found["disk_recovery_s"]) == (5e-6, 2e-6)
    assert found["worker_bytes"] == pytest.approx(200e6, rel=1e-2)
    assert found["gpu_s"] is None


def test_each_unit_cost_says_where_and_when_it_was_measured() -> None:
    figure = derive(results(), SIZED)["event_s"]
    assert figure.measured == "2026-01-02" and figure.hardware == "2 cores, abacus, Python 3.11.7"
    assert "series scale" in figure.command


def test_shipped_sizes_are_those_of_the_present_values_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is left out, because the memory of so few users cannot be told from the rest of the process."""
    monkeypatch.setattr(unit_costs, "_USERS", 64)
    monkeypatch.setattr(unit_costs, "_FETCH", 64)
    counted, shipped = unit_costs.sizes(), read_unit_costs()
    for name in ("value_bytes", "value_event_bytes", "value_buckets_bytes", "score_bytes"):
        assert counted[name].value == pytest.approx(shipped[name].value, rel=0.01), (
            f"{name} was {shipped[name].value}; run `python -m tests.bench.unit_costs`"
        )


def test_score_on_a_gpu_costs_the_time_of_the_fastest_runner() -> None:
    measured = [
        {"way": "onnxruntime, int8", "users_per_second": 9e9},
        {"way": "onnxruntime, fp16, CUDA graph and IO binding", "users_per_second": 50_000.0},
        {"way": "onnxruntime, fp16, TensorRT", "users_per_second": 40_000.0},
    ]
    figure = derive(results(), SIZED, {"measured": measured, "machine": {"gpu": "one"}})["gpu_s"]
    assert figure.value == pytest.approx(2e-5) and "CUDA" in figure.source and figure.hardware == "one"
    assert derive(results(), SIZED, {"measured": measured[:1], "machine": {}})["gpu_s"].value is None


@pytest.mark.parametrize(
    ("lacking", "unknown"),
    [
        ({"scale": []}, {"event_s", "value_s"}),
        ({"scale": [point(10_000)]}, {"event_s", "value_s"}),
        ({"rounds": []}, {"score_s", "inference_s", "worker_bytes"}),
        ({"recovery": {"local_users_per_second": 1.0}}, {"changelog_recovery_s"}),
    ],
)
def test_cost_without_a_measurement_stays_unknown(lacking: dict[str, Any], unknown: set[str]) -> None:
    found = values(derive(results(**lacking), SIZED))
    assert {name for name, value in found.items() if value is None} == {*unknown, "gpu_s"}


def test_command_names_the_missing_series_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, costs = tmp_path / "results.json", tmp_path / "costs.json"
    monkeypatch.setattr(unit_costs, "sizes", lambda: SIZED)
    monkeypatch.setattr(unit_costs, "COSTS_FILE", costs)
    lost = CliRunner().invoke(unit_costs.main, ["--results", str(file)])
    assert lost.exit_code == 1 and "make bench" in lost.output
    file.write_text(json.dumps(results(recovery={})))
    refused = CliRunner().invoke(unit_costs.main, ["--results", str(file)])
    assert refused.exit_code == 1 and not costs.exists()
    assert "disk_recovery_s" in refused.output and '--series recovery"' in refused.output
