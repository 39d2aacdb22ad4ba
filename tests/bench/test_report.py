"""Tests of the report: the page on benchmarks says what the results say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.bench.ingest import summary
from tests.bench.report import PAGE, plots, report
from tests.bench.report_text import TITLES
from tests.bench.results import RESULTS, Machine
from tests.bench.systems import SYSTEMS

ROOT = Path(__file__).parents[2]
RATES = {"valuestream": (100, 300, 200), "faust": (10, 9, 50)}


def _run(system: str, rate: float) -> dict[str, Any]:
    return {
        "system": system,
        "events_per_second": rate,
        "cpu_seconds_per_million_events": 1.5,
        "peak_rss_bytes": 2_000_000,
        "rss_grown_bytes": 1_000,
        "users": 10,
        "emitted": 44,
        "applied": {"0": 600, "1": 400},
        "load_average_before": rate / 100,
    }


def _measured() -> dict[str, Any]:
    runs = [_run(system, rate) for system, rates in RATES.items() for rate in rates]
    by_priority = {"purchase": {"p50_ms": 5.0, "p95_ms": 9.0, "events": 7}}
    at = {"p50_ms": 12.0, "p99_ms": 44.0, "max_ms": 90.0, "events": 500, "events_per_second": 998.0}
    sample = {"t_s": 1.0, "ingested_per_s": 900, "scored_per_s": 400, "queue_depth": 7.0, "oldest_wait_s": 0.5}
    point = {**_run("x", 70_000), "state_bytes_per_user": 1_500.0, "rss_bytes": 3e8, "before": {"events_per_second": 1}}
    point["rates"] = [60_000.0, 80_000.0]
    about = {**Machine().so_far(), "stolen_percent": 2.5}
    return {
        **summary(runs),
        "rounds": runs,
        "failures": {"bytewax": "AssertionError: 3 of 10\nusers wrong"},
        "machine": about,
        "latency": at,
        "latency.p50_ms": 12.0,
        "latency.p99_ms": 44.0,
        "curve": [{"offered": rate, **at} for rate in (100, 1_000)],
        "overload": {**at, "offered": 9_000, "seconds": 20.0, "by_priority": by_priority, "samples": [sample] * 3},
        "scale": [{**point, "users": n, "keys": keys} for n in (10_000, 2_000_000) for keys in ("uniform", "zipf")],
        "recovery": {
            "users": 1_000,
            "changelog_records": 2_700,
            "changelog_seconds": 4.0,
            "changelog_users_per_second": 250,
            "local_seconds": 0.5,
            "local_users_per_second": 2_000,
        },
        "workers": {"events": 5_000, "users": 70, "cores": 2, "one": 100_000, "two": 150_000, "ratio": 1.5},
        **{f"machine.{name}": about for name in ("scale", "latency", "recovery", "workers")},
    }


def test_committed_page_is_made_from_the_committed_results() -> None:
    page = report(json.loads((ROOT / RESULTS).read_text()))
    assert (ROOT / PAGE).read_text() == page, "run: python -m tests.bench.report"


def test_folder_of_plots_holds_exactly_the_plots_of_the_page() -> None:
    shown = set(re.findall(r"benchmarks/(\w+\.svg)", (ROOT / PAGE).read_text()))
    folder = (ROOT / PAGE).with_suffix("")
    assert {file.name for file in folder.glob("*.svg")} == shown


def test_page_shows_the_numbers_of_every_part_of_the_results() -> None:
    page = report(_measured())
    prose = " ".join(page.split())
    assert "| **valuestream** | 200 (100–300) |  |  | 1.5 | 2 |" in page
    assert "| Faust (stock) | 10 (9–50) | 20.00 | ≥ 40 | 1.5 | 2 |  | 100 | 1,000 | 44 | 3 |" in page
    assert "- `bytewax` failed: AssertionError: 3 of 10 users wrong" in prose
    assert "**p50 12 ms, p99 44 ms**" in prose
    assert "load average before a run 0.1 to 3.0" in prose
    assert "| 2,000,000 | zipf | 70,000 (60,000–80,000) | 1.5 | 300 | 1,500 | 1 |" in page
    assert "| purchase | 7 | 5 | 9 |" in page
    assert "the changelog holds 2.7 records of each user" in prose
    assert "4.00 s, 250 users/s (target: 100,000)" in prose
    assert "its host gave 2.5 % of the CPU time to others" in prose
    assert "One worker does 100,000 events/s, two do 150,000: 1.50 times as many" in prose
    assert "its own; here the workers and the broker share 2 cores)" in prose
    assert "Not measured" not in prose


def test_page_says_what_was_not_measured_and_invents_nothing() -> None:
    page = report({"ingest.faust.events_per_second": 1.0})
    assert page.count("Not measured yet") == 5
    assert plots({"ingest.faust.events_per_second": 1.0}) == {}


def test_plots_are_valid_svg_and_the_same_for_the_same_numbers() -> None:
    made = plots(_measured())
    assert set(made) == {"ingest.svg", "curve.svg", "overload.svg", "scale.svg"}
    assert made == plots(_measured())
    for svg in made.values():
        assert ET.fromstring(svg).tag.endswith("svg")


def test_every_system_has_a_name_on_the_page() -> None:
    assert set(TITLES) == {system.name for system in SYSTEMS}
