"""Table: the Faust table of users, and its store: a journal on disk for each of our partitions.

The changelog can rebuild the store at any time. If the disk is full or refuses writes, the worker says so and ends;
nothing was committed past what is durable.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, cast

import faust
import numpy as np
from faust.stores.base import Store
from faust.types import TP
from yarl import URL

from stream.checkpoint import changelog
from stream.checkpoint.disk import explained
from stream.checkpoint.journal import Journal, Piece
from stream.checkpoint.journal_blocks import Users
from stream.checkpoint.packed_values import applied_offset
from stream.state.partition_state import PartitionState

__all__ = ["UserStore", "UserTable"]

logger = logging.getLogger(__name__)
#: Another process of this machine may have a journal until it ends or gives its partition up. We try to open the
#: journal this many times, with this pause in between.
_LOCK_RETRY_S: Final = 1.0
_LOCK_TRIES: Final = 30
#: For so many users, a thread asks the system for their memory while they are read.
_MANY_USERS: Final = 10_000


class UserStore(Store[bytes, bytes]):
    """Packed users on disk, in one journal per partition.

    Each journal knows the changelog offset up to which it has everything.
    """

    table: UserTable
    #: Faust's recovery goes on with a partial table after an error (fault 5b). So the first error is kept here, and the
    #: worker ends with it.
    recovery_error: Exception | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._journals: dict[int, Journal] = {}
        #: Partition → the steps of the merge of its journal that is under way.
        self._merging: dict[int, Iterator[None]] = {}
        #: Partition → the error that ended the last merge.
        self._merge_errors: dict[int, Exception] = {}
        #: Partition → the users that recovery has read. Each has a number, which stands for a state row.
        self._numbers: dict[int, dict[bytes, int]] = {}
        self._one_merge = asyncio.Lock()
        self._one_rebalance = asyncio.Lock()

    def partition_path(self, partition: int) -> Path:
        """Return the folder of a partition's journal."""
        return Path(self.app.conf.tabledir) / f"{self.table_name}-{partition}"

    # -- opening and closing --------------------------------------------------------------------------------

    def _journal(self, partition: int) -> Journal:
        """Return the journal of a partition; open it if it is not open."""
        if partition not in self._journals:
            for _ in self._opening(partition):
                pass
        return self._journals[partition]

    def _opening(self, partition: int) -> Iterator[None]:
        path = self.partition_path(partition)
        with explained(path):
            journal = Journal(path)
            try:
                yield from journal.opening()
            except BaseException:
                journal.close()
                raise
        self._journals[partition] = journal

    async def _open(self, partition: int, generation_id: int) -> None:
        """Open the journal of a partition of ours. Wait if another process of this machine still has it."""
        for tries_left in reversed(range(_LOCK_TRIES)):
            try:
                if partition not in self._journals:
                    for _ in self._opening(partition):
                        await asyncio.sleep(0)
                return
            except BlockingIOError:
                if not tries_left:
                    raise
                logger.info("%s is another process's yet; waiting", self.partition_path(partition))
                await self.sleep(_LOCK_RETRY_S)
                if generation_id != cast("Any", self.app).consumer_generation_id:
                    return  # There was a rebalance, so the partition may not be ours any more.

    def _close(self, partition: int) -> None:
        self._stop_merging(partition)
        self._numbers.pop(partition, None)
        self._merge_errors.pop(partition, None)
        journal = self._journals.pop(partition, None)
        if journal is not None:
            journal.close()

    async def on_rebalance(
        self,
        assigned: set[TP],  # noqa: ARG002 - Faust's signature
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Close the journals of partitions that we lost, and open those of partitions that we got (fault 19)."""
        changelogs = self.table.changelog_topic.topics
        async with self._one_rebalance:
            for tp in revoked:
                if tp.topic in changelogs:
                    self._close(tp.partition)
            for tp in newly_assigned - cast("Any", self.app).assignor.assigned_standbys():
                if tp.topic in changelogs:
                    await self._open(tp.partition, generation_id)

    async def need_active_standby_for(self, tp: TP) -> bool:
        """Return whether this worker is to keep a copy of a partition.

        It is not to if another worker with the same folder has the journal.
        """
        try:
            self._journal(tp.partition)
        except BlockingIOError:
            return False
        return True

    async def stop(self) -> None:
        """Close all journals."""
        for partition in list(self._journals):
            self._close(partition)
        await super().stop()

    async def backup_partition(self, *_: Any, **__: Any) -> None:
        """Not supported: the changelog is the backup."""
        raise NotImplementedError

    def restore_backup(self, *_: Any, **__: Any) -> None:
        """Not supported: the changelog is the backup."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Remove all journals from the disk."""
        for partition in list(self._journals):
            self._close(partition)
        with suppress(FileNotFoundError):
            shutil.rmtree(Path(self.app.conf.tabledir))

    # -- reading --------------------------------------------------------------------------------------------

    async def load(self, partition: int) -> PartitionState:
        """Read all users of a partition into memory. The state then belongs to the caller."""
        state, faulting_in = PartitionState(self.table.lateness_s, self.table.currency), None
        for piece in self._read(partition):
            if piece.n_users >= _MANY_USERS and faulting_in is None:
                state.make_room(piece.n_users)
                faulting_in = asyncio.get_running_loop().run_in_executor(None, state.fault_in, piece.n_users)
            _load(state, piece)
            await asyncio.sleep(0)
        if faulting_in is not None:
            await faulting_in
        return state

    def users(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Give all users of a partition: key and packed value."""
        for piece in self._read(partition):
            yield from zip(piece.keys, piece.values.strings(), strict=True)

    def _read(self, partition: int) -> Iterator[Piece]:
        self._stop_merging(partition)
        self._numbers.pop(partition, None)
        with explained(self.partition_path(partition)):
            yield from self._journal(partition).read()

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the changelog offset up to which the store has everything."""
        return self._journal(tp.partition).offset

    # -- writing --------------------------------------------------------------------------------------------

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Note that the store has everything up to this changelog offset."""
        self.write(tp.partition, Users.without_rows([], []), offset)

    def write(self, partition: int, users: Users, offset: int) -> None:
        """Write users and the changelog offset that they came with: all of it, or nothing.

        Raises the error of the last merge, if it failed.
        """
        if partition in self._merge_errors:
            raise self._merge_errors[partition]
        journal = self._journal(partition)
        with explained(journal.path):
            journal.append(users, offset)
        if journal.is_long and partition not in self._merging and not self._in_recovery():
            self._begin_merging(partition)

    def _begin_merging(self, partition: int) -> None:
        steps = self._merging[partition] = self._journal(partition).merging()
        self.add_future(self._merge(partition, steps))

    async def _merge(self, partition: int, steps: Iterator[None]) -> None:
        """Merge the files of a journal, and let other tasks run between steps. The next write raises its error."""
        async with self._one_merge:
            try:
                with explained(self.partition_path(partition)):
                    for _ in steps:
                        await asyncio.sleep(0)
            except Exception as error:
                if self._merging.get(partition) is steps:
                    self._merge_errors[partition] = error
            if self._merging.get(partition) is steps:
                del self._merging[partition]

    def _stop_merging(self, partition: int) -> None:
        """Stop a merge that is under way; the files stay as they are."""
        merging = self._merging.pop(partition, None)
        if merging is not None:
            cast("Any", merging).close()

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:  # noqa: ARG002
        """Apply fetches of the changelog. A fetch that the store has already is left out: it would undo users."""
        try:
            for event in batch:
                self._restore(event.message.tp, event.message.offset, event.value)
        except Exception as error:
            self.recovery_error = self.recovery_error or error
            raise

    def _restore(self, tp: TP, offset: int, records: Sequence[Any]) -> None:
        persisted = self.persisted_offset(tp)
        if persisted is None or offset > persisted:
            self.write(tp.partition, self._numbered(tp.partition, _each_once(records)), offset)

    def _numbered(self, partition: int, users: Users) -> Users:
        """Return the same users, with numbers in place of state rows while recovery reads.

        Recovery comes upon each user again and again. With a number the journal stores the user's key only once.
        """
        if not self._in_recovery():
            if self._numbers.pop(partition, None):
                self._journal(partition).end_file()
            return users
        if partition not in self._numbers:
            self._journal(partition).end_file()
        known = self._numbers.setdefault(partition, {})
        return users._replace(rows=np.array([known.setdefault(key, len(known)) for key in users.keys], np.int64))

    def _in_recovery(self) -> bool:
        """Return whether Faust is recovering partitions of ours. After that it reads changelogs for standbys only."""
        return bool(cast("Any", self.app.tables).recovery.in_recovery)


class UserTable(faust.Table[bytes, bytes]):
    """The Faust table of users. Faust does changelog topic, recovery and partitions; the store is ours."""

    #: The lateness of the states that are read from the store, and the currency of their money.
    lateness_s: float
    currency: str

    def _new_store(self) -> UserStore:
        return UserStore(URL("journal://"), self.app, self, table_name=self.name)


def _each_once(records: Sequence[Any]) -> Users:
    """Return each user of a changelog fetch once, with the value that counts.

    The last value counts, unless it has seen fewer events than one before it. Such a value was sent by a worker that
    had been replaced (``docs/decisions/0011-membership-lease.md``).
    """
    keys, values = list(map(attrgetter("key"), records)), list(map(attrgetter("value"), records))
    users: dict[bytes, bytes | None] = dict(zip(keys, values, strict=True))
    if len(users) < len(keys):
        users.clear()
        for key, value in zip(keys, values, strict=True):
            before = users.get(key)
            if not value or not before or applied_offset(value) >= applied_offset(before):
                users[key] = value
    return Users.without_rows(list(users), list(users.values()))


def _load(state: PartitionState, users: Piece) -> None:
    changelog.load_strings(state, list(map(bytes.decode, users.keys)), users.values, all_new=True)
