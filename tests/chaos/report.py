"""Report: ``chaos-results.json`` → ``docs/reliability.md``; ``python -m tests.chaos.report > docs/reliability.md``."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import tests.chaos.scenarios  # noqa: F401 - fills SCENARIOS
from tests.chaos.judge import Verdict
from tests.chaos.run import RESULTS, read_results
from tests.chaos.world import SCENARIOS
from tests.simulation.sabotage import SABOTAGES

__all__ = ["report"]

_INTRO: Final = f"""\
# Reliability

What was done to it on a real Kafka, how often, and what came of it. Made from
[chaos-results.json](../chaos-results.json) by `python -m tests.chaos.report > docs/reliability.md`; do not edit by
hand.

    make chaos                                                    # every scenario, three seeds
    CHAOS_SEEDS=20 CHAOS_ONLY=kill_before_commit make chaos       # one of them, twenty seeds
    CHAOS_SHORT=1 make chaos                                      # the short forms, as in `make test`

**How a run is judged.** When the faults are over and the worker is at rest, its topics are read to their ends and
compared with an undisturbed offline replay of the same records through the same state code: the state of every user
must be equal to the byte (but for what scoring notes on its way), so must every user's last score, and no `score_id`
may have come with two contents. *lost* and *twice* count events, *unscored* counts users whose last score differs.
*Recovery* is from the fault's end, or the next worker's start, to readiness.

The same protocol runs through thousands of seeded schedules on a fake broker, with kills at every step, in
`tests/simulation` (`python -m tests.simulation.run --seed 0 --schedules 1000`); {len(SABOTAGES)} mutations of it are
each noticed there.
"""
_LIMITS: Final = """\
## What is not covered

- A produce request that left the machine before a pause longer than the session can arrive after the successor's.
  Recovery then keeps the value that has seen more; were the changelog compacted in between, it would be lost
  ([0011](decisions/0011-membership-lease.md)).
- For a score that the broker refuses, offsets may advance: the state says who is owed a score, and the score follows.
- An event is known again among its user's last 64 accepted events. A sender that repeats one after more than that
  counts twice.
- Whether an event is *of the future* is judged by the clock when it is decoded; read again after a crash it may be
  accepted.
- Bit flips inside a packed user are noticed by the checksums of Kafka's batches and of the journal's blocks; the values
  themselves carry none, so what happens to them in between is not, where it leaves their lengths right.
- Not run again since the local store is a journal (2026-11-29): `cluster_loses_brokers`, `broker_paused`,
  `input_disordered`, `output_too_large`, `output_topic_deleted` and the hour of `soak`. Their short forms are in `make
  test`.
- Deletion of the events topic under a running worker leaves a worker without partitions, which looks like an idle
  spare; `valuestream topics check` says it. A topic that was made anew is refused as long as it is shorter than what
  the state has seen.
"""


def report(verdicts: Iterable[Verdict]) -> str:
    """The page in Markdown."""
    runs: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        runs[verdict.scenario].append(verdict)
    head = (
        "| scenario | what was done | passed | events | lost | twice | unscored | conflicts | recovery: median (max) |"
        "\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    lines = [_row(name, runs[name]) for name in SCENARIOS if runs[name]]
    measured = [line for name in SCENARIOS for line in _measures(runs[name])]
    failures = [
        f"- `{v.scenario}` seed {v.seed}: {' '.join(v.problem.split())[:300]}"
        for of in runs.values()
        for v in of
        if not v.passed
    ]
    parts = [_INTRO, "## Results\n", "\n".join([head, *lines]), "\n## Measured on the way\n", *measured]
    return "\n".join([*parts, "\n## Runs that failed\n" if failures else "", *failures, "", _LIMITS]).rstrip() + "\n"


def _row(name: str, runs: list[Verdict]) -> str:
    done = (SCENARIOS[name].play.__doc__ or "").strip().split("\n")[0]
    sums = (
        sum(getattr(v, column) for v in runs)
        for column in ("events_in", "lost", "double_counted", "scores_missing", "conflicting_duplicates")
    )
    seconds = [v.recovery_seconds for v in runs]
    passed = f"{sum(v.passed for v in runs)} of {len(runs)}"
    took = f"{statistics.median(seconds):.1f} s ({max(seconds):.1f})" if any(seconds) else ""
    return " | ".join((f"| `{name}`", done, passed, *(f"{n:,}" for n in sums), f"{took} |"))


def _measures(runs: list[Verdict]) -> list[str]:
    names = sorted({name for v in runs for name in v.measures} - {"run_seconds"})
    said = [f"{name} {max(v.measures.get(name, 0.0) for v in runs):g}" for name in names]
    return [f"- `{runs[0].scenario}` (largest of its runs): {', '.join(said)}"] if said else []


if __name__ == "__main__":
    sys.stdout.write(report(read_results(RESULTS)))
