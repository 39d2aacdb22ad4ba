"""Tests of the runner: it goes on after failures and hangs, and an interruption loses no verdict."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.errors import ConfigError
from tests.chaos import run
from tests.chaos.judge import Verdict
from tests.chaos.run import Plan, failed, read_results, run_chaos, table
from tests.chaos.world import Scenario, World


def passes(world: World) -> Verdict:
    return msgspec.structs.replace(failed("passes", world.seed, ""), passed=True, measures={"rss": 1.0})


def breaks(world: World) -> Verdict:
    raise AssertionError("the worker ended")


def hangs(world: World) -> Verdict:
    time.sleep(60)
    raise AssertionError("nobody ended it")


def scenario(play: Any, timeout_s: float = 30.0, seeds_max: int = 9) -> Scenario:
    return Scenario(play.__name__, play, own_broker=False, timeout_s=timeout_s, seeds_max=seeds_max)


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run._Brokers, "_start", lambda *_: None)


def test_a_run_that_fails_or_hangs_gets_a_verdict_and_the_next_run_follows(tmp_path: Path) -> None:
    plan = Plan([scenario(breaks), scenario(hangs, timeout_s=0.05, seeds_max=1), scenario(passes)], seeds=2)
    verdicts = run_chaos(plan, tmp_path / "results.json", tmp_path / "runs", lambda _: None)
    assert [(v.scenario, v.seed, v.passed) for v in verdicts] == [
        ("breaks", 1, False),
        ("breaks", 2, False),
        ("hangs", 1, False),
        ("passes", 1, True),
        ("passes", 2, True),
    ]
    assert "the worker ended" in verdicts[0].problem
    assert "took longer than" in verdicts[2].problem
    written = read_results(tmp_path / "results.json")
    assert sorted(written, key=lambda v: (v.scenario, v.seed)) == verdicts
    assert table(verdicts).row_count == 3


def test_an_interruption_keeps_the_verdicts_so_far(tmp_path: Path) -> None:
    def interrupted(world: World) -> Verdict:
        raise KeyboardInterrupt

    plan = Plan([scenario(passes), scenario(interrupted)], seeds=1)
    with pytest.raises(KeyboardInterrupt):
        run_chaos(plan, tmp_path / "results.json", tmp_path / "runs", lambda _: None)
    assert [v.scenario for v in read_results(tmp_path / "results.json")] == ["passes"]


def test_a_run_replaces_its_own_verdicts_and_keeps_those_on_other_scenarios(tmp_path: Path) -> None:
    for play, seeds in ((breaks, 1), (passes, 3), (passes, 2)):
        run_chaos(Plan([scenario(play)], seeds=seeds), tmp_path / "results.json", tmp_path / "runs", lambda _: None)
    found = sorted((v.scenario, v.seed) for v in read_results(tmp_path / "results.json"))
    assert found == [("breaks", 1), ("passes", 1), ("passes", 2)]


def test_an_unknown_scenario_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no scenario kill_all"):
        Plan.from_environment({"CHAOS_ONLY": "kill_all"})
