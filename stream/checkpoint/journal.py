"""Journal: keeps the users of one partition on disk, in files that are only appended to.

The first blocks of a journal, however many, are what the store was at one moment. So if a block is damaged or was not
written to its end, the journal is cut off there, and the changelog has the rest. A value that was replaced by a newer
one stays in its file until the files are merged into one. See ``docs/decisions/0014-journal.md``.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np

from stream.arrays import Mask
from stream.checkpoint.byte_strings import ByteStrings
from stream.checkpoint.journal_blocks import Users, blocks, packed_block
from stream.checkpoint.journal_index import JournalIndex, with_room
from stream.checkpoint.packed_values import ROOM

__all__ = ["GROWTH", "Journal", "Piece"]

logger = logging.getLogger(__name__)
#: Files are merged when they have this many times the bytes that count. A larger number writes less, and takes more
#: disk.
GROWTH: Final = 4
#: Files are not merged for fewer replaced bytes than this.
_BYTES_MIN: Final = 8 * 1024 * 1024
#: Files are merged when there are more than this. Each start of a worker begins a file.
_FILES_MAX: Final = 16
#: How much is read or merged before other tasks have their turn: a few milliseconds of work. The bytes are bounded too,
#: because replaced values between the users are read along.
_PIECE_USERS: Final = 10_000
_PIECE_BYTES: Final = 4 * 1024 * 1024
#: Name of the file that a merge writes, before it takes the place of a journal file.
_MERGING: Final = "merging"


class Piece(NamedTuple):
    """Some of the ``n_users`` of a journal: their keys and packed values. It may be empty, to let other tasks run."""

    keys: list[bytes]
    values: ByteStrings
    n_users: int = 0


_EMPTY_PIECE: Final = Piece([], ByteStrings.joined([]))


class Journal:
    """The journal of one partition, in a folder of its own. It raises the system's own OSError."""

    def __init__(self, path: Path) -> None:
        """Lock the folder; make it if it is missing. Raises BlockingIOError if another process has it."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = (path / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise
        #: Number of a journal file → its bytes, in the order in which the files were begun.
        self._file_bytes: dict[int, int] = {}
        #: The last file, if this process has begun it, and the state rows whose keys it has.
        self._file: BinaryIO | None = None
        self._named: Mask = np.zeros(1, bool)
        #: How many state rows there are, and how many there were when the last file was begun.
        self._n_rows = self._n_rows_before = 0
        #: Bytes of values that newer ones have replaced, as far as is known.
        self._replaced_bytes = 0
        #: The changelog offset up to which the journal has everything; None if it has nothing.
        self.offset: int | None = None

    def close(self) -> None:
        """Close the files and unlock the folder."""
        self.end_file()
        self._lock.close()

    # -- opening --------------------------------------------------------------------------------------------

    def opening(self) -> Iterator[None]:
        """Find the files, and cut off what is not whole. Other tasks can run between the steps."""
        (self.path / _MERGING).unlink(missing_ok=True)
        numbers = sorted(int(path.stem) for path in self.path.glob("*.segment"))
        whole_bytes, start = dict[int, int](), 0
        for number in numbers:
            n_bytes, continues = self._path(number).stat().st_size, number == 1 or number - 1 in whole_bytes
            with self._path(number).open("rb") as file:
                for block in blocks(file, n_bytes):
                    if block.starts_over:
                        start, continues = number, True
                    if not continues:
                        break
                    if block.offset >= 0:
                        whole_bytes[number], self.offset = block.end, block.offset
                    yield
            if not 0 < n_bytes == whole_bytes.get(number):
                break
        if start in whole_bytes:
            self._replaced_bytes = sum(whole_bytes.values()) - whole_bytes[start]
        self._cut_off(numbers, whole_bytes)

    def _cut_off(self, numbers: list[int], whole_bytes: dict[int, int]) -> None:
        """Cut each file down to its whole bytes, and remove a file that has none."""
        n_cut = sum(self._path(number).stat().st_size - whole_bytes.get(number, 0) for number in numbers)
        for number in numbers:
            if number in whole_bytes:
                os.truncate(self._path(number), whole_bytes[number])
            else:
                self._path(number).unlink()
        self._file_bytes = whole_bytes
        if n_cut:
            logger.warning(
                "%s: %d bytes are damaged or were not written to their end; what they had is read from the changelog",
                self.path,
                n_cut,
            )

    def _path(self, number: int) -> Path:
        return self.path / f"{number:08d}.segment"

    # -- writing --------------------------------------------------------------------------------------------

    def append(self, users: Users, offset: int) -> None:
        """Write users, and the changelog offset up to which the journal is whole with them: all of it, or nothing."""
        file = self._file or self._begin_file()
        rows, n_rows = users.rows, int(users.rows.max(initial=-1)) + 1
        self._named = with_room(self._named, n_rows)
        data = packed_block(users, self._named, offset)
        number, n_bytes = next(reversed(self._file_bytes.items()))
        try:
            _write(file, data)
        except OSError:
            file.truncate(n_bytes)
            raise
        n_written_before = int(np.count_nonzero((rows < self._n_rows_before) | self._named[rows]))
        self._replaced_bytes += len(data) * n_written_before // max(1, len(rows))
        self._named[rows[rows >= 0]] = True
        self._n_rows = max(self._n_rows, n_rows)
        self._file_bytes[number] = n_bytes + len(data)
        self.offset = offset

    def _begin_file(self) -> BinaryIO:
        self.end_file()
        number = max(self._file_bytes, default=0) + 1
        self._file = self._path(number).open("ab", buffering=0)
        self._file_bytes[number] = 0
        return self._file

    def end_file(self) -> None:
        """Close the last file. The next users go to a new one, because their rows are those of another state."""
        if self._file is not None:
            self._file.close()
            number, n_bytes = next(reversed(self._file_bytes.items()))
            if not n_bytes:
                self._path(number).unlink()
                del self._file_bytes[number]
        self._file, self._named, self._n_rows_before = None, np.zeros(1, bool), self._n_rows

    # -- reading --------------------------------------------------------------------------------------------

    def read(self) -> Iterator[Piece]:
        """Give all users, and let other tasks run in between.

        The users that are written next have the rows of another state.
        """
        self.end_file()
        index = JournalIndex()
        yield from self._pieces(list(self._file_bytes), index)
        self._n_rows = self._n_rows_before = len(index)
        self._replaced_bytes = max(0, self.n_bytes - index.n_bytes)

    def _pieces(self, numbers: list[int], index: JournalIndex) -> Iterator[Piece]:
        """Give each user of these files once, with the value that counts."""
        for number in numbers:
            index.begin_file(number)
            with self._path(number).open("rb") as file:
                for block in blocks(file, self._file_bytes[number]):
                    index.add(block)
                    yield _EMPTY_PIECE
        for number, keys, starts, sizes in index.extents(users_max=_PIECE_USERS, bytes_max=_PIECE_BYTES):
            begin, end = int(starts[0]), int(starts[-1] + max(sizes[-1], ROOM))
            with self._path(number).open("rb") as file:
                file.seek(begin)
                yield Piece(keys, ByteStrings(file.read(end - begin), starts - begin, sizes), len(index))

    # -- merging --------------------------------------------------------------------------------------------

    @property
    def is_long(self) -> bool:
        """Whether a merge is worth its cost."""
        counting = self.n_bytes - self._replaced_bytes
        return self._replaced_bytes > max(_BYTES_MIN, (GROWTH - 1) * counting) or len(self._file_bytes) > _FILES_MAX

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self._file_bytes.values())

    def merging(self) -> Iterator[None]:
        """Merge all files except a new one into one, without replaced values. Other tasks can run between the steps."""
        self._begin_file()
        replaced_bytes = self._replaced_bytes
        *merged, _ = self._file_bytes
        if not merged:
            return
        path, offset = self.path / _MERGING, self.offset
        try:
            yield from self._write_merged(path, merged, offset)
            path.replace(self._path(merged[-1]))
        finally:
            path.unlink(missing_ok=True)
        self._file_bytes[merged[-1]] = self._path(merged[-1]).stat().st_size
        self._replaced_bytes -= replaced_bytes
        for number in merged[:-1]:
            self._path(number).unlink()
            del self._file_bytes[number]

    def _write_merged(self, path: Path, merged: list[int], offset: int | None) -> Iterator[None]:
        """Write the users of these files to ``path``.

        The first block starts the journal over, so nothing in older files counts. The last block has ``offset``.
        """
        with path.open("wb", buffering=0) as file:
            starts_over, named = True, np.zeros(1, bool)
            for piece in self._pieces(merged, JournalIndex()):
                if piece.keys:
                    users = Users.without_rows(piece.keys, piece.values.strings())
                    _write(file, packed_block(users, named, None, starts_over=starts_over))
                    starts_over = False
                yield
            _write(file, packed_block(Users.without_rows([], []), named, offset, starts_over=starts_over))


def _write(file: BinaryIO, data: bytes | bytearray) -> None:
    """Write all of the data; the system may take only a part of it at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
