"""Store: the users of our partitions on disk, a journal for each, which the changelog can make anew at any time.

A disk that is full or refuses to be written is not ours to mend: the worker ends and says so; nothing was committed
past what is durable.
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
from stream.state.partition_state import PartitionState

__all__ = ["UserStore", "UserTable"]

logger = logging.getLogger(__name__)
#: How often, and how many times, a journal that another process has is asked for: it ends, or gives its partition up.
_LOCK_RETRY_S: Final = 1.0
_LOCK_TRIES: Final = 30
#: Users for whom memory is asked in a thread while they are read.
_MANY_USERS: Final = 10_000


class UserStore(Store[bytes, bytes]):
    """Packed users on disk, a journal per partition, each with the changelog offset up to which it has everything."""

    table: UserTable
    #: Recovery swallows errors and goes on with a partial table, so the first one is kept here and is fatal.
    recovery_error: Exception | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._journals: dict[int, Journal] = {}
        #: Partition → the steps that merge the segments of its journal, and what made them fail.
        self._merging: dict[int, Iterator[None]] = {}
        self._merge_errors: dict[int, Exception] = {}
        #: The users of a partition whose changelog recovery reads, each with a number in place of a state row.
        self._numbers: dict[int, dict[bytes, int]] = {}
        self._one_merge = asyncio.Lock()
        self._one_rebalance = asyncio.Lock()

    def partition_path(self, partition: int) -> Path:
        """The folder of a partition's journal."""
        return Path(self.app.conf.tabledir) / f"{self.table_name}-{partition}"

    # -- opening and closing --------------------------------------------------------------------------------

    def _journal(self, partition: int) -> Journal:
        """The journal of a partition, opened now where it is not."""
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
        """Open the journal of a partition that is ours, which another process of this machine may still have."""
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
                    return  # It may not be ours any more.

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
        """Close the journals of partitions that are not ours any more, and open those of partitions that are now."""
        changelogs = self.table.changelog_topic.topics
        async with self._one_rebalance:
            for tp in revoked:
                if tp.topic in changelogs:
                    self._close(tp.partition)
            for tp in newly_assigned - cast("Any", self.app).assignor.assigned_standbys():
                if tp.topic in changelogs:
                    await self._open(tp.partition, generation_id)

    async def need_active_standby_for(self, tp: TP) -> bool:
        """Whether this worker is to keep a copy of a partition: not where another of this folder has it."""
        try:
            self._journal(tp.partition)
        except BlockingIOError:
            return False
        return True

    async def stop(self) -> None:
        """Let go of all journals."""
        for partition in list(self._journals):
            self._close(partition)
        await super().stop()

    async def backup_partition(self, *_: Any, **__: Any) -> None:
        """Not there: the changelog is the copy."""
        raise NotImplementedError

    def restore_backup(self, *_: Any, **__: Any) -> None:
        """Not there: the changelog is the copy."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Remove what is on disk."""
        for partition in list(self._journals):
            self._close(partition)
        with suppress(FileNotFoundError):
            shutil.rmtree(Path(self.app.conf.tabledir))

    # -- reading --------------------------------------------------------------------------------------------

    async def load(self, partition: int) -> PartitionState:
        """All users of a partition, in memory; they are the caller's then."""
        state, giving = PartitionState(self.table.lateness_s), None
        for piece in self._read(partition):
            if piece.n_users >= _MANY_USERS and giving is None:
                state.make_room(piece.n_users)
                giving = asyncio.get_running_loop().run_in_executor(None, state.fault_in, piece.n_users)
            _load(state, piece)
            await asyncio.sleep(0)
        if giving is not None:
            await giving
        return state

    def users(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All users of a partition, packed."""
        for piece in self._read(partition):
            yield from zip(piece.keys, piece.values.strings(), strict=True)

    def _read(self, partition: int) -> Iterator[Piece]:
        self._stop_merging(partition)
        self._numbers.pop(partition, None)
        with explained(self.partition_path(partition)):
            yield from self._journal(partition).read()

    def persisted_offset(self, tp: TP) -> int | None:
        """The changelog offset up to which the store has everything."""
        return self._journal(tp.partition).offset

    # -- writing --------------------------------------------------------------------------------------------

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Note that the store has everything up to this changelog offset."""
        self.write(tp.partition, Users.without_rows([], []), offset)

    def write(self, partition: int, users: Users, offset: int) -> None:
        """Write users and the changelog offset that they came with, all or nothing."""
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
        """Merge the segments of a journal while others have their turns; its error is one of the next write."""
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
        """Leave the segments as they are, where they are being merged."""
        merging = self._merging.pop(partition, None)
        if merging is not None:
            cast("Any", merging).close()

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:  # noqa: ARG002
        """Apply recovered changelog fetches; one that is older than what the store has would undo users."""
        try:
            for event in batch:
                self._restore(event.message.tp, event.message.offset, event.value)
        except Exception as error:
            self.recovery_error = self.recovery_error or error
            raise

    def _restore(self, tp: TP, offset: int, records: Sequence[Any]) -> None:
        have = self.persisted_offset(tp)
        if have is None or offset > have:
            self.write(tp.partition, self._numbered(tp.partition, _each_once(records)), offset)

    def _numbered(self, partition: int, users: Users) -> Users:
        """The same with numbers while recovery reads, which comes upon each user again and again."""
        if not self._in_recovery():
            if self._numbers.pop(partition, None):
                self._journal(partition).end_segment()
            return users
        if partition not in self._numbers:
            self._journal(partition).end_segment()
        known = self._numbers.setdefault(partition, {})
        return users._replace(rows=np.array([known.setdefault(key, len(known)) for key in users.keys], np.int64))

    def _in_recovery(self) -> bool:
        """Whether Faust reads the changelogs of partitions that are ours; after that, those of standbys."""
        return bool(cast("Any", self.app.tables).recovery.in_recovery)


class UserTable(faust.Table[bytes, bytes]):
    """The Faust table of users: changelog topic, recovery and partitions are Faust's, the store is ours."""

    #: Of the states that are read from the store.
    lateness_s: float

    def _new_store(self) -> UserStore:
        return UserStore(URL("journal://"), self.app, self, table_name=self.name)


def _each_once(records: Sequence[Any]) -> Users:
    """What a fetch of the changelog says of each user in the end; the last counts, unless it has seen less."""
    keys, values = list(map(attrgetter("key"), records)), list(map(attrgetter("value"), records))
    users: dict[bytes, bytes | None] = dict(zip(keys, values, strict=True))
    if len(users) < len(keys):
        users.clear()
        for key, value in zip(keys, values, strict=True):
            before = users.get(key)
            if not value or not before or changelog.applied_offset(value) >= changelog.applied_offset(before):
                users[key] = value
    return Users.without_rows(list(users), list(users.values()))


def _load(state: PartitionState, users: Piece) -> None:
    changelog.load_strings(state, list(map(bytes.decode, users.keys)), users.values, all_new=True)
