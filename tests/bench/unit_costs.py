"""Unit costs: derives the unit costs of ``valuestream plan`` from bench-results.json.

Run ``python -m tests.bench.unit_costs``. Times come from measured runs. Sizes are counted here on users with invented
events, since they depend only on the code. A cost that was not measured stays unknown, and the plan says so.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import numpy as np
import psutil

from stream.checkpoint import changelog
from stream.commands.plan.capacity import Load, changed_users_per_s, user_memory_bytes
from stream.commands.plan.unit_costs import COST_NAMES, COSTS_FILE, Costs, UnitCost, costs_of
from stream.contract.columns import DAY_S, HISTORY_LEN
from stream.contract.events import EVENT, EventBatch
from stream.score.queue import ScoreQueue
from stream.state.partition_state import PartitionState
from tests.bench.capacity_page import PAGE, refreshed
from tests.bench.results import RESULTS
from tests.costs.workload import Workload

__all__ = ["Results", "bench_load", "derive", "sizes"]

Results = Mapping[str, Any]
_COMMAND: Final = "python -m tests.bench.unit_costs"
_BENCH: Final = "make bench"
_SERIES: Final = 'make bench BENCH_ARGS="--series {}"'
_ON_GPU: Final = "valuestream-model bench FOLDER --output FILE, on a machine with a GPU"
#: A way to run the model is on a GPU if its name holds one of these.
_GPU_WAYS: Final = ("CUDA", "TensorRT")
#: State grows by doubling, so a power of two leaves no spare room.
_USERS: Final = 2**15
#: Events of one fetch, about as many as the worker fetches: temporary memory depends on that.
_FETCH: Final = 2**12
_NOW: Final = 1_790_000_000
_WINDOW_S: Final = 30 * DAY_S
_PAST_HISTORY: Final = HISTORY_LEN + 36
#: Stages of a score besides inference.
_AROUND: Final = ("features", "encode", "decide")


class MissingError(Exception):
    """The results lack the runs from which a unit cost is derived."""


@dataclass(frozen=True)
class _From:
    """How a unit cost is derived from the results; ``machine`` is the key of the machine in the results."""

    unit: str
    source: str
    command: str
    machine: str
    value: Callable[[Results], float]


def bench_load(users: int, events: int, rate: float) -> Load:
    """The load of a benchmark run at full speed. ``events`` counts all events that the users have."""
    return Load(
        users=users,
        events_per_s=rate,
        events_per_user=events / users,
        active_users=users,
        event_bytes=1.0,
        user_id_bytes=0.0,
        utilisation=0.999,
    )


def derive(results: Results, sized: dict[str, UnitCost], inference: Results | None = None) -> dict[str, UnitCost]:
    """All unit costs. One without runs has no value. ``inference`` is the output of ``valuestream-model bench``."""
    figures = {**sized, "gpu_s": _on_gpu(inference or {})}
    for name, how in _derivations(sized).items():
        machine = results.get(how.machine, {})
        try:
            value = how.value(results)
        except MissingError:
            figures[name] = UnitCost(None, how.unit, how.source, how.command)
        else:
            hardware = f"{machine.get('cores')} cores, {machine.get('cpu')}, Python {machine.get('python')}"
            began = str(machine.get("began", ""))[:10]
            figures[name] = UnitCost(float(f"{value:.4g}"), how.unit, how.source, how.command, began, hardware)
    return figures


def _derivations(sized: dict[str, UnitCost]) -> dict[str, _From]:
    scale, recovery = _SERIES.format("scale"), _SERIES.format("recovery")
    split = "scale: CPU seconds over changed users, uniform keys"
    scoring = "rounds of valuestream_scoring: seconds_by_stage of {} over emitted"
    core = "seconds of a core"

    return {
        "event_s": _From(f"{core} per event", split, scale, "machine.scale", lambda r: _event_and_value(r)[0]),
        "value_s": _From(f"{core} per changed user", split, scale, "machine.scale", lambda r: _event_and_value(r)[1]),
        "score_s": _From(
            f"{core} per score",
            scoring.format(" + ".join(_AROUND)),
            _BENCH,
            "machine",
            lambda r: _per_score(r, _AROUND),
        ),
        "inference_s": _From(
            f"{core} per score", scoring.format("infer"), _BENCH, "machine", lambda r: _per_score(r, ("infer",))
        ),
        "worker_bytes": _From(
            "bytes",
            "rounds of valuestream_scoring: peak_rss_bytes less that of the users",
            _BENCH,
            "machine",
            lambda r: _worker_bytes(r, sized),
        ),
        "disk_recovery_s": _From(
            "seconds per user",
            "recovery.local_users_per_second",
            recovery,
            "machine.recovery",
            lambda r: 1 / _number(r.get("recovery", {}), "local_users_per_second"),
        ),
        "changelog_recovery_s": _From(
            "seconds per user",
            "recovery.changelog_users_per_second",
            recovery,
            "machine.recovery",
            lambda r: 1 / _number(r.get("recovery", {}), "changelog_users_per_second"),
        ),
    }


def _on_gpu(inference: Results) -> UnitCost:
    """The cost of a score with the fastest way on a GPU."""
    ways = [m for m in inference.get("measured", ()) if any(name in m["way"] for name in _GPU_WAYS)]
    unit, source = "seconds of a GPU per score", "users_per_second of the fastest way on a GPU"
    if not ways:
        return UnitCost(None, unit, source, _ON_GPU)
    fastest = max(ways, key=lambda m: float(m["users_per_second"]))
    hardware = ", ".join(map(str, inference["machine"].values()))
    return UnitCost(1 / fastest["users_per_second"], unit, f"{source}: {fastest['way']}", _ON_GPU, "", hardware)


def _event_and_value(results: Results) -> tuple[float, float]:
    """CPU seconds of an event and of a changed user: the least-squares fit of the runs with uniform keys."""
    points = [p for p in results.get("scale", ()) if p["keys"] == "uniform"]
    if len(points) < 2:
        raise MissingError
    changed = np.array([[1.0, _changed_per_event(p)] for p in points])
    cpu = np.array([p["cpu_seconds_per_million_events"] for p in points]) / 1e6
    event_s, value_s = np.linalg.lstsq(changed, cpu, rcond=None)[0].tolist()
    return event_s, max(0.0, value_s)


def _changed_per_event(point: Mapping[str, Any]) -> float:
    rate = float(point["events_per_second"])
    load = bench_load(point["users"], point["users"] + point["events"], rate)
    return changed_users_per_s(replace(load, activity_spread=0.0)) / rate


def _per_score(results: Results, stages: tuple[str, ...]) -> float:
    runs = [r for r in _rounds(results, "valuestream_scoring") if r.get("emitted")]
    if not runs:
        raise MissingError
    return float(statistics.median(sum(r["seconds_by_stage"][s] for s in stages) / r["emitted"] for r in runs))


def _worker_bytes(results: Results, sized: dict[str, UnitCost]) -> float:
    runs = _rounds(results, "valuestream_scoring")
    if not runs:
        raise MissingError
    known = costs_of({**dict.fromkeys(COST_NAMES, UnitCost(None, "", "", "")), **sized})
    return float(statistics.median(r["peak_rss_bytes"] - r["users"] * _user_bytes(r, known) for r in runs))


def _user_bytes(run: Mapping[str, Any], costs: Costs) -> float:
    return user_memory_bytes(bench_load(run["users"], run["events"], run["events_per_second"]), costs)


def _rounds(results: Results, system: str) -> list[Any]:
    return [r for r in results.get("rounds", ()) if r["system"] == system]


def _number(values: Mapping[str, Any], name: str) -> float:
    if not values.get(name):
        raise MissingError
    return float(values[name])


# -- sizes ------------------------------------------------------------------------------------------------


def sizes() -> dict[str, UnitCost]:
    """Sizes in bytes: of users in memory, and of the values written for them. They are the same on every machine."""
    # Users with one event, with full histories, and with some of their events in buckets.
    one_event, full, past = (_State(n) for n in (1, HISTORY_LEN, _PAST_HISTORY))
    per_event = (full.value_bytes - one_event.value_bytes) / (HISTORY_LEN - 1)
    scores: Any = next(s for s in Workload().stages() if s.name == "to_json").prepare()()
    counted = {
        "user_bytes": (full.rss_bytes, f"resident memory of {_USERS:,} users with full histories, and their queue"),
        "buckets_bytes": (past.rss_bytes - full.rss_bytes, f"the same for {_PAST_HISTORY} events, less that"),
        "value_bytes": (one_event.value_bytes - per_event, "packed user of one event, less the event"),
        "value_event_bytes": (per_event, f"packed user of {HISTORY_LEN} events less that of one, per event"),
        "value_buckets_bytes": (
            past.value_bytes - full.value_bytes,
            f"packed user of {_PAST_HISTORY} events, less that",
        ),
        "score_bytes": (float(np.mean([len(score) for score in scores])), "mean score of the shipped model as JSON"),
    }
    return {name: UnitCost(round(value, 1), "bytes", source, _COMMAND) for name, (value, source) in counted.items()}


class _State:
    """A state of users with ``n`` events each over the longest window, with memory and packed size per user."""

    def __init__(self, n: int) -> None:
        gc.collect()
        before = _rss_bytes()
        state, queue = PartitionState(DAY_S), ScoreQueue(1.0)
        for i in range(n):
            for first in range(0, _USERS, _FETCH):
                state.apply(_batch(i, first, _NOW - _WINDOW_S + (i + 1) * _WINDOW_S // n))
        rows = np.arange(_USERS)
        queue.push(rows, 1, 0.0, 0.0)
        gc.collect()
        self.rss_bytes = (_rss_bytes() - before) / _USERS
        self.value_bytes = sum(map(len, changelog.pack(state, rows))) / _USERS


def _batch(i: int, first: int, time: int) -> EventBatch:
    """The ``i``-th event of ``_FETCH`` users, from number ``first`` on."""
    rows = np.zeros(_FETCH, EVENT)
    rows["offset"] = rows["identity"] = np.arange(_FETCH) + i * _USERS + first + 1
    rows["time"], rows["type"], rows["category"], rows["item"] = time, 1, 1, 1
    # Decoding makes new strings each time, and so does this: the state keeps the first string of each user.
    return EventBatch([f"{user:036d}" for user in range(first, first + _FETCH)], rows)


def _rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


@click.command()
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Results of the bench."
)
@click.option("--inference", type=click.Path(path_type=Path, exists=True), help="Output of `valuestream-model bench`.")
@click.option("--allow-missing", is_flag=True, help="Accept that costs on CPU cores are unknown as well.")
def main(results: Path, inference: Path | None, allow_missing: bool) -> None:
    """Write the unit costs that come with the package, and bring docs/capacity.md up to date."""
    if not results.exists():
        raise click.ClickException(f"found no {results}, expected the results of the benchmark; run `{_BENCH}`")
    on_gpu = msgspec.json.decode(inference.read_bytes()) if inference else None
    figures = derive(msgspec.json.decode(results.read_bytes()), sizes(), on_gpu)
    for name, figure in figures.items():
        said = "not measured" if figure.value is None else f"{figure.value:.4g} {figure.unit}"
        click.echo(f"{name:<22}{said:<34}{figure.source}")
    missing = {f.command: name for name, f in figures.items() if f.value is None and name != "gpu_s"}
    if missing and not allow_missing:
        names, commands = ", ".join(missing.values()), "; ".join(f"`{command}`" for command in missing)
        raise click.ClickException(
            f"{results} has nothing to derive {names} from, expected its series; run {commands}, or leave them unknown"
            " with --allow-missing"
        )
    COSTS_FILE.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
    PAGE.write_text(refreshed(PAGE.read_text()))
    click.echo(f"written to {COSTS_FILE.name} and docs/{PAGE.name}")


if __name__ == "__main__":
    main()
