"""Tests of costs: every pure stage costs what the baseline says. Costs are counted, so load changes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.costs.measure import BASELINE, WRITE, differences, made_with, measured, run_python
from tests.costs.meter import Cost, cost_of
from tests.costs.workload import Record, Stage, Workload

ROOT = BASELINE.parents[2]
COSTS = {"per": "event", **Cost(bytecodes=100.0, python_calls=10.0, c_calls=20.0, array_bytes=1000.0)._asdict()}


@pytest.fixture(scope="module")
def baseline() -> dict[str, Any]:
    written = json.loads(BASELINE.read_text())
    if written["made_with"] != made_with():
        pytest.skip(f"the baseline was made with {written['made_with']}, here is {made_with()}: they do not compare")
    return dict(written["stages"])


def decode(workload: Workload) -> Stage:
    """The stage "decode" with a fifth of the events, as tracing is slow."""
    workload.fetch = workload.fetch[:200]
    return next(stage for stage in workload.stages() if stage.name == "decode")


def test_no_stage_costs_more_or_less_than_the_baseline_allows(baseline: dict[str, Any]) -> None:
    found = differences(measured(), baseline)
    assert not found, "\n".join(found)


def test_the_baseline_was_made_with_the_packages_that_ci_installs() -> None:
    """Otherwise the check above would be skipped for ever after a package was upgraded."""
    pins = re.findall(r"^(\S+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for package, counted in json.loads(BASELINE.read_text())["made_with"].items():
        if package != "python":
            pinned = {v for name, v in pins if name == package}
            assert counted in pinned, (
                f"baseline counts {package} {counted}, constraints.txt pins {pinned}; run `{WRITE}`"
            )


def test_a_stage_costs_the_same_in_every_process_and_every_time() -> None:
    # This needs processes of its own, because threads that other tests left behind would allocate as well.
    code = (
        "from tests.costs.test_costs import Workload, cost_of, decode; stage = decode(Workload());"
        " print(cost_of(stage), cost_of(stage), cost_of(decode(Workload())), sep='\\n')"
    )
    costs = [line for _ in range(2) for line in run_python("-c", code).splitlines()]
    assert len(costs) == 6 and len(set(costs)) == 1, costs


@dataclass
class SlowRecord(Record):
    """A record that costs one more Python call to read."""

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)


def test_one_more_python_call_per_event_is_noticed() -> None:
    workload = Workload()
    as_is = {"decode": {"per": "event", **cost_of(decode(workload))._asdict()}}
    workload.fetch = [SlowRecord(r.offset, r.key, r.value, r.timestamp) for r in workload.fetch]
    slower = {"decode": {"per": "event", **cost_of(decode(workload))._asdict()}}
    assert not differences(as_is, as_is)
    assert any("python_calls per event" in line for line in differences(slower, as_is))


def test_one_more_copy_of_the_histories_per_user_is_noticed() -> None:
    workload = Workload()
    stage = next(stage for stage in workload.stages() if stage.name == "snapshot")
    copied = replace(stage, prepare=lambda: lambda: stage.prepare()().history.copy())  # type: ignore[attr-defined]
    as_is, slower = ({"snapshot": {"per": "user", **cost_of(s)._asdict()}} for s in (stage, copied))
    assert any("array_bytes per user" in line for line in differences(slower, as_is))


def test_a_difference_names_the_cost_the_allowed_range_and_the_next_step() -> None:
    dearer = differences({"decode": {**COSTS, "c_calls": 22.0}}, {"decode": COSTS})
    assert dearer == [
        "decode: found 22 c_calls per event, allowed 20 ± 1; make it cheaper, or say in the commit why it must cost"
        " more and run `python -m tests.costs.measure --write`"
    ]
    cheaper = differences({"decode": {**COSTS, "bytecodes": 94.0}}, {"decode": COSTS})
    assert len(cheaper) == 1 and "94 bytecodes" in cheaper[0] and WRITE in cheaper[0]
    assert differences({"decode": {**COSTS, "bytecodes": 104.9, "python_calls": 9.51}}, {"decode": COSTS}) == []
    assert len(differences({"decode": COSTS}, {"state": COSTS})) == 2


def test_small_costs_of_a_batch_do_not_count_as_costs_of_its_events() -> None:
    small = {**COSTS, **Cost(bytecodes=0.4, python_calls=0.04, c_calls=0.04, array_bytes=10.0)._asdict()}
    assert differences({"queue": {**small, "bytecodes": 1.3, "array_bytes": 40.0}}, {"queue": small}) == []
    assert differences({"queue": {**small, "bytecodes": 1.5}}, {"queue": small})
