"""Run: the command behind ``make chaos``. It plays every scenario with every seed on a real Kafka.

Settings come from the environment: ``CHAOS_SEEDS`` (how many seeds, default 3), ``CHAOS_ONLY`` (names of scenarios,
separated by commas), ``CHAOS_SHORT=1`` (the short forms). The verdicts are written to a JSON file after each run, and
shown as a table in the end. The file keeps its verdicts on scenarios that are not played.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
from rich.console import Console
from rich.table import Table

import tests.chaos.scenarios  # noqa: F401 - fills SCENARIOS
from stream.commands.broker.embedded import EmbeddedBroker
from stream.errors import ConfigError
from tests.chaos.judge import Verdict
from tests.chaos.world import BROKER_PROPERTIES, SCENARIOS, Scenario, World

__all__ = ["Plan", "failed", "play", "run_chaos", "table"]

RESULTS: Final = Path("chaos-results.json")
#: Logs and state of failed runs stay here.
FOLDER: Final = Path(".valuestream/chaos")
_PROBLEM_MAX: Final = 4_000

Say = Callable[[str], None]


class TookTooLong(BaseException):
    """A run is over its time limit. It is no Exception, so that no scenario takes it for an error of what it tests."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which scenarios are played, with how many seeds, and in which form."""

    scenarios: Sequence[Scenario]
    seeds: int = 3
    short: bool = False

    @classmethod
    def from_environment(cls, env: dict[str, str]) -> Self:
        """Read ``CHAOS_*``. Raises ConfigError if a scenario is not known."""
        names = [name for name in env.get("CHAOS_ONLY", "").split(",") if name] or list(SCENARIOS)
        unknown = [name for name in names if name not in SCENARIOS]
        if unknown:
            raise ConfigError(f"found no scenario {', '.join(unknown)}; CHAOS_ONLY takes {', '.join(SCENARIOS)}")
        return cls(
            [SCENARIOS[name] for name in names],
            seeds=int(env.get("CHAOS_SEEDS", "3")),
            short=env.get("CHAOS_SHORT") == "1",
        )

    def runs(self) -> Iterator[tuple[Scenario, int]]:
        """Each scenario with each of its seeds."""
        for scenario in self.scenarios:
            for seed in range(1, min(self.seeds, scenario.seeds_max) + 1):
                yield scenario, seed


def run_chaos(plan: Plan, results: Path, folder: Path, say: Say) -> list[Verdict]:
    """Run the plan and write ``results`` after each run. Returns the verdicts of these runs."""
    verdicts: list[Verdict] = []
    played = {scenario.name for scenario in plan.scenarios}
    kept = [verdict for verdict in read_results(results) if verdict.scenario not in played]
    with _Brokers(folder / "broker", say) as brokers:
        for scenario, seed in plan.runs():
            verdicts.append(_run(scenario, seed, plan.short, brokers, folder / f"{scenario.name}-{seed}"))
            write_results(results, [*kept, *verdicts])
            say(_line(verdicts[-1]))
    return verdicts


def _run(scenario: Scenario, seed: int, short: bool, brokers: _Brokers, folder: Path) -> Verdict:
    """One run within its time limit. If it fails, its folder stays."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with _time_limit(scenario.timeout_s), brokers.broker_for(scenario, folder) as broker:
            verdict = play(scenario, broker, folder, seed, short)
    except TookTooLong:
        verdict = failed(scenario.name, seed, f"took longer than {scenario.timeout_s:.0f} s and was ended")
    if verdict.passed:
        shutil.rmtree(folder, ignore_errors=True)
    return verdict


def play(scenario: Scenario, broker: EmbeddedBroker, folder: Path, seed: int, short: bool) -> Verdict:
    """Play a scenario once on this broker. An error in it becomes a verdict as well."""
    started = time.monotonic()
    try:
        with World(broker, folder, seed, short) as world:
            verdict = scenario.play(world)
    except Exception as error:
        return failed(scenario.name, seed, f"{type(error).__name__}: {error}")
    took = {"run_seconds": round(time.monotonic() - started, 1)}
    return msgspec.structs.replace(verdict, measures=took | verdict.measures)


def failed(scenario: str, seed: int, problem: str) -> Verdict:
    """The verdict on a run that ended without one."""
    return Verdict(
        scenario,
        seed,
        events_in=0,
        lost=0,
        double_counted=0,
        scores_missing=0,
        conflicting_duplicates=0,
        recovery_seconds=0.0,
        passed=False,
        problem=problem[-_PROBLEM_MAX:],
    )


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the main thread after so many seconds. Open contexts then end what they started."""

    def expire(*_: Any) -> None:
        raise TookTooLong

    handler = signal.signal(signal.SIGALRM, expire)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


class _Brokers:
    """One shared broker for scenarios that do not harm it, started for the first of them; the others get their own."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder, self._say = folder, say
        self._shared: EmbeddedBroker | None = None

    @contextmanager
    def broker_for(self, scenario: Scenario, folder: Path) -> Iterator[EmbeddedBroker]:
        """The broker for one run."""
        if not scenario.own_broker:
            self._shared = self._shared or self._start(self._folder)
            yield self._shared
            return
        broker = self._start(folder / "broker")
        try:
            yield broker
        finally:
            broker.stop()

    def _start(self, folder: Path) -> EmbeddedBroker:
        shutil.rmtree(folder, ignore_errors=True)
        broker = EmbeddedBroker(folder, properties=BROKER_PROPERTIES)
        broker.start(lambda _line: None)
        return broker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shared is not None:
            self._shared.stop()


# -- results --------------------------------------------------------------------------------------------------


def read_results(path: Path) -> list[Verdict]:
    """The verdicts of earlier runs; empty if there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=list[Verdict]) if path.exists() else []


def write_results(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Replace the file as a whole, so that an interruption leaves the old one."""
    order = list(SCENARIOS)
    ordered = sorted(verdicts, key=lambda v: (order.index(v.scenario) if v.scenario in order else -1, v.seed))
    new = path.with_suffix(".json.tmp")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")
    new.replace(path)


def _line(v: Verdict) -> str:
    return f"{'passed' if v.passed else 'FAILED'}  {v.scenario} seed {v.seed}  {v.problem or ''}".rstrip()


def table(verdicts: Iterable[Verdict]) -> Table:
    """One line per scenario: how many runs passed, how much went wrong in all, and seconds of recovery."""
    names = ("scenario", "passed", "events", "lost", "twice", "unscored", "conflicts", "median s", "max s")
    out = Table(*names, title="chaos")
    by_name: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_name.setdefault(verdict.scenario, []).append(verdict)
    for name, runs in by_name.items():
        passed, recovery = sum(v.passed for v in runs), [v.recovery_seconds for v in runs]
        sums = [
            sum(getattr(v, column) for v in runs)
            for column in ("events_in", "lost", "double_counted", "scores_missing", "conflicting_duplicates")
        ]
        out.add_row(
            name,
            f"{passed}/{len(runs)}",
            *(f"{n:,}" for n in sums),
            f"{statistics.median(recovery):.1f}",
            f"{max(recovery):.1f}",
            style="" if passed == len(runs) else "red",
        )
    return out


def main() -> None:
    """Play what the environment asks for. The exit status is 1 if any run failed."""
    # SIGTERM works as an interruption from the keyboard: everything that was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = Plan.from_environment(dict(os.environ))
    verdicts = run_chaos(plan, RESULTS, FOLDER, print)
    Console(width=max(110, Console().width)).print(table(verdicts))
    sys.exit(not all(v.passed for v in verdicts))


if __name__ == "__main__":
    main()
