"""The words of ``docs/benchmarks.md`` that no measurement changes."""

from __future__ import annotations

from typing import Final

__all__ = ["INTRO", "LIMITS", "PEERS", "TITLES", "UNMEASURED"]

UNMEASURED: Final = "Not measured yet with this version of the benchmark: `{}`."

#: System → how the table calls it, in the table's order.
TITLES: Final = {
    "valuestream": "**valuestream**",
    "valuestream_scoring": "valuestream, scoring with the shipped model",
    "valuestream_ingest": "valuestream, sending nothing but its changelog",
    "faust": "Faust (stock)",
    "quixstreams": "Quix Streams",
    "bytewax": "Bytewax",
    "aiokafka": "limit: aiokafka reads, nothing else",
    "decode": "limit: our decoder alone, from memory",
    "aiokafka_decode": "limit: aiokafka and our decoder",
}

INTRO: Final = """\
# Benchmarks

Every system does the same job on the same topic in the same run, in turns. Made from
[bench-results.json](../bench-results.json) by `python -m tests.bench.report`; do not edit by hand. What the profile
showed, and what was changed for it, is in [performance.md](performance.md).

    make bench                                            # the comparison and the latency; then this page
    make bench BENCH_ARGS="--only valuestream,faust --rounds 3 --skip-latency"
    make bench BENCH_ARGS="--series scale"                # 10 thousand to 2 million users, uniform and Zipf
    make bench BENCH_ARGS="--series latency"              # latency over rates up to saturation, and overload
    make bench BENCH_ARGS="--series recovery"             # users per second read back
    make bench BENCH_ARGS="--series workers"              # two workers beside one

**The job.** Read JSON events of about 280 bytes from a Kafka topic of 4 partitions; drop repeats by `messageId`; keep
for every user the last 64 events and counts by event type in four event-time windows (1 h, 24 h, 7 d, 30 d) as of the
user's newest event; make that durable; and send one record a second for every user who was touched, with the counts of
the windows. 1 % of the events are repeats, and they are up to ten minutes out of order.

**How it is measured.** One process for each system, the broker on the same machine, and in each round another order.
The clock is in the system's own process: it starts when the first events are in the state and stops when the last are,
so start-up does not count. After each run users are read back from where the system keeps them durably (changelog
topic, or recovery store) and compared with counts made the plain way: one event more or less in one user, and the
system has no speed. So is the last record of every user on the output topic. The median of the rounds counts.

A slow system is given the first part of the topic (*events in*), so that a run takes no more than some seconds. Its
users then have shorter histories, which is in its favour.
"""

PEERS: Final = """\
## What each peer does, and does not

- **Faust** ([code](../tests/bench/peers/faust_stock.py)): an agent, a `Table` in RocksDB with its changelog, a timer
  that sends. With uvloop, orjson, plain dicts and no web server. Each event is a table write and a changelog record.
  Faust's own windowed tables would write one record for each step of a window: 12 for 1 h by 5 min.
- **Quix Streams** ([code](../tests/bench/peers/quix.py)): `apply(stateful=True)` with RocksDB and changelog, commits
  every 5 s, its default. It has no timers, so a user's record goes out with an event when the last is a second old:
  fewer records than the others send, and the last event of a burst waits for the user's next one. So of its output only
  this is checked: there is a record of every user, and it counts no event too many.
- **Bytewax** ([code](../tests/bench/peers/bytewax_flow.py)): a `stateful` operator with notifications, one worker.
  Durable by its recovery store in local SQLite files at the end of each epoch of 10 s, its default; there is no
  changelog, so a lost disk is lost state.
- The three share [the job itself](../tests/bench/peers/windows.py), in plain dicts, with windows that share their
  buckets. None of them has lateness, dead letters, money, metrics by stage or a queue by priority: we do all of that in
  the measured run.
- **valuestream** is the worker as shipped; in place of a score a stale user gets a record with the counts of the
  windows, which is what the peers send. With *scoring*, that record is a score of the shipped model. Behind a backlog
  our worker lets sending give way to ingestion, so it may send a user's record later than a second after the event.
- **aiokafka** reads the topic in fetches as large as ours and looks at nothing; **decode** is our decoder over records
  that lie in memory, three times over; the third reads and decodes.
- **PyFlink** is not among them. Beside our pins pip finds nothing newer than 1.9.3: apache-flink 2.3 wants numpy 2.1
  and protobuf 5. In an environment of its own 2.3.0 installs on Python 3.11 (725 MB), but its Kafka connector is a jar
  that no package brings, and the newest (5.0.0-2.2) is for Flink 2.2. No peer of it was written.

The peers' packages exclude ours (Quix Streams wants an older `pydantic-settings`), so `make bench` makes
`.venv-bench` for them from [constraints.txt](../tests/bench/peers/constraints.txt). `make test` runs the benchmark
tiny with every system whose environment is there.
"""

LIMITS: Final = """\
## What these numbers are not

One machine, one broker without replication, one worker: no network lies between. Events per second of one worker do not
say what a cluster does. The broker shares the cores with the system that is measured, and takes more of them the faster
that system is.
"""
