"""Journal: the users of one partition on disk, in segments that are only ever appended to.

Every beginning of a journal is what the store was at one moment, so what is damaged, or was not written to its end, is
cut off with all that follows, and read back from the changelog. What newer values have replaced stays until the
segments are merged into one.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.checkpoint.byte_strings import ByteStrings, cut
from stream.checkpoint.changelog import ROOM, applied_offsets
from stream.checkpoint.journal_blocks import ENTRY, Block, Users, blocks, packed_block

__all__ = ["GROWTH", "Journal", "Piece"]

logger = logging.getLogger(__name__)
Array = npt.NDArray[Any]
#: Segments are merged when they have so many times the bytes that count: more writes less, and takes more disk. With
#: fewer bytes that do not count than this, and fewer segments (each start begins one), they are not.
GROWTH: Final = 4
_BYTES_MIN: Final = 8 * 1024 * 1024
_SEGMENTS_MAX: Final = 16
#: Users read or merged before others have their turn, a few milliseconds; and bytes, as what was replaced is read too.
_PIECE_USERS: Final = 10_000
_PIECE_BYTES: Final = 4 * 1024 * 1024
#: A place is the number of a segment and, in so many bits, one in its file.
_PLACE_BITS: Final = 44
_MERGING: Final = "merging"


class Piece(NamedTuple):
    """Some of ``n_users``: their keys and packed values. One without users only gives others their turn."""

    keys: list[bytes]
    values: ByteStrings
    n_users: int = 0


_TURN: Final = Piece([], ByteStrings.joined([]))


class Journal:
    """The segments of one partition, in a folder of their own. What it raises is OSError, as the system said it."""

    def __init__(self, path: Path) -> None:
        """Take the folder, which is made where it is missing. Raises BlockingIOError where another has it."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = (path / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise
        #: Number of a segment → its bytes, in the order in which they were begun.
        self._segments: dict[int, int] = {}
        #: The last segment, where we have begun it, and which state rows it has named.
        self._file: BinaryIO | None = None
        self._named: Array = np.zeros(1, bool)
        #: State rows that there are, and those that there were when the last segment was begun.
        self._n_rows = self._n_rows_before = 0
        #: Bytes of users who were written again since, as far as is known.
        self._replaced_bytes = 0
        #: The changelog offset up to which it has everything; None where it has nothing.
        self.offset: int | None = None

    def close(self) -> None:
        """Let go of the folder."""
        self.end_segment()
        self._lock.close()

    # -- opening --------------------------------------------------------------------------------------------

    def opening(self) -> Iterator[None]:
        """Find what there is, and cut off what is not whole; others have their turns between steps."""
        (self.path / _MERGING).unlink(missing_ok=True)
        found = sorted(int(path.stem) for path in self.path.glob("*.segment"))
        whole, begins_anew = dict[int, int](), 0
        for number in found:
            n_bytes, follows = self._path(number).stat().st_size, number == 1 or number - 1 in whole
            with self._path(number).open("rb") as file:
                for block in blocks(file, n_bytes):
                    if block.anew:
                        begins_anew, follows = number, True
                    if not follows:
                        break
                    if block.offset >= 0:
                        whole[number], self.offset = block.end, block.offset
                    yield
            if not 0 < n_bytes == whole.get(number):
                break
        if begins_anew in whole:
            self._replaced_bytes = sum(whole.values()) - whole[begins_anew]
        self._cut_off(found, whole)

    def _cut_off(self, found: list[int], whole: dict[int, int]) -> None:
        """Leave of the segments that were found what is whole: so many bytes of each."""
        n_cut = sum(self._path(number).stat().st_size - whole.get(number, 0) for number in found)
        for number in found:
            if number in whole:
                os.truncate(self._path(number), whole[number])
            else:
                self._path(number).unlink()
        self._segments = whole
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
        """Add users, and the changelog offset up to which they are all there is: all of it, or nothing."""
        file = self._file or self._begin_segment()
        rows, beyond = users.rows, int(users.rows.max(initial=-1)) + 1
        self._named = _with_room(self._named, beyond)
        data = packed_block(users, self._named, offset)
        number, n_bytes = next(reversed(self._segments.items()))
        try:
            _write(file, data)
        except OSError:
            file.truncate(n_bytes)
            raise
        n_again = int(np.count_nonzero((rows < self._n_rows_before) | self._named[rows]))
        self._replaced_bytes += len(data) * n_again // max(1, len(rows))
        self._named[rows[rows >= 0]] = True
        self._n_rows = max(self._n_rows, beyond)
        self._segments[number] = n_bytes + len(data)
        self.offset = offset

    def _begin_segment(self) -> BinaryIO:
        self.end_segment()
        number = max(self._segments, default=0) + 1
        self._file = self._path(number).open("ab", buffering=0)
        self._segments[number] = 0
        return self._file

    def end_segment(self) -> None:
        """Begin another with the next users: their rows are those of another state."""
        if self._file is not None:
            self._file.close()
            number, n_bytes = next(reversed(self._segments.items()))
            if not n_bytes:
                self._path(number).unlink()
                del self._segments[number]
        self._file, self._named, self._n_rows_before = None, np.zeros(1, bool), self._n_rows

    # -- reading --------------------------------------------------------------------------------------------

    def read(self) -> Iterator[Piece]:
        """All users, and between them turns for others. Who is written next has the rows of another state."""
        self.end_segment()
        index = _Index()
        yield from self._pieces(list(self._segments), index)
        self._n_rows = self._n_rows_before = len(index)
        self._replaced_bytes = max(0, self.n_bytes - index.n_bytes)

    def _pieces(self, segments: list[int], index: _Index) -> Iterator[Piece]:
        """Each user of these segments once, with the value that counts."""
        for number in segments:
            index.begin(number)
            with self._path(number).open("rb") as file:
                for block in blocks(file, self._segments[number]):
                    index.add(block)
                    yield _TURN
        for number, keys, starts, sizes in index.pieces():
            begin, end = int(starts[0]), int(starts[-1] + max(sizes[-1], ROOM))
            with self._path(number).open("rb") as file:
                file.seek(begin)
                yield Piece(keys, ByteStrings(file.read(end - begin), starts - begin, sizes), len(index))

    # -- merging --------------------------------------------------------------------------------------------

    @property
    def is_long(self) -> bool:
        """Whether merging is worth it."""
        counting = self.n_bytes - self._replaced_bytes
        return self._replaced_bytes > max(_BYTES_MIN, (GROWTH - 1) * counting) or len(self._segments) > _SEGMENTS_MAX

    @property
    def n_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(self._segments.values())

    def merging(self) -> Iterator[None]:
        """Put all segments but one that begins now into one, without what was replaced; in steps."""
        self._begin_segment()
        replaced_bytes = self._replaced_bytes
        *merged, _ = self._segments
        if not merged:
            return
        path, offset, index = self.path / _MERGING, self.offset, _Index()
        try:
            with path.open("wb", buffering=0) as file:
                anew, nobody = True, np.zeros(1, bool)
                for piece in self._pieces(merged, index):
                    if piece.keys:
                        users = Users.without_rows(piece.keys, piece.values.strings())
                        _write(file, packed_block(users, nobody, None, anew=anew))
                        anew = False
                    yield
                _write(file, packed_block(Users.without_rows([], []), nobody, offset, anew=anew))
            path.replace(self._path(merged[-1]))
        finally:
            path.unlink(missing_ok=True)
        self._segments[merged[-1]] = self._path(merged[-1]).stat().st_size
        self._replaced_bytes -= replaced_bytes
        for number in merged[:-1]:
            self._path(number).unlink()
            del self._segments[number]


