"""Our worker as it is, with a meter at the end of ingestion, and scoring switched off where asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from stream.partition import Partition
from stream.pipeline import Pipeline
from stream.service import logs
from stream.service.clock import SystemClock
from stream.service.settings import Settings
from stream.service.worker import run_worker
from tests.bench.meter import Meter


def main() -> None:
    """Run the worker until it is told to end."""
    meter, ingest = Meter.from_environment(), Pipeline.ingest

    def metered(self: Pipeline, partition: Partition, records: Sequence[Any]) -> None:
        ingest(self, partition, records)
        meter.add(len(records), partition.number)

    async def score_nobody(self: Pipeline, partition: Partition, users_max: int) -> int:
        return 0

    settings = Settings()
    logs.setup(settings)
    with ExitStack() as patched:
        patched.enter_context(patch.object(Pipeline, "ingest", metered))
        if os.environ["BENCH_SCORING"] == "off":
            patched.enter_context(patch.object(Pipeline, "score", score_nobody))
        run_worker(settings, SystemClock())


if __name__ == "__main__":
    main()
