"""Our worker as shipped, with a meter after ingestion. ``BENCH_SCORING`` says what a stale user gets.

- ``on``: a score of the shipped model;
- ``windows``: a record with the counts of the four windows, as the peers send it;
- ``off``: nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson

from stream.checkpoint.partition import Partition
from stream.clock import SystemClock
from stream.commands.worker import run_worker
from stream.outgoing import Outgoing
from stream.pipeline import Pipeline
from stream.score.features import windows
from stream.score_batch import ScoreBatch, Taken
from stream.service import logs
from stream.settings import Settings
from tests.bench.meter import Meter
from tests.bench.peers.recovery import timed_recovery


async def score_windows(pipeline: Pipeline, partitions: Sequence[Partition], users_max: int) -> int:
    """In place of inference: send the windows of the most urgent users to the scores topic."""
    with ScoreBatch.take(partitions, users_max, pipeline._clock, pipeline._metrics) as batch:
        for taken in batch.taken:
            await send_windows(pipeline, taken)
    return sum(len(taken.rows) for taken in batch.taken)


async def send_windows(pipeline: Pipeline, taken: Taken) -> None:
    """Send the windows of the users taken from one partition."""
    snapshot = taken.partition.state.snapshot(taken.rows)
    counted, _ = windows(snapshot, snapshot.users["last_time"].astype(np.int64))
    records = [
        Outgoing(user.encode(), orjson.dumps({"n_events": n, "windows": inside}))
        for user, n, inside in zip(
            snapshot.ids, snapshot.users["n_events"].tolist(), counted.sum(axis=2).tolist(), strict=True
        )
    ]
    await pipeline._send(pipeline._topics.scores, taken.partition, records)


async def score_nobody(pipeline: Pipeline, partitions: Sequence[Partition], users_max: int) -> int:
    return 0


def queue_no_silent(partition: Partition, event_now: int, idle_stage_max: int, now: float) -> int:
    return 0


def main() -> None:
    """Run the worker until SIGTERM."""
    meter, ingest = Meter.from_environment(), Pipeline.ingest

    def ingest_and_count(self: Pipeline, partition: Partition, records: Sequence[Any]) -> None:
        ingest(self, partition, records)
        meter.add(len(records), partition.number)

    settings, scoring = Settings(), os.environ["BENCH_SCORING"]
    logs.setup(settings)
    with ExitStack() as patched:
        patched.enter_context(timed_recovery(Path(os.environ["BENCH_REPORT"]).with_name("recovery.json")))
        patched.enter_context(patch.object(Pipeline, "ingest", ingest_and_count))
        if scoring == "off":
            patched.enter_context(patch.object(Pipeline, "score", score_nobody))
        elif scoring == "windows":
            patched.enter_context(patch.object(Pipeline, "score", score_windows))
        if scoring != "on":
            patched.enter_context(patch.object(Partition, "queue_silent", queue_no_silent))
        run_worker(settings, SystemClock())


if __name__ == "__main__":
    main()
