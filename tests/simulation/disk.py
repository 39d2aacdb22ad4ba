"""A local disk with the store of users: it outlives its process, may have lost its last writes, or all."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from faust.types import TP

from stream.restored import Restored
from stream.store import UserStore
from tests.simulation.broker import CHANGELOG, Stored
from tests.simulation.shop import LATENESS_S

__all__ = ["Disk"]

#: Writes that a disk which loses power may lose.
_LOST_MAX = 3
_EMPTY: tuple[dict[bytes, bytes], int | None] = ({}, None)


class Disk(UserStore):
    """The real store, with a dictionary for each partition where the RocksDB databases are.

    What is filled after a load is there with the next write; a process that dies before has filled nothing.
    """

    def __init__(self) -> None:
        self._written: dict[int, list[tuple[dict[bytes, bytes], int | None]]] = {}
        self._in_memory = {}
        self.table: Any = SimpleNamespace(lateness_s=LATENESS_S)
        self.open(0)

    def open(self, partitions: int) -> None:
        """A process starts with it."""
        self._filling = {}
        self._restored = {n: Restored(alone=True) for n in range(partitions) if self._now(n)[1] is None}

    def recover(self, partition: int, records: Sequence[Stored]) -> None:
        """Apply one fetch of the changelog, as Faust's recovery does."""
        message = SimpleNamespace(tp=TP(CHANGELOG, partition), partition=partition, offset=records[-1].offset)
        self.apply_changelog_batch([SimpleNamespace(message=message, value=records)], None, None)

    def write(self, partition: int, items: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        self._write_restored(partition)
        users = dict(self._now(partition)[0])
        for key, value in items:
            if value is None:
                users.pop(key, None)
            else:
                users[key] = value
        self._written[partition] = [*self._written.get(partition, [])[-_LOST_MAX:], (users, offset)]

    def _begin_filling(self, partition: int, users: dict[bytes, bytes | None], offset: int) -> None:
        self._filling[partition] = cast("Any", SimpleNamespace(users=users, offset=offset))

    def _filled(self, partition: int) -> None:
        filling = cast("Any", self._filling.pop(partition, None))
        if filling is not None:
            self.write(partition, filling.users.items(), filling.offset)

    def _in_recovery(self) -> bool:
        return True

    def _written_offset(self, partition: int) -> int | None:
        return self._now(partition)[1]

    def lose_writes(self, rng: random.Random) -> None:
        """The machine lost power: the last writes of each partition are gone."""
        for partition, written in self._written.items():
            self._written[partition] = written[: rng.randrange(len(written) + 1)]

    def lose(self) -> None:
        """The disk is a new one."""
        self._written.clear()

    def partition_path(self, partition: int) -> Path:
        return Path(f"partition-{partition}")

    def _now(self, partition: int) -> tuple[dict[bytes, bytes], int | None]:
        written = self._written.get(partition)
        return written[-1] if written else _EMPTY

    def _database(self, partition: int) -> Any:
        users = self._now(partition)[0]
        return SimpleNamespace(users=users, get=lambda keys: [users.get(key) for key in keys])

    def _chunks(self, database: Any) -> Iterator[list[tuple[bytes, bytes]]]:
        yield [*database.users.items()]
