"""Store: the users of our partitions on disk, a RocksDB for each, which the changelog can rebuild at any time.

So a database that is damaged is thrown away, with one warning, and read back from the changelog. A disk that is full
or refuses to be written is not ours to mend: the worker ends and says so; nothing was committed past what is durable.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Final, cast

import faust
import rocksdict
from faust.stores.rocksdb import Store as RocksDBStore
from faust.types import TP
from yarl import URL

from stream import changelog
from stream.database import Manifest, Mark, chunks, explained, is_damage, one_line
from stream.errors import ValuestreamError
from stream.filling import Filling
from stream.restored import ENTRY_BYTES, Restored
from stream.state import PartitionState

__all__ = ["UserStore", "UserTable"]

logger = logging.getLogger(__name__)
#: RocksDB's own size of a memory table, and the bytes after which we empty one, while it cannot be full: by itself
#: RocksDB takes writes meanwhile, and of two logs of writes the older can be lost and the newer kept.
_TABLE_BYTES: Final = 32 * 1024 * 1024
_FLUSH_BYTES: Final = _TABLE_BYTES // 2
#: A table that so many writes (one a second) have not filled is emptied at a quarter: a worker with little to do stays
#: small, and one with much to do has few and large files to merge.
_SLOW_FLUSH_BYTES: Final = _FLUSH_BYTES // 4
_SLOW_WRITES: Final = 60
#: What recovery may bring before it is written: of all databases that are empty, and of one that is not. More of the
#: first is less to write and to merge, more of the second is a longer wait when a standby takes over.
_RESTORED_BYTES: Final = 256 * 1024 * 1024
_RESTORED_MORE_BYTES: Final = _FLUSH_BYTES
#: A standby that gets fewer records at a time has read all there is, and has each of them on disk.
_RESTORED_RECORDS: Final = 500
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
        #: What recovery has brought since the database of a partition was written.
        self._restored: dict[int, Restored] = {}
        #: Databases that are being filled with what recovery brought; its users are loaded already.
        self._filling: dict[int, Filling] = {}
        #: Partition → bytes and writes since its memory table was last emptied.
        self._unflushed: Counter[int] = Counter()
        self._unflushed_writes: Counter[int] = Counter()
        #: Memory tables that are being emptied; RocksDB leaves Python's lock to others meanwhile.
        self._flushing: dict[int, Future[None]] = {}
        self._flusher = ThreadPoolExecutor(1, "flush")

    # -- opening --------------------------------------------------------------------------------------------

    async def _try_open_db_for_partition(self, partition: int, *args: Any, **kwargs: Any) -> Any:
        """Open the database of a partition that is ours, and read it into memory while others have their turns."""
        await super()._try_open_db_for_partition(partition, *args, **kwargs)
        if partition in self._unread:
            for _ in self._reading(partition, PartitionState(self.table.lateness_s)):
                await asyncio.sleep(0)
        return self._dbs.get(partition)

    def _open_for_partition(self, partition: int) -> Any:
        for of in (self._unread, self._in_memory, self._restored, self._filling):
            of.pop(partition, None)
        path = self.partition_path(partition)
        with explained(path):
            Filling.file_of(path).unlink(missing_ok=True)
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
        self._restored[partition] = Restored(alone=True)
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
        for chunk in self._chunks(database):
            if state is not None:
                _load(state, chunk)
            yield
            if partition not in self._unread:
                return  # It was read by another meanwhile, who could not wait.
        mark = Mark.read(database.get(self.offset_key))
        mark.check(self._unread[partition])
        del self._unread[partition]
        if mark.offset is None:
            self._restored[partition] = Restored(alone=True)
        elif state is not None:
            self._in_memory[partition] = state

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        """Close the databases of partitions that are not ours any more."""
        for partition in {tp.partition for tp in tps}:
            self._write_restored(partition)
            self._flushed(partition)
            self._in_memory.pop(partition, None)
        super().revoke_partitions(table, tps)

    async def stop(self) -> None:
        """Write what recovery has brought to standbys; what cannot be written will be read again."""
        for partition in {*self._restored, *self._filling}:
            with suppress(ValuestreamError):
                self._write_restored(partition)
        self._flusher.shutdown()
        await super().stop()

    # -- reading --------------------------------------------------------------------------------------------

    async def load(self, partition: int) -> PartitionState:
        """All users of a partition, in memory; they are the caller's then. They are on disk after :meth:`fill`."""
        self._filled(partition)
        restored, state = self._restored.get(partition), self._in_memory.pop(partition, None)
        if restored is not None and restored.alone:
            del self._restored[partition]
            users = _in_chunks(restored.users)
            if restored.offset is not None:
                self._begin_filling(partition, restored.users, restored.offset)
        else:
            changed = self._write_restored(partition)
            if None in changed.values():
                state = None  # Who is gone since cannot be taken out of it.
            users = self._chunks(self._database(partition)) if state is None else _in_chunks(changed)
        if state is None:
            state = PartitionState(self.table.lateness_s)
        with explained(self.partition_path(partition)):
            for chunk in users:
                _load(state, chunk)
                await asyncio.sleep(0)
        return state

    def users(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All users of a partition, packed."""
        self._write_restored(partition)
        with explained(self.partition_path(partition)):
            yield from chain.from_iterable(self._chunks(self._database(partition)))

    def _chunks(self, database: Any) -> Iterator[list[tuple[bytes, bytes]]]:
        """All users of a database, packed, some at a time."""
        mark = self.offset_key
        for chunk in chunks(database, _CHUNK):
            has_mark = chunk[0][0] <= mark <= chunk[-1][0]
            yield [item for item in chunk if item[0] != mark] if has_mark else chunk

    def persisted_offset(self, tp: TP) -> int | None:
        """The changelog offset up to which the store has everything."""
        for of in (self._restored, self._filling):
            if (found := of.get(tp.partition)) is not None and found.offset is not None:
                return found.offset
        return self._written_offset(tp.partition)

    def _written_offset(self, partition: int) -> int | None:
        with explained(self.partition_path(partition)):
            return Mark.read(self._database(partition).get(self.offset_key)).offset

    # -- writing --------------------------------------------------------------------------------------------

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Note that the store has everything up to this changelog offset."""
        self.write(tp.partition, (), offset)

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:  # noqa: ARG002
        """Apply recovered changelog fetches; one that is older than what the store has would undo users."""
        try:
            for event in batch:
                self._restore(event.message.tp, event.message.offset, event.value)
        except Exception as error:
            self.recovery_error = self.recovery_error or error
            raise

    def _restore(self, tp: TP, offset: int, records: Sequence[Any]) -> None:
        have, partition = self.persisted_offset(tp), tp.partition
        if have is not None and offset <= have:
            return
        self._filled(partition)
        restored = self._restored.setdefault(partition, Restored(alone=False))
        restored.take(records, offset)
        has_all = len(records) < _RESTORED_RECORDS and not self._in_recovery()
        if has_all or (not restored.alone and restored.n_bytes > _RESTORED_MORE_BYTES):
            self._write_restored(partition)
        elif sum(of.n_bytes for of in self._restored.values()) > _RESTORED_BYTES:
            self._write_restored(max(self._restored, key=lambda number: self._restored[number].n_bytes))

    def _in_recovery(self) -> bool:
        """Whether Faust reads the changelogs of partitions that are ours; after that, those of standbys."""
        return bool(cast("Any", self.app.tables).recovery.in_recovery)

    def _write_restored(self, partition: int) -> dict[bytes, bytes | None]:
        """Write what recovery has brought, and return what it has changed."""
        self._filled(partition)
        restored = self._restored.pop(partition, None)
        if restored is None or restored.offset is None:
            return {}
        if restored.alone:
            self._begin_filling(partition, restored.users, restored.offset)
            self._filled(partition)
            return restored.users
        with explained(self.partition_path(partition)):
            changed = restored.newer(self._database(partition).get(list(restored.users)))
        self.write(partition, changed.items(), restored.offset)
        return changed

    def _begin_filling(self, partition: int, users: dict[bytes, bytes | None], offset: int) -> None:
        """Fill an empty database with these users, all that the changelog has up to this offset."""
        path = self.partition_path(partition)
        with explained(path):
            mark = {self.offset_key: Mark(offset, Manifest.of(path)).packed()}
            options = self.rocksdb_options.as_options()
            self._filling[partition] = Filling(self._database(partition), path, options, users | mark, offset)

    def fill(self) -> None:
        """Begin to write what was loaded before it was on disk; others have their turns meanwhile."""
        self.add_future(self._fill())

    async def _fill(self) -> None:
        """Go on to fill. What is held is for the next who writes, who is also told of an error."""
        for filling in list(self._filling.values()):
            for _ in filling.steps:
                await asyncio.sleep(0)

    def _filled(self, partition: int) -> None:
        """Fill the database of a partition to its end, if it is being filled, and write what was held."""
        filling = self._filling.get(partition)
        if filling is None:
            return
        with explained(self.partition_path(partition)):
            filling.finish()
        del self._filling[partition]
        if filling.held:
            self.write(partition, filling.held.items(), filling.offset)

    def write(self, partition: int, items: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        """Write users and the changelog offset that they came with, all or nothing; None deletes."""
        path = self.partition_path(partition)
        filling = self._filling.get(partition)
        if filling is not None and not filling.done:
            with explained(path):
                filling.hold(items, offset)
            return
        batch, n_bytes = _batch(items)
        with explained(path):
            database = self._database(partition)
            self._write_restored(partition)
            self._flushed(partition)
            batch.put(self.offset_key, Mark(offset, Manifest.of(path)).packed())
            self._in_memory.pop(partition, None)
            database.write(batch)
            self._flush_if_large(partition, n_bytes)

    def _flush_if_large(self, partition: int, n_bytes: int) -> None:
        """Begin to empty the memory table of a partition, to which so many bytes came, if that is due."""
        self._unflushed[partition] += n_bytes
        self._unflushed_writes[partition] += 1
        slow = self._unflushed_writes[partition] > _SLOW_WRITES
        if self._unflushed[partition] > (_SLOW_FLUSH_BYTES if slow else _FLUSH_BYTES):
            self._flushing[partition] = self._flusher.submit(self._dbs[partition].flush)
            self._unflushed[partition] = self._unflushed_writes[partition] = 0

    def _flushed(self, partition: int) -> None:
        """Wait until the memory table of a partition is empty, if it is being emptied."""
        flushing = self._flushing.pop(partition, None)
        if flushing is not None:
            with explained(self.partition_path(partition)):
                flushing.result()


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


def _batch(items: Iterable[tuple[bytes, bytes | None]]) -> tuple[Any, int]:
    """A batch of writes, and the bytes that they take in a memory table."""
    batch, n_bytes = rocksdict.WriteBatch(raw_mode=True), 0
    put, delete = batch.put, batch.delete
    # In the order of their keys, as RocksDB finds the place of the next beside that of the last.
    for key, value in sorted(items, key=itemgetter(0)):
        if value is None:
            delete(key)
        else:
            n_bytes += len(value)
            put(key, value)
        n_bytes += len(key) + ENTRY_BYTES
    return batch, n_bytes


def _in_chunks(changed: Mapping[bytes, bytes | None]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Users who are not gone, some at a time."""
    items = iter(changed.items())
    while chunk := list(islice(items, _CHUNK)):
        yield [(key, value) for key, value in chunk if value]


def _load(state: PartitionState, users: Sequence[tuple[bytes, bytes]]) -> None:
    changelog.load(state, [key.decode() for key, _ in users], [value for _, value in users])
