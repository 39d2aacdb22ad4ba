"""Disk: a local disk with the store of users. It outlives its process, and may lose its last writes or all of them."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from stream.checkpoint.journal_blocks import Users
from stream.kafka.table import UserStore
from tests.simulation.broker import CHANGELOG, Stored
from tests.simulation.shop import LATENESS_S

__all__ = ["Disk"]

_MERGES_SHARE = 0.1


class Disk(UserStore):
    """The real store on real files, without Faust around it. The seed decides when its journals are merged."""

    def __init__(self, seed: int = 0) -> None:
        self.table: Any = SimpleNamespace(lateness_s=LATENESS_S, currency="USD")
        self._rng, self._recovering = random.Random(seed), False
        self._folder = tempfile.TemporaryDirectory(prefix="valuestream-simulated-")
        self._journals, self._merging, self._merge_errors, self._numbers = {}, {}, {}, {}
        self.open()

    def open(self) -> None:
        """Open the disk for a process that starts. The process before it released its files when it died."""
        for partition in list(self._journals):
            self._close(partition)
        self._one_merge = asyncio.Lock()

    def recover(self, partition: int, records: Sequence[Stored]) -> None:
        """Apply one fetch of the changelog, as Faust's recovery does."""
        message = SimpleNamespace(tp=TP(CHANGELOG, partition), partition=partition, offset=records[-1].offset)
        self._recovering = self._rng.random() < 0.8  # Otherwise it applies them as a standby.
        self.apply_changelog_batch([SimpleNamespace(message=message, value=records)], None, None)
        self._recovering = False

    def write(self, partition: int, users: Users, offset: int) -> None:
        super().write(partition, users, offset)
        if partition not in self._merging and self._rng.random() < _MERGES_SHARE:
            self._begin_merging(partition)

    def add_future(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.get_running_loop().create_task(coroutine)

    def _in_recovery(self) -> bool:
        return self._recovering

    def lose_writes(self) -> None:
        """Lose power: in the last journal file of each partition the end is missing, or a byte has another value."""
        self.open()
        for partition in Path(self._folder.name).iterdir():
            last = max(partition.glob("*.segment"), default=None)
            if last is not None and (size := last.stat().st_size):
                at = self._rng.randrange(size)
                if self._rng.random() < 0.5:
                    os.truncate(last, at)
                else:
                    data = bytearray(last.read_bytes())
                    data[at] ^= 1 + self._rng.randrange(255)
                    last.write_bytes(data)

    def lose(self) -> None:
        """Replace the disk by an empty one."""
        self.open()
        self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory(prefix="valuestream-simulated-")

    def partition_path(self, partition: int) -> Path:
        return Path(self._folder.name) / f"users-{partition}"
