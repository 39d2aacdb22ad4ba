"""Store: the users of our partitions on disk, a RocksDB for each, which the changelog can rebuild at any time.

So a database that is damaged is thrown away, with one warning, and read back from the changelog. A disk that is full
or refuses to be written is not ours to mend: the worker ends and says so; nothing was committed past what is durable.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import faust
import rocksdict
from faust.stores.rocksdb import Store as RocksDBStore
from faust.types import TP
from yarl import URL

from stream import changelog
from stream.errors import ConfigError, ValuestreamError

__all__ = ["UserStore", "UserTable", "require_room"]

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
#: Read ahead by a scan; RocksDB's own 8 to 256 KB are made for disks that seek.
_READAHEAD_BYTES: Final = 2 * 1024 * 1024
#: Of a database that is not there, or that was written before manifests were noted.
_NO_MANIFEST: Final = ("", 0)
#: What a worker must be able to write before it starts; RocksDB writes some 100 KB just to open its databases.
_ROOM_BYTES: Final = 256 * 1024
#: What the machine refuses a database that may be whole, in the words of strerror(3), and what to do about it.
_REFUSED: Final = {
    os.strerror(errno.ENOSPC): "make room on the disk",
    os.strerror(errno.EDQUOT): "make room in the quota",
    os.strerror(errno.EFBIG): "raise the limit on file sizes",
    os.strerror(errno.EROFS): "mount it writable",
    os.strerror(errno.EACCES): "give this user the right to write there",
    os.strerror(errno.EPERM): "give this user the right to write there",
    os.strerror(errno.EMFILE): "raise the limit on open files",
    os.strerror(errno.EIO): "replace the disk",
}


def require_room(data_dir: Path) -> None:
    """Write to the state directory as a trial, make it where it is missing; ConfigError where that is refused."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir) as trial:
            trial.write(bytes(_ROOM_BYTES))
            trial.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"state directory {data_dir} cannot be written: {reason}; expected a directory of this worker's own with"
            f" room for its users; {_REFUSED.get(reason, 'look at its path and its rights')}, or set --data-dir"
        ) from None


