"""Tests of the series, with tiny runs: each series puts what it promises into the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.commands.broker.embedded import EmbeddedBroker
from tests.bench.latency import saturated
from tests.bench.results import Results
from tests.bench.run import run_series
from tests.bench.series import SeriesPlan

TINY = SeriesPlan(
    scale_users=(200,),
    scale_events=2_000,
    scale_times=2,
    latency_users=40,
    latency_events=400,
    latency_rates=(100,),
    latency_s=1.0,
    latency_warm_s=0.5,
    latency_warm_rate=50,
    overload_rate=1_000,
    overload_s=3.0,
    recovery_users=300,
    recovery_events=600,
    recovery_times=1,
    workers_users=40,
    workers_events=2_000,
    workers_rounds=1,
    run_timeout_s=120.0,
)


def _run(name: str, broker: EmbeddedBroker, folder: Path) -> dict[str, object]:
    results = Results(folder / "results.json")
    assert run_series(name, TINY, broker.bootstrap_servers, folder, results, print) == {}
    assert f"machine.{name}" in results.values
    return results.values


@pytest.mark.broker
def test_scale_has_a_point_for_each_number_of_users_and_kind_of_keys(broker: EmbeddedBroker, tmp_path: Path) -> None:
    points = _run("scale", broker, tmp_path)["scale"]
    assert isinstance(points, list)
    assert [(p["users"], p["keys"]) for p in points] == [(200, "uniform"), (200, "zipf")]
    for point in points:
        assert point["state_users"] == 200
        assert point["events"] + point["before"]["events"] <= 2_200
        assert point["events_per_second"] == max(point["rates"])
        assert len(point["rates"]) == 2
        assert point["rss_bytes"] > 0


@pytest.mark.broker
def test_latency_has_a_curve_and_the_waits_of_each_priority_under_overload(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    found = _run("latency", broker, tmp_path)
    curve, overload = found["curve"], found["overload"]
    assert isinstance(curve, list)
    assert isinstance(overload, dict)
    assert [point["offered"] for point in curve] == [100]
    assert 0 < curve[0]["p50_ms"] <= curve[0]["p99_ms"]
    assert set(overload["by_priority"]) == {"purchase", "cart", "other"}
    assert overload["samples"], "the worker was not looked at"
    assert sum(s["ingested_per_s"] for s in overload["samples"]) > 0


@pytest.mark.broker
def test_recovery_reads_all_users_from_the_changelog_and_from_the_local_store(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    found = _run("recovery", broker, tmp_path)["recovery"]
    assert isinstance(found, dict)
    assert [run["users"] for run in found["runs"]["changelog"]] == [300]
    assert [run["users"] for run in found["runs"]["local"]] == [300]
    assert found["runs"]["local"][0]["changelog_seconds"] is None, "the local store was not whole"
    assert found["local_seconds"] > 0
    assert found["changelog_seconds"] > 0


@pytest.mark.broker
def test_one_worker_and_two_are_measured(broker: EmbeddedBroker, tmp_path: Path) -> None:
    found = _run("workers", broker, tmp_path)["workers"]
    assert isinstance(found, dict)
    assert found["one"] > 0
    assert found["two"] > 0
    assert found["ratio"] == pytest.approx(found["two"] / found["one"], rel=0.01)


def test_a_rate_is_past_saturation_if_scores_come_late_or_events_cannot_be_sent() -> None:
    assert not saturated({"p50_ms": 20.0, "events_per_second": 990.0}, 1_000)
    assert saturated({"p50_ms": 2_000.0, "events_per_second": 990.0}, 1_000)
    assert saturated({"p50_ms": 20.0, "events_per_second": 800.0}, 1_000)
