"""Report text: the parts of ``docs/benchmarks.md`` that no measurement changes."""

from __future__ import annotations

from typing import Final

__all__ = ["INTRO", "LIMITS", "PEERS", "TITLES", "UNMEASURED"]

UNMEASURED: Final = "Not measured yet with this version of the benchmark: `{}`."

#: System → its name in the table, in the order of the table.
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

Every system does the same job on the same topic in the same run, one after the other. This page is
made from [bench-results.json](../bench-results.json) by `python -m tests.bench.report`; do not edit
it by hand. [performance.md](performance.md) tells what the profile showed, and what was changed
because of it.

    make bench                                            # comparison, latency, this page
    make bench BENCH_ARGS="--only valuestream,faust --rounds 3 --skip-latency"
    make bench BENCH_ARGS="--series scale"                # 10 thousand to 2 million users
    make bench BENCH_ARGS="--series latency"              # rates up to saturation, and overload
    make bench BENCH_ARGS="--series recovery"             # how many users per second are read back
    make bench BENCH_ARGS="--series workers"              # two workers compared with one

**The job.** A system

- reads JSON events of about 280 bytes from a Kafka topic of 4 partitions;
- drops repeats by `messageId`;
- keeps the last 64 events of every user, and counts by event type in four event-time windows (1 h,
  24 h, 7 d, 30 d) as of the user's newest event;
- makes that durable;
- sends one record a second for every user who had an event, with the counts of the windows.

1 % of the events are repeats. Events are up to ten minutes out of order.

**How it is measured.** Each system has one process. The broker runs on the same machine. The order
of the systems changes from round to round. The clock runs in the system's own process: it starts
when the first events are in the state and stops when the last are, so start-up does not count.
After each run the users are read back from where the system keeps them durably (a changelog topic
or a recovery store) and compared with counts that were made the plain way. The last record of every
user on the output topic is compared as well. If one user has one event more or less, the system has
failed and no speed of it counts. The table shows the median of the rounds.

A slow system reads only the first part of the topic (*events in*), so that a run takes no more than
some seconds. Its users then have shorter histories, which favours it.
"""

PEERS: Final = """\
## What each peer does, and what it does not do

- **Faust** ([code](../tests/bench/peers/faust_stock.py)) runs an agent, a `Table` in RocksDB with
  its changelog, and a timer that sends. It has uvloop, orjson, plain dicts and no web server. Each
  event is a table write and a changelog record. Faust's own windowed tables would write one record
  for each step of a window: 12 for 1 h by 5 min.
- **Quix Streams** ([code](../tests/bench/peers/quix.py)) runs `apply(stateful=True)` with RocksDB
  and a changelog. It commits every 5 s, its default. It has no timers: a user's record is sent with
  an event if the last record is a second old. So it sends fewer records than the others, and the
  last event of a burst waits for the user's next event. Its output is therefore checked less
  strictly: every user must have a record, and no record may count an event too many.
- **Bytewax** ([code](../tests/bench/peers/bytewax_flow.py)) runs a `stateful` operator with
  notifications and one worker. Its recovery store in local SQLite files makes the state durable at
  the end of each epoch of 10 s, its default. It has no changelog, so a lost disk is lost state.
- These three share [the job itself](../tests/bench/peers/windows.py), in plain dicts, with windows
  that share their buckets. None of them has lateness, dead letters, money, metrics by stage or a
  queue by priority. Our worker does all of that in the measured run.
- **valuestream** is the worker as shipped. Instead of a score a stale user gets a record with the
  counts of the windows, as the peers send it. With *scoring*, that record is a score of the shipped
  model. Behind a backlog our worker puts ingestion first, so it may send a user's record later than
  a second after the event.
- **aiokafka** reads the topic in fetches as large as ours and does nothing with the records.
  **decode** is our decoder alone: it decodes records that lie in memory, three times over. The
  third limit reads and decodes.
- **PyFlink** is missing. With our pins pip finds nothing newer than 1.9.3, because apache-flink 2.3
  wants numpy 2.1 and protobuf 5. In an environment of its own 2.3.0 installs on Python 3.11 (725
  MB), but its Kafka connector is a jar that no package brings, and the newest one (5.0.0-2.2) is
  for Flink 2.2. So no peer was written for it.

The peers' packages exclude ours (Quix Streams wants an older `pydantic-settings`). So `make bench`
makes the environment `.venv-bench` for them from
[constraints.txt](../tests/bench/peers/constraints.txt). `make test` runs a tiny benchmark with
every system that is installed.
"""

LIMITS: Final = """\
## What these numbers are not

They come from one machine with one broker, no replication, one worker, and no network in between.
The events per second of one worker do not say what a cluster does. The broker shares the cores with
the system that is measured, and a faster system makes the broker take more of them.
"""
