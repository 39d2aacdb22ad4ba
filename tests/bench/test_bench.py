"""The benchmark itself, tiny: that it measures what it says, and notices a system that counts wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream.service.broker import EmbeddedBroker
from tests.bench import counts
from tests.bench.events import clicks
from tests.bench.run import Plan, run_bench
from tests.bench.systems import FAUST, SYSTEMS

NOW = 1_790_000_000.0


@pytest.mark.broker
def test_every_system_comes_to_the_same_counts_and_has_its_keys_in_the_results(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    plan = Plan(events=3_000, users=40, faust_events=3_000, rounds=1, latency_events_per_s=200, latency_s=1.0)
    results = run_bench(plan, broker.bootstrap_servers, tmp_path, print)
    for system in ("valuestream", "valuestream_scoring", "faust"):
        assert results[f"ingest.{system}.events_per_second"] > 0
        assert results[f"ingest.{system}.cpu_seconds_per_million_events"] > 0
    assert results["ingest.ratio.faust"] > 0
    assert 0 <= results["latency.p50_ms"] <= results["latency.p99_ms"]
    assert [r["system"] for r in results["rounds"]] == [system.name for system in SYSTEMS]
    assert all(r["users"] == 40 and r["users_wrong"] == 0 for r in results["rounds"])
    assert all(sum(r["applied"].values()) == 3_000 for r in results["rounds"])
    assert json.loads(json.dumps(results)) == results


def test_the_workload_is_the_same_bytes_for_the_same_seed_and_holds_repeats_and_disorder() -> None:
    messages = list(clicks(2_000, 50, seed=3, end=NOW))
    assert messages == list(clicks(2_000, 50, seed=3, end=NOW))
    assert messages != list(clicks(2_000, 50, seed=4, end=NOW))
    events = [json.loads(value or b"") for _, value in messages]
    assert len({e["messageId"] for e in events}) < len(events)
    times = [e["timestamp"] for e in events]
    assert times != sorted(times)
    assert 230 < sum(len(value or b"") for _, value in messages) / len(messages) < 330


def test_a_single_event_more_or_less_is_a_difference() -> None:
    messages = list(clicks(500, 5, seed=3, end=NOW, repeated=0))
    wanted = counts.expected(messages)
    assert counts.differences(wanted, counts.expected([*messages, messages[0]])) == []
    assert len(counts.differences(counts.expected(messages[1:]), wanted)) == 1
    assert len(counts.differences({}, wanted)) == 5


def test_stock_faust_is_given_a_prefix_and_everyone_else_the_whole_topic() -> None:
    plan = Plan(events=1_000, faust_events=100)
    assert {s.name: plan.events_for(s.name) for s in SYSTEMS} == {
        "valuestream": 1_000,
        "valuestream_scoring": 1_000,
        FAUST.name: 100,
    }
