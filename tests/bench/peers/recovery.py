"""Recovery: measures how long our worker takes to open, write and load its journals when it reads its users back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from stream.kafka.table import UserStore
from stream.service.worker import Worker

__all__ = ["timed_recovery"]


@contextmanager
def timed_recovery(report: Path) -> Iterator[None]:
    """Within this context, each recovery that ends writes its times to ``report``."""
    opens, apply = UserStore._open, UserStore.apply_changelog_batch
    resume = Worker._resume_partitions
    open_s, n_records = 0.0, 0
    first_change: float | None = None

    async def timed_open(self: UserStore, *args: Any, **kwargs: Any) -> None:
        nonlocal open_s
        began = time.monotonic()
        await opens(self, *args, **kwargs)
        open_s += time.monotonic() - began

    def timed_apply(self: UserStore, batch: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal first_change, n_records
        first_change = first_change or time.monotonic()
        n_records += sum(len(event.value) for event in batch)
        apply(self, batch, *args, **kwargs)

    async def timed_resume(self: Worker) -> None:
        began = time.monotonic()
        await resume(self)
        ended = time.monotonic()
        if not self._parts.partitions:
            return  # This worker has no partitions yet.
        found = {
            "users": sum(len(p.state) for p in self._parts.partitions),
            "open_seconds": open_s,
            "load_seconds": ended - began,
            "changelog_records": n_records,
            # From the first record of the changelog until all users are in memory; null if there was no record.
            "changelog_seconds": None if first_change is None else ended - first_change,
        }
        unfinished = report.with_suffix(".tmp")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(report)

    with ExitStack() as patched:
        patched.enter_context(patch.object(UserStore, "_open", timed_open))
        patched.enter_context(patch.object(UserStore, "apply_changelog_batch", timed_apply))
        patched.enter_context(patch.object(Worker, "_resume_partitions", timed_resume))
        yield
