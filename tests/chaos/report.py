"""Report: prints ``docs/reliability.md`` from ``chaos-results.json``.

Run ``python -m tests.chaos.report > docs/reliability.md``.
"""

from __future__ import annotations

import statistics
import sys
import textwrap
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

This page says which faults were caused on a real Kafka, how often, and what came of them. It is
made from [chaos-results.json](../chaos-results.json) by
`python -m tests.chaos.report > docs/reliability.md`; do not edit it by hand.

    make chaos                                                    # every scenario, three seeds
    CHAOS_SEEDS=20 CHAOS_ONLY=kill_before_commit make chaos       # one scenario, twenty seeds
    CHAOS_SHORT=1 make chaos                                      # short forms, as in `make test`

**How a run is judged.** When the faults are over and the worker is idle, its topics are read to
their ends and compared with an undisturbed offline replay of the same records through the same
state code. The state of every user must be the same to the byte, without the columns that scoring
writes. The last score of every user must be the same to the byte. No `score_id` may have come with
two contents. *lost* and *twice* count events. *unscored* counts users with another last score than
expected. *recovery* is the time from the end of the fault, or from the start of the next worker,
until the worker is ready.

`tests/simulation` runs the same protocol through thousands of seeded schedules on a fake broker,
with kills at every step (`python -m tests.simulation.run --seed 0 --schedules 1000`). There
{len(SABOTAGES)} deliberate bugs are planted in the protocol, one at a time, and each of them is noticed.
"""
_LIMITS: Final = """\
## What is not covered

- A worker may pause for longer than its session after it has sent a produce request. That request
  can arrive after those of its successor. Recovery then keeps the value with the larger applied
  offset. If the changelog were compacted in between, that value would be lost
  ([0011](decisions/0011-membership-lease.md)).
- If the broker refuses a score, offsets may advance all the same. The state says which users are
  owed a score, and the score follows.
- A repeated event is recognized among the last 64 accepted events of its user. If a sender repeats
  an event later than that, it counts twice.
- The clock at decoding decides whether an event is *of the future*. If the event is read again
  after a crash, it may be accepted.
- Checksums of Kafka's batches and of the journal's blocks notice bit flips inside a packed user.
  The values themselves have no checksum. So damage that happens between the two is not noticed if
  it leaves the lengths right.
- Some scenarios have not been run again since the local store became a journal (2026-11-29):
  `cluster_loses_brokers`, `broker_paused`, `input_disordered`, `output_too_large`,
  `output_topic_deleted` and the hour of `soak`. Their short forms are part of `make test`.
- If the events topic is deleted while a worker runs, the worker has no partitions and looks like an
  idle spare. `valuestream topics check` reports it. A topic that was created again is refused as
  long as it is shorter than what the state has seen.
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
        for same_scenario in runs.values()
        for v in same_scenario
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
    if not said:
        return []
    line = f"- `{runs[0].scenario}` (largest of its runs): {', '.join(said)}"
    return [textwrap.fill(line, 100, subsequent_indent="  ", break_long_words=False)]


if __name__ == "__main__":
    sys.stdout.write(report(read_results(RESULTS)))
