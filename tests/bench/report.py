"""Report: writes ``docs/benchmarks.md`` and its plots from ``bench-results.json``.

Run ``python -m tests.bench.report``.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench.plots import curve, overload, scale, systems
from tests.bench.report_text import INTRO, LIMITS, PEERS, TITLES, UNMEASURED
from tests.bench.results import RESULTS

__all__ = ["PAGE", "plots", "report", "write"]

PAGE: Final = Path("docs/benchmarks.md")
#: File name of a plot → the results that it shows, and the function that draws it.
_PLOTS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "scale": ("scale", scale),
    "curve": ("curve", curve),
    "overload": ("overload", overload),
}
#: The ratio that we aim at: our events per second over theirs, at least.
_TARGETS: Final = {"faust": 40.0, "quixstreams": 8.0, "bytewax": 3.0, "aiokafka_decode": 0.5}
#: One core for the loop of each worker, and two for the broker.
_CORES_OF_TWO_WORKERS: Final = 4
#: Longest line of prose, as in all Markdown here.
_WIDTH: Final = 100
Values = Mapping[str, Any]


def report(values: Values) -> str:
    """The page in Markdown."""
    series = [
        _series(values, "scale", "Users", _scale),
        _series(values, "recovery", "Recovery", _recovery),
        _series(values, "workers", "Two workers", _workers),
    ]
    page = "\n".join([INTRO, _comparison(values), PEERS, _latency(values), *series, LIMITS]).rstrip() + "\n"
    return "\n".join(map(_wrapped, page.split("\n")))


def _wrapped(line: str) -> str:
    """A long line of prose as several lines; tables and pictures must stay on one."""
    if len(line) <= _WIDTH or line.startswith(("|", "!")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def plots(values: Values) -> dict[str, str]:
    """File name → SVG of everything that has been measured."""
    made = {f"{name}.svg": draw(values[key]) for name, (key, draw) in _PLOTS.items() if key in values}
    rates = {name: values[f"ingest.{name}.events_per_second"] for name in TITLES if _compared(values, name)}
    return {**({"ingest.svg": systems(rates)} if rates else {}), **made}


def _compared(values: Values, name: str) -> bool:
    """Whether the results hold this system in this comparison. An earlier benchmark did another job."""
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
        "*ours ×* is the rate of `valuestream` over that of the system; for a limit it is the share that we reach. "
        "*state* is the size of our columns. *RSS growth* is how much the memory of the process grew since its first "
        "event, divided by the number of users, with caches.",
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


def _machine(about: Values, loads: str) -> str:
    stolen = (
        f"; its host gave {about['stolen_percent']} % of the CPU time to others" if "stolen_percent" in about else ""
    )
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"Measured on {about['began'][:10]} on {about['cores']} × {about['cpu']}, {about['memory_bytes'] / 2**30:.0f}"
        f" GiB, {about['system']}; Python {about['python']}, Kafka {about['kafka']} on the same cores{loads}{stolen}."
        f" {packages}."
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
            f"From an event to its score it takes **p50 {at['p50_ms']:.0f} ms, p99 {at['p99_ms']:.0f} ms** (target: 15"
            f" and 80), at most {at['max_ms']:,.0f} ms: at {at['events_per_second']:,.0f} events/s, over"
            f" {at['events']:,} events, with the shipped model, refresh interval 0, and the broker on the same cores."
            " The broker stamps both times.\n"
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
        f"| {name} | {waits['events']:,} | {waits['p50_ms']:,.0f} | {waits['p95_ms']:,.0f} |"
        for name, waits in over["by_priority"].items()
    ]
    return "\n".join(
        [
            "### Overload\n",
            f"The worker gets {over['events_per_second']:,.0f} events/s for {over['seconds']:.0f} s, and each event"
            " asks for a score. The plot shows how many events were ingested and scored in each second, and how long"
            " the user who had waited longest had waited. The table shows how long users waited, by the priority of"
            " the event that put them into the queue.\n",
            _plot("overload", "Ingested, scored and waiting, second by second"),
            "",
            "\n".join([head, *rows]),
            "",
        ]
    )


def _series(values: Values, name: str, title: str, text: Callable[[Any], str]) -> str:
    """The section of a series: its results, and the machine that it was measured on."""
    if name not in values:
        return f"## {title}\n\n{_unmeasured(name)}\n"
    results = values[name]
    loads = _loads(results) if isinstance(results, list) else ""
    return f"## {title}\n\n{text(results)}\n\n{_machine(values[f'machine.{name}'], loads)}\n"


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
        "The real worker ingests from Kafka with changelog and local store, without scoring. Every user has sent one"
        " event before the clock starts. Zipf keys have exponent 1.1. The more users there are, the fewer events share"
        f" a changelog record. Each row is the median of {len(points[0]['rates'])} runs on one topic."
    )
    plot = _plot("scale", "Events per second and memory over the number of users")
    return "\n".join([about, "", plot, "", head, *rows])


def _recovery(results: Values) -> str:
    def rate(name: str) -> str:
        return f"{results[f'{name}_seconds']:.2f} s, {results[f'{name}_users_per_second']:,} users/s"

    return (
        f"A worker reads {results['users']:,} users back. From the changelog into the local store and memory:"
        f" {rate('changelog')} (target: 100,000), counted from the first record on, with an empty data folder; the"
        f" changelog holds {results['changelog_records'] / results['users']:.1f} records of each user. From the local"
        f" store into memory: {rate('local')} (target: 500,000), with the check that the store is whole."
    )


def _workers(results: Values) -> str:
    has_cores = results["cores"] >= _CORES_OF_TWO_WORKERS
    shared = "" if has_cores else f"; here the workers and the broker share {results['cores']} cores"
    return (
        f"{results['events']:,} events of {results['users']:,} users wait in 4 partitions and are ingested without"
        f" scores. One worker does {results['one']:,} events/s, two do {results['two']:,}: {results['ratio']:.2f} times"
        f" as many (target: 1.7 if each worker has a core and the broker has its own{shared})."
    )


def _plot(name: str, text: str) -> str:
    return f"![{text}](benchmarks/{name}.svg)"


def write(root: Path) -> None:
    """Write the page and the plots from the results, and delete plots that the results no longer have."""
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
