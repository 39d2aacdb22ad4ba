"""Tests of the benchmark, with tiny runs: it measures what it says, and notices a system that counts wrongly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import pytest

from stream.commands.broker.embedded import EmbeddedBroker
from tests.bench import counts
from tests.bench.events import clicks, everyone, zipf
from tests.bench.ingest import Plan, summary
from tests.bench.results import Results
from tests.bench.run import choose, run_bench, table
from tests.bench.systems import FAUST, INGEST, PEERS, SYSTEMS, VALUESTREAM, Topic

NOW = 1_790_000_000.0
TINY = Plan(events=3_000, users=40, rounds=1, run_timeout_s=120, latency_events_per_s=200, latency_s=1.0)


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_every_system_comes_to_the_same_counts_and_is_in_the_results(broker: EmbeddedBroker, tmp_path: Path) -> None:
    systems, results = choose("", print), Results(tmp_path / "results.json")
    failures = run_bench(TINY, systems, broker.bootstrap_servers, tmp_path, results, print)
    found = results.values
    assert failures == {}
    for system in systems:
        assert found[f"ingest.{system.name}.events_per_second"] > 0
        assert found[f"ingest.{system.name}.cpu_seconds_per_million_events"] > 0
        assert found[f"ingest.{system.name}.peak_rss_bytes"] > 0
    assert {f"ingest.ratio.{s.name}" for s in systems if s.name in PEERS} <= found.keys()
    assert found["ingest.valuestream.state_bytes_per_user"] > 0
    assert 0 <= found["machine"]["stolen_percent"] < 100
    assert found["ingest.valuestream.seconds_per_million.decode"] > 0
    assert 0 <= found["latency.p50_ms"] <= found["latency.p99_ms"]
    assert set(found["latency"]["by_priority"]) == {"purchase", "cart", "other"}
    assert [r["system"] for r in found["rounds"]] == [system.name for system in systems]
    with_users = [r for r in found["rounds"] if r["users"]]
    assert len(with_users) == len(systems) - 3, "only the limits keep nothing"
    assert all(r["users"] == 40 and r["users_wrong"] == 0 for r in with_users)
    assert all(sum(r["applied"].values()) == 3_000 for r in with_users)
    assert all(r["emitted"] >= 40 for r in with_users if r["system"] != "valuestream_ingest")
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert "faust" in table(found)


@pytest.mark.broker
def test_a_system_that_fails_is_named_and_the_others_still_run(broker: EmbeddedBroker, tmp_path: Path) -> None:
    broken = replace(FAUST, name="broken", arguments=("tests.bench.peers.missing",))
    wrong = replace(VALUESTREAM, name="wrong", durable_users=lambda _: ({}, {}))
    silent = replace(INGEST, name="silent", emits="last")
    limit = choose("aiokafka", print)[0]
    results = Results(tmp_path / "results.json")
    plan = replace(TINY, events=300, rounds=2, latency_s=0.0)
    failures = run_bench(plan, [broken, wrong, silent, limit], broker.bootstrap_servers, tmp_path, results, print)
    assert "No module named" in failures["broken"]
    assert "users wrong: " in failures["wrong"]
    assert "last record has None events" in failures["silent"]
    assert results.values["failures"] == failures
    assert [r["system"] for r in results.values["rounds"]] == ["aiokafka", "aiokafka"]
    assert "ingest.wrong.events_per_second" not in results.values


def test_a_run_replaces_its_own_part_of_the_results_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"ingest.gone.events_per_second": 1, "scale": [1], "latency": {}}')
    Results(path).put({"ingest.faust.events_per_second": 2}, replace=("ingest.", "latency"))
    assert json.loads(path.read_text()) == {"scale": [1], "ingest.faust.events_per_second": 2}


def test_the_median_of_the_rounds_counts_and_a_ratio_is_ours_over_theirs() -> None:
    run = {"cpu_seconds_per_million_events": 1.0, "peak_rss_bytes": 1, "rss_grown_bytes": 10, "users": 5}
    rates = {"valuestream": (100, 300, 200), "faust": (10, 9, 50)}
    runs = [{"system": name, "events_per_second": rate, **run} for name, three in rates.items() for rate in three]
    found = summary(runs)
    assert found["ingest.valuestream.events_per_second"] == 200
    assert found["ingest.ratio.faust"] == 20
    assert found["ingest.faust.rss_grown_bytes_per_user"] == 2
    assert "ingest.ratio.bytewax" not in found


def test_one_seed_always_gives_the_same_bytes_with_repeats_and_disorder() -> None:
    messages = list(clicks(2_000, 50, seed=3, end=NOW))
    assert messages == list(clicks(2_000, 50, seed=3, end=NOW))
    assert messages != list(clicks(2_000, 50, seed=4, end=NOW))
    events = [json.loads(value or b"") for _, value in messages]
    assert len({e["messageId"] for e in events}) < len(events)
    times = [e["timestamp"] for e in events]
    assert times != sorted(times)
    assert 230 < sum(len(value or b"") for _, value in messages) / len(messages) < 330


def test_everyone_sends_one_event_and_with_zipf_a_few_users_send_most() -> None:
    assert len({key for key, _ in everyone(500, seed=1, end=NOW)}) == 500
    shares = sorted(zipf(1_000, seed=1) / zipf(1_000, seed=1).sum(), reverse=True)
    assert 0.5 < sum(shares[:20]) < 0.7
    assert zipf(1_000, seed=1, exponent=0.0).tolist() == [1.0] * 1_000


def test_one_event_more_or_less_is_a_difference() -> None:
    messages = list(clicks(500, 5, seed=3, end=NOW, repeated=0))
    expected = counts.expected(messages)
    assert counts.differences(expected, counts.expected([*messages, messages[0]])) == []
    assert len(counts.differences(counts.expected(messages[1:]), expected)) == 1
    assert len(counts.differences({}, expected)) == 5


def test_slow_systems_read_a_prefix_and_the_others_the_whole_topic() -> None:
    plan = Plan(events=1_000_000)
    events = {s.name: plan.events_for(s) for s in SYSTEMS}
    assert events["valuestream"] == events["aiokafka"] == 1_000_000
    assert events["faust"] == FAUST.events_max < events["quixstreams"] == events["bytewax"] < 1_000_000


def test_ends_of_a_prefix_add_up_to_its_number_of_records() -> None:
    topic = Topic("", "", {0: [(b"", b"")] * 70, 1: [(b"", b"")] * 30, 2: []})
    assert topic.ends(50) == {"0": 35, "1": 15, "2": 0}
    assert sum(topic.ends(33).values()) == 33
    assert topic.ends(100) == {"0": 70, "1": 30, "2": 0}


def test_a_system_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(click.BadParameter, match="no system fuast; there are valuestream"):
        choose("fuast", print)
