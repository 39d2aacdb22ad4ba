"""Segment: a file to which each checkpoint appends a block of users; a block is read whole, or the file ends there.

Layout of a block, little-endian: head · an ``ENTRY`` for each user · keys · values. A user with a state row has their
key in the first block of the segment that has the row, and not again. The head has a checksum of all that follows it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["ENTRY", "Block", "Users", "blocks", "packed_block"]

Array = npt.NDArray[Any]
_MAGIC: Final = b"VSG1"
_CHECKED: Final = struct.Struct("<4sQ")
#: Whether what came before counts no more, the changelog offset (-1: it goes on), users, bytes of keys and of values.
_HEAD: Final = struct.Struct("<?qIQQ")
#: One user: state row (-1: none), size of the key (0: this segment has it already) and of the value (0: they are gone).
ENTRY: Final = np.dtype([("row", "<i4"), ("key_size", "<u2"), ("value_size", "<u4")])


class Users(NamedTuple):
    """Users as they are written: keys, each once, packed values (None: gone), and state rows (-1: without one)."""

    keys: Sequence[bytes]
    values: Sequence[bytes | None]
    rows: Array

    @classmethod
    def without_rows(cls, keys: Sequence[bytes], values: Sequence[bytes | None]) -> Users:
        """Users of whom there is no state in memory."""
        return cls(keys, values, np.full(len(keys), -1, np.int64))


class Block(NamedTuple):
    """One block as it was read; ``values_at`` and ``end`` are places in the file, ``entries`` are of ``ENTRY``.

    ``offset`` is the changelog offset up to which the segments have everything with this block; -1 where that is so
    only with a later one. ``anew`` says that nothing counts of what was written before.
    """

    anew: bool
    offset: int
    entries: Array
    keys: bytes
    values: memoryview
    values_at: int
    end: int


def packed_block(users: Users, named: Array, offset: int | None, *, anew: bool = False) -> bytearray:
    """Users as a block; ``named`` says of each state row whether the segment has its key already."""
    values = [value or b"" for value in users.values]
    is_new = (users.rows < 0) | ~named[users.rows]
    entries = np.zeros(len(values), ENTRY)
    entries["row"] = users.rows
    entries["key_size"] = np.fromiter(map(len, users.keys), np.int64, len(values)) * is_new
    entries["value_size"] = np.fromiter(map(len, values), np.int64, len(values))
    keys = b"".join(compress(users.keys, is_new.tolist()))
    n_value_bytes = int(entries["value_size"].sum(dtype=np.int64))
    head = _HEAD.pack(anew, -1 if offset is None else offset, len(values), len(keys), n_value_bytes)
    block = bytearray().join((bytes(_CHECKED.size), head, entries.tobytes(), keys, *values))
    _CHECKED.pack_into(block, 0, _MAGIC, xxhash.xxh3_64_intdigest(memoryview(block)[_CHECKED.size :]))
    return block


def blocks(file: BinaryIO, size: int) -> Iterator[Block]:
    """The blocks of a file of this size from its beginning on, up to the first that is not whole."""
    at = 0
    while (block := _block(file, at, size)) is not None:
        at = block.end
        yield block


def _block(file: BinaryIO, at: int, size: int) -> Block | None:
    head = file.read(_CHECKED.size + _HEAD.size)
    if len(head) < _CHECKED.size + _HEAD.size:
        return None
    magic, checksum = _CHECKED.unpack_from(head)
    anew, offset, n, n_key_bytes, n_value_bytes = _HEAD.unpack_from(head, _CHECKED.size)
    n_bytes = n * ENTRY.itemsize + n_key_bytes + n_value_bytes
    end = at + len(head) + n_bytes
    if magic != _MAGIC or end > size:
        return None
    data = file.read(n_bytes)
    digest = xxhash.xxh3_64(head[_CHECKED.size :])
    digest.update(data)
    if digest.intdigest() != checksum:
        return None
    entries = np.frombuffer(data, ENTRY, n)
    keys_at, values_at = n * ENTRY.itemsize, n * ENTRY.itemsize + n_key_bytes
    values = memoryview(data)[values_at:]
    return Block(anew, offset, entries, data[keys_at:values_at], values, end - n_value_bytes, end)
