"""Report: ``bench-results.json`` → ``docs/benchmarks.md`` and its plots; ``python -m tests.bench.report``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench.plots import curve, overload, scale, systems
from tests.bench.report_text import INTRO, LIMITS, PEERS, TITLES, UNMEASURED
from tests.bench.results import RESULTS

__all__ = ["PAGE", "plots", "report", "write"]

PAGE: Final = Path("docs/benchmarks.md")
#: Plots by their file names: what they are made from, and how.
_PLOTS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "scale": ("scale", scale),
    "curve": ("curve", curve),
    "overload": ("overload", overload),
}
#: What the issue asks of us, as the least ratio of ours over theirs.
_TARGETS: Final = {"faust": 40.0, "quixstreams": 8.0, "bytewax": 3.0, "aiokafka_decode": 0.5}
#: One for the loop of each worker, and two for the broker.
_CORES_OF_TWO_WORKERS: Final = 4
Values = Mapping[str, Any]


def report(values: Values) -> str:
    """The page in Markdown."""
    series = [
        _series(values, "scale", "Users", _scale),
        _series(values, "recovery", "Recovery", _recovery),
        _series(values, "workers", "Two workers", _workers),
    ]
    return "\n".join([INTRO, _comparison(values), PEERS, _latency(values), *series, LIMITS]).rstrip() + "\n"


def plots(values: Values) -> dict[str, str]:
    """File name → SVG, of what has been measured."""
    made = {f"{name}.svg": draw(values[key]) for name, (key, draw) in _PLOTS.items() if key in values}
    rates = {name: values[f"ingest.{name}.events_per_second"] for name in TITLES if _compared(values, name)}
    return {**({"ingest.svg": systems(rates)} if rates else {}), **made}


def _compared(values: Values, name: str) -> bool:
    """Whether these are results of this comparison: those of its forerunner did another job."""
    return "failures" in values and f"ingest.{name}.events_per_second" in values


# -- the comparison -----------------------------------------------------------------------------------------


def _comparison(values: Values) -> str:
    rows = [_row(values, name) for name in TITLES if _compared(values, name)]
    if not rows:
        return f"## Comparison\n\n{UNMEASURED.format('make bench')}\n"
    head = (
        "| system | events/s: median (least–most) | ours × | target | CPU s per million | peak RSS MB |"
        " state bytes/user | RSS growth bytes/user | events in | records out | runs |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    failed = [f"- `{name}` failed: {' '.join(why.split())[:300]}" for name, why in values["failures"].items()]
    parts = [
        f"## Comparison\n\n{_plot('ingest', 'Events per second of every system')}",
        "\n".join([head, *rows]),
        "*ours ×* is `valuestream` over that system; of the limits it is a share. *state* is what our columns hold; "
        "*RSS growth* is what the process grew by from its first event on, per user of its events, caches included.",
        "\n".join(failed),
        _machine(values["machine"], _loads(values["rounds"])),
        _stages(values),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(values: Values, name: str) -> str:
    runs = [run for run in values["rounds"] if run["system"] == name]
    rates = [run["events_per_second"] for run in runs]
    ratio, target = values.get(f"ingest.ratio.{name}"), _TARGETS.get(name)
    given = max((sum(run["applied"].values()) for run in runs), default=0)

    def number(what: str, form: str, by: float = 1.0) -> str:
        value = values.get(f"ingest.{name}.{what}")
        return "" if value is None else format(value / by, form)

    cells = [
        TITLES[name],
        f"{number('events_per_second', ',.0f')} ({_spread(rates)})",
        "" if ratio is None else f"{ratio:.2f}",
        "" if target is None else f"≥ {target:g}",
        number("cpu_seconds_per_million_events", ",.1f"),
        number("peak_rss_bytes", ",.0f", 1e6),
        number("state_bytes_per_user", ",.0f"),
        number("rss_grown_bytes_per_user", ",.0f"),
        f"{given:,}",
        number("emitted", ",.0f"),
        str(len(runs)),
    ]
    return f"| {' | '.join(cells)} |"


def _spread(rates: Sequence[float]) -> str:
    return f"{min(rates):,.0f}–{max(rates):,.0f}"


def _loads(points: Sequence[Values]) -> str:
    loads = [point["load_average_before"] for point in points if "load_average_before" in point]
    return f"; load average before a run {min(loads):.1f} to {max(loads):.1f}" if loads else ""


def _machine(of: Values, loads: str) -> str:
    stolen = f"; its host gave {of['stolen_percent']} % of its time to others" if "stolen_percent" in of else ""
    packages = ", ".join(f"{name} {version}" for name, version in of["packages"].items())
    return (
        f"Measured {of['began'][:10]} on {of['cores']} × {of['cpu']}, {of['memory_bytes'] / 2**30:.0f} GiB, "
        f"{of['system']}; Python {of['python']}, Kafka {of['kafka']} on the same cores{loads}{stolen}. {packages}."
    )


def _stages(values: Values) -> str:
    rows = []
    prefix = "ingest.valuestream_scoring.seconds_per_million."
    stages = [name.removeprefix(prefix) for name in values if name.startswith(prefix) and values[name]]
    if not stages:
        return ""
    head = f"| seconds per million events | {' | '.join(stages)} |\n|---{'|---' * len(stages)}|"
    for name in ("valuestream_ingest", "valuestream", "valuestream_scoring"):
        cells = (values.get(f"ingest.{name}.seconds_per_million.{stage}", 0.0) for stage in stages)
        rows.append(f"| {TITLES[name]} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join([head, *rows])


# -- series -------------------------------------------------------------------------------------------------


def _latency(values: Values) -> str:
    parts = ["## Latency\n"]
    if "failures" in values and "latency.p50_ms" in values:
        at = values["latency"]
        parts.append(
            f"Event → score at {at['events_per_second']:,.0f} events/s, shipped model, refresh interval 0, broker on"
            f" the same cores, over {at['events']:,} events: **p50 {at['p50_ms']:.0f} ms, p99 {at['p99_ms']:.0f} ms**"
            f" (target: 15 and 80), at most {at['max_ms']:,.0f} ms. Both times are the broker's.\n"
        )
    if "curve" not in values:
        return "\n".join([*parts, _unmeasured("latency"), ""])
    head = "| offered events/s | sent events/s | p50 ms | p99 ms | most ms |\n|---|---|---|---|---|"
    rows = [
        f"| {p['offered']:,} | {p['events_per_second']:,.0f} |"
        f" {p['p50_ms']:,.0f} | {p['p99_ms']:,.0f} | {p['max_ms']:,.0f} |"
        for p in values["curve"]
    ]
    plot = _plot("curve", "Latency over the rate of events")
    parts += [plot, "", "\n".join([head, *rows]), "", _machine(values["machine.latency"], _loads(values["curve"])), ""]
    return "\n".join([*parts, _overload(values)])


def _overload(values: Values) -> str:
    if "overload" not in values:
        return ""
    over = values["overload"]
    head = "| last event | events | p50 ms | p95 ms |\n|---|---|---|---|"
    rows = [
        f"| {name} | {of['events']:,} | {of['p50_ms']:,.0f} | {of['p95_ms']:,.0f} |"
        for name, of in over["by_priority"].items()
    ]
    return "\n".join(
        [
            "### Overload\n",
            f"{over['events_per_second']:,.0f} events/s for {over['seconds']:.0f} s, each of which asks for a score."
            " Below: what the worker ingested and scored second by second, how long the user who waits longest has"
            " waited, and how long users waited by the priority of the event that made them wait.\n",
            _plot("overload", "Ingested, scored and waiting, second by second"),
            "",
            "\n".join([head, *rows]),
            "",
        ]
    )


def _series(values: Values, name: str, title: str, text: Callable[[Any], str]) -> str:
    """What a series came to, and the machine that it was measured on."""
    if name not in values:
        return f"## {title}\n\n{_unmeasured(name)}\n"
    of = values[name]
    loads = _loads(of) if isinstance(of, list) else ""
    return f"## {title}\n\n{text(of)}\n\n{_machine(values[f'machine.{name}'], loads)}\n"


def _unmeasured(name: str) -> str:
    return UNMEASURED.format(f'make bench BENCH_ARGS="--series {name}"')


def _scale(points: Sequence[Values]) -> str:
    head = (
        "| users | keys | events/s (least–most) | CPU s per million | RSS MB | state bytes/user |"
        " events/s while users are new |\n|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {p['users']:,} | {p['keys']} | {p['events_per_second']:,.0f} ({_spread(p['rates'])}) |"
        f" {p['cpu_seconds_per_million_events']:.1f} | {p['rss_bytes'] / 1e6:,.0f} |"
        f" {p['state_bytes_per_user']:,.0f} | {p['before']['events_per_second']:,.0f} |"
        for p in points
    ]
    about = (
        "Ingestion with changelog and local store, no scoring, the real worker on Kafka. Every user has sent one event"
        " before the clock starts; Zipf keys have exponent 1.1. The more users there are, the fewer events share a"
        f" changelog record. The median of {len(points[0]['rates'])} runs on one topic."
    )
    plot = _plot("scale", "Events per second and memory over the number of users")
    return "\n".join([about, "", plot, "", head, *rows])


def _recovery(of: Values) -> str:
    def rate(name: str) -> str:
        return f"{of[f'{name}_seconds']:.2f} s, {of[f'{name}_users_per_second']:,} users/s"

    return (
        f"{of['users']:,} users. From the changelog, which names each"
        f" {of['changelog_records'] / of['users']:.1f} times, with an empty data folder, into the local store"
        f" and memory, since its first record came: {rate('changelog')} (target: 100,000). From the local store into"
        f" memory, with the check that it is whole: {rate('local')} (target: 500,000)."
    )


def _workers(of: Values) -> str:
    has_cores = of["cores"] >= _CORES_OF_TWO_WORKERS
    shared = "" if has_cores else f"; here both and the broker share {of['cores']}"
    return (
        f"{of['events']:,} events of {of['users']:,} users wait in 4 partitions, ingestion without"
        f" scores. One worker {of['one']:,} events/s, two {of['two']:,}: {of['ratio']:.2f} times as many (target: 1.7"
        f" where each has a core and the broker its own{shared})."
    )


def _plot(name: str, text: str) -> str:
    return f"![{text}](benchmarks/{name}.svg)"


def write(root: Path) -> None:
    """Write page and plots from the results; plots of what is not in them any more go."""
    values = json.loads((root / RESULTS).read_text())
    folder = root / PAGE.with_suffix("")
    folder.mkdir(exist_ok=True)
    made = plots(values)
    for old in folder.glob("*.svg"):
        if old.name not in made:
            old.unlink()
    for name, svg in made.items():
        (folder / name).write_text(svg)
    (root / PAGE).write_text(report(values))


if __name__ == "__main__":
    write(Path())