def _with_room(array: Array, n: int) -> Array:
    """The same with at least so many elements, zeros behind, and at least doubled where that takes a copy."""
    return array if n <= len(array) else np.concatenate((array, np.zeros(max(n - len(array), len(array)), array.dtype)))


def _write(file: BinaryIO, data: bytes | bytearray) -> None:
    """Write all of it: the system may take a part of it at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


class _Index:
    """Where the value of each user lies that counts: the last, unless it has seen less than one before it.

    Such a value was sent by a worker that had been replaced. Users have numbers in the order in which they are met.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[bytes, int] = {}
        #: Of all keys that were named; of who was named twice, too much.
        self._key_bytes = 0
        #: By number: place and size of the value (0: gone), and the source offset that it has seen.
        self._places: Array = np.zeros(0, np.int64)
        self._sizes: Array = np.zeros(0, np.int64)
        self._seen: Array = np.zeros(0, np.int64)
        #: By state row, the number of each user who is named in this segment.
        self._of_row: Array = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Users, those who are gone included."""
        return len(self._numbers)

    @property
    def n_bytes(self) -> int:
        """Bytes of what counts, as one segment would have it."""
        return int(self._sizes.sum()) + self._key_bytes + ENTRY.itemsize * len(self)

    def begin(self, segment: int) -> None:
        """The next blocks are of this segment."""
        self._segment = segment
        self._of_row = np.zeros(0, np.int64)

    def add(self, block: Block) -> None:
        """Take in what a block has."""
        if block.anew:
            self._forget()
        numbers = self._numbers_of(block)
        n = len(self._numbers)
        self._places, self._sizes, self._seen = (_with_room(of, n) for of in (self._places, self._sizes, self._seen))
        sizes = block.entries["value_size"].astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        seen = applied_offsets(ByteStrings(block.values, starts, sizes))
        counts = (sizes == 0) | (self._sizes[numbers] == 0) | (seen >= self._seen[numbers])
        which = numbers[counts]
        self._places[which] = (self._segment << _PLACE_BITS) + block.values_at + starts[counts]
        self._sizes[which], self._seen[which] = sizes[counts], seen[counts]

    def _numbers_of(self, block: Block) -> Array:
        """The number of each user of a block, made for those who have none."""
        rows, key_sizes, known = block.entries["row"], block.entries["key_size"], self._numbers
        is_named = key_sizes > 0
        numbers = np.zeros(len(rows), np.int64)
        self._key_bytes += len(block.keys)
        keys = cut(block.keys, key_sizes[is_named])
        if known.keys().isdisjoint(keys):
            numbers[is_named] = np.arange(len(known), len(known) + len(keys))
            known.update(zip(keys, range(len(known), len(known) + len(keys)), strict=True))
        else:
            numbers[is_named] = [known.setdefault(key, len(known)) for key in keys]
        self._of_row = _with_room(self._of_row, int(rows.max(initial=-1)) + 1)
        of_state = is_named & (rows >= 0)
        self._of_row[rows[of_state]] = numbers[of_state]
        numbers[~is_named] = self._of_row[rows[~is_named]]
        return numbers

    def pieces(self) -> Iterator[tuple[int, list[bytes], Array, Array]]:
        """All who are not gone as they lie: segment, keys, where their values start in its file, and their sizes."""
        keys = np.fromiter(self._numbers, object, len(self))
        living = np.flatnonzero(self._sizes)
        living = living[np.argsort(self._places[living])]
        places, sizes = self._places[living], self._sizes[living]
        at = 0
        while at < len(living):
            segment = int(places[at]) >> _PLACE_BITS
            last_place = min(int(places[at]) + _PIECE_BYTES, ((segment + 1) << _PLACE_BITS) - 1)
            end = min(at + _PIECE_USERS, int(np.searchsorted(places, last_place, side="right")))
            yield segment, keys[living[at:end]].tolist(), places[at:end] - (segment << _PLACE_BITS), sizes[at:end]
            at = end