class UserStore(RocksDBStore):
    """RocksDB of packed users, a database per partition, written in bulk together with its changelog offset."""

    #: Recovery swallows errors and goes on with a partial table, so the first one is kept here and is fatal.
    recovery_error: Exception | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Partitions whose database was empty when it was opened, until they are loaded → the applied offset of each of
        #: their users: to ask RocksDB took longer than all the rest of filling it.
        self._filling: dict[int, dict[bytes, int]] = {}
        #: Partition → bytes and writes since its memory table was last emptied.
        self._unflushed: Counter[int] = Counter()
        self._unflushed_writes: Counter[int] = Counter()

    def _open_for_partition(self, partition: int) -> Any:
        """Open a database and read all of it, so that damage shows now; a damaged one is made anew, empty."""
        database = self._opened(partition)
        self._filling.pop(partition, None)
        if database.get(self.offset_key) is None:
            self._filling[partition] = {}
        return database

    def _opened(self, partition: int) -> Any:
        path = self.partition_path(partition)
        with self._explained(partition):
            before = _manifest(path)
            try:
                return _whole(super()._open_for_partition(partition), self.offset_key, before)
            except Exception as error:
                if not _is_damage(error):
                    raise
                logger.warning("%s is damaged and is rebuilt from the changelog: %s", path, _one_line(error))
            # A copy kept for study would keep what users had erased.
            shutil.rmtree(path)
            return super()._open_for_partition(partition)

    def persisted_offset(self, tp: TP) -> int | None:
        """The changelog offset up to which the store has everything."""
        with self._explained(tp.partition):
            offset, _ = _mark(self._db_for_partition(tp.partition).get(self.offset_key))
        return offset

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
        with self._explained(partition):
            known = self._db_for_partition(partition).get(keys)
        return {key: changelog.applied_offset(value) for key, value in zip(keys, known, strict=True) if value}

    def write(self, partition: int, items: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        """Write users and the changelog offset that they came with, all or nothing; None deletes."""
        batch, n_bytes = rocksdict.WriteBatch(raw_mode=True), 0
        for key, value in items:
            n_bytes += len(key) + len(value or b"") + _ENTRY_BYTES
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        name, size = _manifest(self.partition_path(partition))
        batch.put(self.offset_key, f"{offset} {name} {size}".encode())
        with self._explained(partition):
            database = self._db_for_partition(partition)
            database.write(batch)
            self._unflushed[partition] += n_bytes
            self._unflushed_writes[partition] += 1
            slow = self._unflushed_writes[partition] > _SLOW_WRITES
            if self._unflushed[partition] > (_SLOW_FLUSH_BYTES if slow else _FLUSH_BYTES):
                database.flush()
                self._unflushed[partition] = self._unflushed_writes[partition] = 0

    def users(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All users of a partition: what stands before the changelog offset, and what stands behind it."""
        with self._explained(partition):
            database, before = self._db_for_partition(partition), _scan()
            self._filling.pop(partition, None)
            before.set_iterate_upper_bound(self.offset_key)
            yield from database.items(read_opt=before)
            yield from database.items(from_key=self.offset_key + b"\0", read_opt=_scan())

    @contextmanager
    def _explained(self, partition: int) -> Iterator[None]:
        """Turn what RocksDB says into one line with the next step; a lock is left to Faust, which waits for it."""
        try:
            yield
        except ValuestreamError:
            raise
        except Exception as error:
            steps = [step for words, step in _REFUSED.items() if words in str(error)]
            if not steps and not _is_damage(error):
                raise
            step = f"{steps[0]}, then start" if steps else "start"
            raise ValuestreamError(
                f"state in {self.partition_path(partition)} cannot be kept: {_one_line(error)}; expected a disk that"
                f" takes it and gives it back; {step} the worker again (what is damaged it rebuilds from the"
                " changelog); nothing was committed past what is durable"
            ) from error


class UserTable(faust.Table[bytes, bytes]):
    """The Faust table of users: changelog topic, recovery and partitions are Faust's, the store is ours."""

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


def _whole(database: Any, offset_key: bytes, manifest: tuple[str, int]) -> Any:
    """The same database after every block of it was read, and found to be what was written.

    RocksDB notices by itself a file that is missing and a block that has changed, but not that the end of its
    ``manifest`` (name, bytes) is gone: it would open with the tables that it knew before, and with the last writes.
    """
    try:
        rows = database.iter(_scan())
        rows.seek_to_first()
        while rows.valid():
            rows.next()
        rows.status()
        _, written = _mark(database.get(offset_key))
        if manifest < written:
            raise OSError(f"Corruption: manifest is {manifest}, but was {written} at the last write")
    except Exception:
        database.close()
        raise
    return database


def _scan() -> Any:
    """Options to read a whole database in order, once: what was read is not kept in memory."""
    options: Any = rocksdict.ReadOptions()
    options.fill_cache(False)
    options.set_readahead_size(_READAHEAD_BYTES)
    return options


def _mark(value: bytes | None) -> tuple[int | None, tuple[str, int]]:
    """Changelog offset of the last write, and the manifest (name, bytes) that RocksDB had then.

    >>> _mark(b"7 MANIFEST-000005 519"), _mark(b"7"), _mark(None)
    ((7, ('MANIFEST-000005', 519)), (7, ('', 0)), (None, ('', 0)))
    """
    if value is None:
        return None, _NO_MANIFEST
    offset, *manifest = value.decode().split()
    return int(offset), (manifest[0], int(manifest[1])) if manifest else _NO_MANIFEST


def _manifest(path: Path) -> tuple[str, int]:
    """Name and size of the manifest of the database there; a later one has a greater name."""
    try:
        name = (path / "CURRENT").read_text().strip()
        return name, (path / name).stat().st_size
    except (OSError, ValueError):
        return _NO_MANIFEST


def _is_damage(error: Exception) -> bool:
    """Whether the files are not what RocksDB wrote; rocksdict has one exception for everything."""
    text = str(error)
    refused = any(words in text for words in _REFUSED)
    return not refused and (text.startswith("Corruption") or os.strerror(errno.ENOENT) in text)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
