"""Store: the users of our partitions on disk, a RocksDB for each, which the changelog can rebuild at any time.

So a database that is damaged is thrown away, with one warning, and read back from the changelog. A disk that is full
or refuses to be written is not ours to mend: the worker ends and says so; nothing was committed past what is durable.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any, Final

import faust
import rocksdict
from faust.stores.rocksdb import Store as RocksDBStore
from faust.types import TP
from yarl import URL

from stream import changelog
from stream.database import Manifest, Mark, explained, is_damage, one_line, rows
from stream.state import PartitionState

__all__ = ["UserStore", "UserTable"]

logger = logging.getLogger(__name__)
#: RocksDB's own size of a memory table, and the bytes after which we empty one, while it cannot be full: RocksDB does
#: that in the background, where of two logs of writes the older can be lost and the newer kept.
_TABLE_BYTES: Final = 32 * 1024 * 1024
_FLUSH_BYTES: Final = _TABLE_BYTES // 2
#: A table that so many writes (one a second) have not filled is emptied at a quarter: a worker with little to do stays
#: small, and one with much to do has few and large files to merge.
_SLOW_FLUSH_BYTES: Final = _FLUSH_BYTES // 4
_SLOW_WRITES: Final = 60
#: What an entry of a memory table takes besides its key and value, or more.
_ENTRY_BYTES: Final = 100
#: Users whose applied offsets are remembered while databases are filled, some 200 bytes each; with more, all are asked
#: of the database.
_FILLING_MAX: Final = 1_000_000
#: Users read before others have their turn.
_CHUNK: Final = 5_000


class UserStore(RocksDBStore):
    """RocksDB of packed users, a database per partition, written in bulk together with its changelog offset."""

    table: UserTable
    #: Recovery swallows errors and goes on with a partial table, so the first one is kept here and is fatal.
    recovery_error: Exception | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Databases that were opened and not read yet → the manifest with which they were opened.
        self._unread: dict[int, Manifest] = {}
        #: The users of databases that were read when they were opened, until they are loaded or change.
        self._in_memory: dict[int, PartitionState] = {}
        #: Partitions whose database was empty when it was opened, until they are loaded → the applied offset of each of
        #: their users: to ask RocksDB took longer than all the rest of filling it.
        self._filling: dict[int, dict[bytes, int]] = {}
        #: Partition → bytes and writes since its memory table was last emptied.
        self._unflushed: Counter[int] = Counter()
        self._unflushed_writes: Counter[int] = Counter()

    # -- opening --------------------------------------------------------------------------------------------

    async def _try_open_db_for_partition(self, partition: int, *args: Any, **kwargs: Any) -> Any:
        """Open the database of a partition that is ours, and read it into memory while others have their turns."""
        await super()._try_open_db_for_partition(partition, *args, **kwargs)
        if partition in self._unread:
            for _ in self._reading(partition, PartitionState(self.table.lateness_s)):
                await asyncio.sleep(0)
        return self._dbs.get(partition)

    def _open_for_partition(self, partition: int) -> Any:
        for of in (self._unread, self._in_memory, self._filling):
            of.pop(partition, None)
        path = self.partition_path(partition)
        with explained(path):
            manifest = Manifest.of(path)
            try:
                database = super()._open_for_partition(partition)
            except Exception as error:
                if not is_damage(error):
                    raise
                return self._made_anew(partition, error)
        self._unread[partition] = manifest
        return database

    def _made_anew(self, partition: int, error: Exception) -> Any:
        """An empty database in place of a damaged one."""
        path = self.partition_path(partition)
        logger.warning("%s is damaged and is rebuilt from the changelog: %s", path, one_line(error))
        # A copy kept for study would keep what users had erased.
        shutil.rmtree(path)
        self._filling[partition] = {}
        return super()._open_for_partition(partition)

    def _database(self, partition: int) -> Any:
        """The database of a partition, which was read before anything is asked of it."""
        self._db_for_partition(partition)
        if partition in self._unread:
            deque(self._reading(partition, None), maxlen=0)
        return self._dbs[partition]

    def _reading(self, partition: int, state: PartitionState | None) -> Iterator[None]:
        """Read a database whole, so that damage shows now: then it is made anew. Its users go into ``state``."""
        with explained(self.partition_path(partition)):
            try:
                yield from self._reading_whole(partition, state)
                return
            except Exception as error:
                if not is_damage(error):
                    raise
                # Its traceback holds the scan, and a scan keeps the database open.
                damage = error.with_traceback(None)
            del self._unread[partition]
            with suppress(Exception):  # It says of the same damage.
                self._dbs[partition].close()
            self._dbs[partition] = self._made_anew(partition, damage)

    def _reading_whole(self, partition: int, state: PartitionState | None) -> Iterator[None]:
        database = self._dbs[partition]
        for users, values in _chunks(self._rows(database)):
            if state is not None:
                changelog.load(state, users, values)
            yield
            if partition not in self._unread:
                return  # It was read by another meanwhile, who could not wait.
        mark = Mark.read(database.get(self.offset_key))
        mark.check(self._unread[partition])
        del self._unread[partition]
        if mark.offset is None:
            self._filling[partition] = {}
        elif state is not None:
            self._in_memory[partition] = state

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        """Close the databases of partitions that are not ours any more."""
        super().revoke_partitions(table, tps)
        for tp in tps:
            self._in_memory.pop(tp.partition, None)

    # -- reading --------------------------------------------------------------------------------------------

    async def load(self, partition: int) -> PartitionState:
        """All users of a partition, in memory; they are the caller's then."""
        state = self._in_memory.pop(partition, None)
        if state is None:
            state = PartitionState(self.table.lateness_s)
            for users, values in _chunks(self.users(partition)):
                changelog.load(state, users, values)
                await asyncio.sleep(0)
        return state

    def users(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All users of a partition, packed."""
        self._filling.pop(partition, None)
        with explained(self.partition_path(partition)):
            yield from self._rows(self._database(partition))

    def _rows(self, database: Any) -> Iterator[tuple[bytes, bytes]]:
        mark = self.offset_key
        return (row for row in rows(database) if row[0] != mark)

    def persisted_offset(self, tp: TP) -> int | None:
        """The changelog offset up to which the store has everything."""
        with explained(self.partition_path(tp.partition)):
            return Mark.read(self._database(tp.partition).get(self.offset_key)).offset

    # -- writing --------------------------------------------------------------------------------------------

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Note that the store has everything up to this changelog offset."""
        self.write(tp.partition, (), offset)

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:  # noqa: ARG002
        """Apply recovered changelog fetches; one that is older than what the store has would undo users."""
        try:
            for event in batch:
                have = self.persisted_offset(event.message.tp)
                if have is not None and event.message.offset <= have:
                    continue
                newest = self._newest(event.message.partition, event.value)
                self.write(event.message.partition, newest.items(), event.message.offset)
        except Exception as error:
            self.recovery_error = self.recovery_error or error
            raise

    def _newest(self, partition: int, records: Sequence[Any]) -> dict[bytes, bytes | None]:
        """Users → their last values, but for those that have seen less than what the store has.

        Such a value was sent by a worker that had been replaced.
        """
        applied = self._applied_offsets(partition, records)
        newest: dict[bytes, bytes | None] = {}
        for record in records:
            key, value = record.key, record.value
            if value:
                offset = changelog.applied_offset(value)
                if offset < applied.get(key, -1):
                    continue
                applied[key] = offset
            newest[key] = value
        return newest

    def _applied_offsets(self, partition: int, records: Sequence[Any]) -> dict[bytes, int]:
        """How far the store's values of these users have seen the source; to be kept up with what is written."""
        if sum(map(len, self._filling.values())) > _FILLING_MAX:
            self._filling.clear()
        if partition in self._filling:
            return self._filling[partition]
        keys = list({record.key for record in records})
        with explained(self.partition_path(partition)):
            known = self._database(partition).get(keys)
        return {key: changelog.applied_offset(value) for key, value in zip(keys, known, strict=True) if value}

    def write(self, partition: int, items: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        """Write users and the changelog offset that they came with, all or nothing; None deletes."""
        batch, n_bytes = rocksdict.WriteBatch(raw_mode=True), 0
        # In the order of their keys, as RocksDB finds the place of the next beside that of the last.
        for key, value in sorted(items, key=itemgetter(0)):
            n_bytes += len(key) + len(value or b"") + _ENTRY_BYTES
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        path = self.partition_path(partition)
        with explained(path):
            database = self._database(partition)
            batch.put(self.offset_key, Mark(offset, Manifest.of(path)).packed())
            self._in_memory.pop(partition, None)
            database.write(batch)
            self._unflushed[partition] += n_bytes
            self._unflushed_writes[partition] += 1
            slow = self._unflushed_writes[partition] > _SLOW_WRITES
            if self._unflushed[partition] > (_SLOW_FLUSH_BYTES if slow else _FLUSH_BYTES):
                database.flush()
                self._unflushed[partition] = self._unflushed_writes[partition] = 0


class UserTable(faust.Table[bytes, bytes]):
    """The Faust table of users: changelog topic, recovery and partitions are Faust's, the store is ours."""

    #: Of the states that are read from the store.
    lateness_s: float

    def _new_store(self) -> UserStore:
        return UserStore(
            URL("rocksdb://"),
            self.app,
            self,
            table_name=self.name,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            options={
                "driver": "rocksdict",
                "write_buffer_size": _TABLE_BYTES,
                "block_cache_size": 32 * 1024 * 1024,
            },
        )


def _chunks(users: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[list[str], list[bytes]]]:
    """Ids and values of users, some at a time."""
    while chunk := list(islice(users, _CHUNK)):
        yield [key.decode() for key, _ in chunk], [value for _, value in chunk]
