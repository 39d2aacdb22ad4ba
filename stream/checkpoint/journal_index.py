"""Journal index: finds, while a journal is read, where the value of each user lies that counts.

The last value of a user counts, unless it has seen fewer events than one before it. Such a value was sent by a worker
that had been replaced; see ``docs/decisions/0011-membership-lease.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from stream.arrays import Counts, Numbers, Offsets, Slots
from stream.checkpoint.byte_strings import ByteStrings, cut
from stream.checkpoint.journal_blocks import ENTRY, Block
from stream.checkpoint.packed_values import applied_offsets

__all__ = ["Extent", "JournalIndex", "with_room"]

#: A place holds the number of a journal file and, in its lower 44 bits, a position in that file.
_PLACE_BITS: Final = 44


class Extent(NamedTuple):
    """Users with values that lie in one file: keys, positions of the values in the file, and their sizes."""

    file_number: int
    keys: list[bytes]
    starts: Slots
    sizes: Counts


class JournalIndex:
    """Where the value of each user lies. Users have numbers, in the order in which they are met."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[bytes, int] = {}
        #: Bytes of all keys that were read. A user whose key was read twice is counted twice.
        self._key_bytes = 0
        #: By user number: place and size of the value (size 0: the user is gone), and its applied offset.
        self._places: Slots = np.zeros(0, np.int64)
        self._sizes: Counts = np.zeros(0, np.int64)
        self._applied: Offsets = np.zeros(0, np.int64)
        #: By state row: the number of each user whose key the current file has.
        self._number_of_row: Slots = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Count the users, including those who are gone."""
        return len(self._numbers)

    @property
    def n_bytes(self) -> int:
        """Bytes that one file with only the values that count would have."""
        return int(self._sizes.sum()) + self._key_bytes + ENTRY.itemsize * len(self)

    def begin_file(self, number: int) -> None:
        """Note that the next blocks are from the journal file with this number."""
        self._file_number = number
        self._number_of_row = np.zeros(0, np.int64)

    def add(self, block: Block) -> None:
        """Take in the users of a block."""
        if block.starts_over:
            self._forget()
        numbers = self._numbers_of(block)
        n = len(self._numbers)
        self._places, self._sizes = with_room(self._places, n), with_room(self._sizes, n)
        self._applied = with_room(self._applied, n)
        sizes: Counts = block.entries["value_size"].astype(np.int64)
        starts: Slots = np.cumsum(sizes) - sizes
        applied = applied_offsets(ByteStrings(block.values, starts, sizes))
        counts = (sizes == 0) | (self._sizes[numbers] == 0) | (applied >= self._applied[numbers])
        counting = numbers[counts]
        self._places[counting] = (self._file_number << _PLACE_BITS) + block.values_at + starts[counts]
        self._sizes[counting], self._applied[counting] = sizes[counts], applied[counts]

    def _numbers_of(self, block: Block) -> Slots:
        """Return the number of each user of a block. A user without a number gets the next one."""
        rows, key_sizes, known = block.entries["row"], block.entries["key_size"], self._numbers
        has_key = key_sizes > 0
        numbers: Slots = np.zeros(len(rows), np.int64)
        self._key_bytes += len(block.keys)
        keys = cut(block.keys, key_sizes[has_key])
        if known.keys().isdisjoint(keys):
            numbers[has_key] = np.arange(len(known), len(known) + len(keys))
            known.update(zip(keys, range(len(known), len(known) + len(keys)), strict=True))
        else:
            numbers[has_key] = [known.setdefault(key, len(known)) for key in keys]
        self._number_of_row = with_room(self._number_of_row, int(rows.max(initial=-1)) + 1)
        has_key_and_row = has_key & (rows >= 0)
        self._number_of_row[rows[has_key_and_row]] = numbers[has_key_and_row]
        numbers[~has_key] = self._number_of_row[rows[~has_key]]
        return numbers

    def extents(self, *, users_max: int, bytes_max: int) -> Iterator[Extent]:
        """Give all users who are not gone, in the order in which their values lie.

        An extent has at most ``users_max`` users, and its values start within ``bytes_max`` bytes.
        """
        keys = np.fromiter(self._numbers, object, len(self))
        living = np.flatnonzero(self._sizes)
        living = living[np.argsort(self._places[living])]
        places, sizes = self._places[living], self._sizes[living]
        begin = 0
        while begin < len(living):
            number = int(places[begin]) >> _PLACE_BITS
            last_place = min(int(places[begin]) + bytes_max, ((number + 1) << _PLACE_BITS) - 1)
            end = min(begin + users_max, int(np.searchsorted(places, last_place, side="right")))
            starts = places[begin:end] - (number << _PLACE_BITS)
            yield Extent(number, keys[living[begin:end]].tolist(), starts, sizes[begin:end])
            begin = end


def with_room(array: Numbers, n: int) -> Numbers:
    """Return the array with at least ``n`` elements; new ones are 0. If it must grow, its length at least doubles."""
    return array if n <= len(array) else np.concatenate((array, np.zeros(max(n - len(array), len(array)), array.dtype)))
