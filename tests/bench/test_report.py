"""The page on benchmarks says what the results say."""

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
    runs = [_run(system, rate) for system, of in RATES.items() for rate in of]
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


def test_page_is_what_the_results_say() -> None:
    page = report(json.loads((ROOT / RESULTS).read_text()))
    assert (ROOT / PAGE).read_text() == page, "run: python -m tests.bench.report"


def test_every_plot_that_the_page_shows_is_there_and_no_other() -> None:
    shown = set(re.findall(r"benchmarks/(\w+\.svg)", (ROOT / PAGE).read_text()))
    folder = (ROOT / PAGE).with_suffix("")
    assert {file.name for file in folder.glob("*.svg")} == shown


def test_a_whole_set_of_results_has_its_numbers_on_the_page() -> None:
    page = report(_measured())
    assert "| **valuestream** | 200 (100–300) |  |  | 1.5 | 2 |" in page
    assert "| Faust (stock) | 10 (9–50) | 20.00 | ≥ 40 | 1.5 | 2 |  | 100 | 1,000 | 44 | 3 |" in page
    assert "- `bytewax` failed: AssertionError: 3 of 10 users wrong" in page
    assert "**p50 12 ms, p99 44 ms**" in page
    assert "load average before a run 0.1 to 3.0" in page
    assert "| 2,000,000 | zipf | 70,000 (60,000–80,000) | 1.5 | 300 | 1,500 | 1 |" in page
    assert "| purchase | 7 | 5 | 9 |" in page
    assert "From the changelog, which names each 2.7 times, with" in page
    assert "4.00 s, 250 users/s (target: 100,000)" in page
    assert "its host gave 2.5 % of its time to others" in page
    assert "One worker 100,000 events/s, two 150,000: 1.50 times as many" in page
    assert "its own; here both and the broker share 2)" in page
    assert "Not measured" not in page


def test_what_was_not_measured_is_said_and_nothing_is_made_up() -> None:
    page = report({"ingest.faust.events_per_second": 1.0})
    assert page.count("Not measured yet") == 5
    assert plots({"ingest.faust.events_per_second": 1.0}) == {}


def test_plots_are_whole_and_the_same_for_the_same_numbers() -> None:
    made = plots(_measured())
    assert set(made) == {"ingest.svg", "curve.svg", "overload.svg", "scale.svg"}
    assert made == plots(_measured())
    for svg in made.values():
        assert ET.fromstring(svg).tag.endswith("svg")


def test_every_system_has_a_name_on_the_page() -> None:
    assert set(TITLES) == {system.name for system in SYSTEMS}
