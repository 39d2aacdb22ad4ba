"""``valuestream plan``: the needs of a load follow from the unit costs, and unmeasured costs are named."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stream.commands.plan import unit_costs as plan_costs
from stream.commands.plan.capacity import Load, capacity, changed_users_per_s, scores_per_s
from stream.commands.plan.command import plan
from stream.commands.plan.unit_costs import COST_NAMES, Costs, UnitCost, costs_of, read_unit_costs
from stream.errors import ConfigError, ContractError

#: Made-up round numbers, so that results can be computed by hand.
COSTS = Costs(
    event_s=20e-6,
    value_s=10e-6,
    score_s=50e-6,
    inference_s=200e-6,
    gpu_s=10e-6,
    worker_bytes=200e6,
    user_bytes=1_500.0,
    buckets_bytes=3_000.0,
    value_bytes=100.0,
    value_event_bytes=20.0,
    value_buckets_bytes=1_000.0,
    score_bytes=900.0,
    disk_recovery_s=2e-6,
    changelog_recovery_s=10e-6,
)
#: One event a day from each user, so that every event changes another user and gives a score.
LOAD = Load(
    users=8_640_000, events_per_s=10_000.0, events_per_user=1e-6, active_users=8_640_000, event_bytes=300.0, gpus=0
)
RUN = ["--users", "8640000", "--events-per-second", "10000"]


def unit_costs_of(costs: Costs, **values: Any) -> dict[str, UnitCost]:
    return {name: UnitCost(value, "", "", "make it") for name, value in {**asdict(costs), **values}.items()}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, **values: Any) -> Result:
    monkeypatch.setattr("stream.commands.plan.command.read_unit_costs", lambda: unit_costs_of(COSTS, **values))
    return CliRunner().invoke(plan, [*RUN, *arguments])


def test_plan_is_the_one_computed_by_hand() -> None:
    needed = capacity(LOAD, COSTS)
    assert needed.changed_users_per_s == pytest.approx(10_000, rel=5e-3)
    assert needed.scores_per_s == pytest.approx(10_100, rel=5e-3)
    # Loop: 10,000 × 30 µs + 10,100 × 50 µs = 0.805 s/s; inference: 10,100 × 200 µs = 2.02 s/s; half of each core.
    assert (needed.workers, needed.cores, needed.gpus, needed.partitions) == (5, 6, 0, 10)
    assert needed.events_per_s_max_per_worker == pytest.approx(10_000 / 2.02, rel=5e-3)
    assert needed.memory_bytes_per_worker == pytest.approx(200e6 + 8_640_000 / 5 * 1_500)
    # A journal of up to five times its users' values, two copies of each.
    assert needed.store_bytes == pytest.approx(5 * 2 * 8_640_000 * 136)
    assert needed.kafka_written_bytes_per_s == pytest.approx(3 * (3e6 + 10_000 * 136 + 10_100 * 936), rel=5e-3)
    assert needed.recovery_from_disk_s == pytest.approx(8 + 8_640_000 / 5 * 2e-6)
    assert needed.recovery_from_changelog_s == pytest.approx(8 + 8_640_000 / 5 * 10e-6)


def test_on_gpus_the_loop_alone_makes_the_workers() -> None:
    needed = capacity(replace(LOAD, gpus=1), COSTS)
    assert (needed.workers, needed.cores, needed.gpus) == (2, 2, 1)


@pytest.mark.parametrize("what", [field.name for field in fields(Costs)])
def test_what_depends_on_an_unmeasured_cost_is_unknown_and_nothing_comes_out_cheaper(what: str) -> None:
    whole, partial = (asdict(capacity(LOAD, costs)) for costs in (COSTS, replace(COSTS, **{what: math.nan})))
    assert all(math.isnan(partial[name]) or partial[name] == value for name, value in whole.items())
    assert what == "gpu_s" or any(map(math.isnan, partial.values()))


def test_a_user_is_scored_once_an_interval_however_many_events_come() -> None:
    busy = replace(LOAD, users=1_000, active_users=1_000.0, events_per_s=1e6)
    assert scores_per_s(busy) == pytest.approx(1_000, rel=5e-3)
    assert scores_per_s(replace(busy, refresh_interval_s=0.0)) == pytest.approx(1e6, rel=5e-3)
    assert changed_users_per_s(busy) == pytest.approx(1_000, rel=5e-3)


@pytest.mark.parametrize("events_per_s", [0.1, 1.0, 5.0])
def test_scores_of_a_user_with_random_events_are_as_simulated(events_per_s: float) -> None:
    times = np.random.default_rng(1).exponential(1 / events_per_s, 20_000).cumsum()
    scores, scored_at = 0, -1.0
    for time in times.tolist():
        # If the event came less than 1 s after the last score, that score waited and included it.
        if time > scored_at:
            scored_at, scores = max(time, scored_at + 1.0), scores + 1
    one = replace(LOAD, users=1, active_users=1.0, events_per_s=events_per_s, activity_spread=0.0)
    assert scores_per_s(one) == pytest.approx(scores / float(times[-1]), rel=0.02)


def test_table_names_each_number(monkeypatch: pytest.MonkeyPatch) -> None:
    table = run(monkeypatch, "--events-per-user", "10").output
    for line in ("workers ", "partitions ", "memory ", "recovery ", "scores "):
        assert f"\n{line}" in table
    assert "not measured" not in table
    assert "cost of" not in table


def test_only_items_with_a_price_have_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(run(monkeypatch, "--price-core-hour", "0.04", "--json").output)
    assert found["cost_per_month"] == {"cores": pytest.approx(found["needs"]["cores"] * 730.5 * 0.04)}
    table = run(monkeypatch, "--price-core-hour", "0.04", "--price-gb-month", "0.1").output
    assert "cost of cores" in table and "cost of disk" in table and "cost of gpus" not in table


def test_plan_names_the_missing_gpu_measurement_instead_of_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    table = run(monkeypatch, "--gpus", "2", gpu_s=None).output
    assert "not measured on GPU   there are 2" in table
    assert "gpu_s" in table and "make it" in table
    found = json.loads(run(monkeypatch, "--gpus", "2", "--price-gpu-hour", "2", "--json", gpu_s=None).output)
    assert found["needs"]["gpus"] is None and found["cost_per_month"]["gpus"] is None
    assert found["not_measured"] == {"gpu_s": "make it"}
    assert json.loads(run(monkeypatch, "--json", gpu_s=None).output)["not_measured"] == {}


def test_more_active_users_than_users_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run(monkeypatch, "--active-users", "9000000").exception
    assert isinstance(refused, ConfigError)
    assert "9,000,000, expected at most 8,640,000" in str(refused) and "--active-users" in str(refused)


@pytest.mark.parametrize("wrong", [("--utilisation", "1"), ("--users", "0"), ("--events-per-user", "0")])
def test_option_out_of_range_is_refused_with_its_range(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    refused = run(monkeypatch, *wrong)
    assert refused.exit_code == 2 and wrong[0] in refused.output and "range" in refused.output


def test_shipped_unit_costs_say_how_they_were_measured() -> None:
    shipped = read_unit_costs()
    assert shipped.keys() == COST_NAMES
    assert all(f.source and f.command and f.unit for f in shipped.values())
    assert all(value >= 0 for value in asdict(costs_of(shipped)).values() if not math.isnan(value))


def test_damaged_or_different_unit_costs_are_refused_with_the_next_step(tmp_path: Path) -> None:
    costs = tmp_path / plan_costs.COSTS_FILE.name
    for content, words in (("{", "cannot be read"), ("{}", "differ")):
        costs.write_text(content)
        with pytest.raises(ContractError, match=rf"{words}.*python -m tests.bench.unit_costs"):
            read_unit_costs(costs)
