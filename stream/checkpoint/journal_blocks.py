"""Journal blocks: a checkpoint appends one block of users to a journal file. A block is read whole, or not at all.

Layout of a block, little-endian: head · an ``ENTRY`` for each user · keys · values. The head has a checksum of
everything after it. A user with a state row has their key only in the first block of the file that names the row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import BinaryIO, Final, NamedTuple

import numpy as np
import xxhash

from stream.arrays import Mask, Opaque, Rows

__all__ = ["ENTRY", "Block", "Users", "blocks", "packed_block"]

_MAGIC: Final = b"VSG1"
#: Magic bytes and checksum.
_CHECKED: Final = struct.Struct("<4sQ")
#: Whether the journal starts over, the changelog offset (-1: a later block completes this checkpoint), the number of
#: users, the bytes of keys, and the bytes of values.
_HEAD: Final = struct.Struct("<?qIQQ")
#: One user: the state row (-1: none), the size of the key (0: this file has it already) and the size of the value
#: (0: the user is gone).
ENTRY: Final = np.dtype([("row", "<i4"), ("key_size", "<u2"), ("value_size", "<u4")])


class Users(NamedTuple):
    """Users as they are written. Each key stands once. A value of None is a tombstone, a row of -1 means no row."""

    keys: Sequence[bytes]
    values: Sequence[bytes | None]
    rows: Rows

    @classmethod
    def without_rows(cls, keys: Sequence[bytes], values: Sequence[bytes | None]) -> Users:
        """Make users that have no row in a state."""
        return cls(keys, values, np.full(len(keys), -1, np.int64))


class Block(NamedTuple):
    """One block as it was read. ``entries`` have the dtype ``ENTRY``; ``values_at`` and ``end`` are places in the file.

    ``offset`` is the changelog offset up to which the journal has everything with this block, or -1 if a later block
    completes this checkpoint. ``starts_over`` says that nothing that was written before counts any more.
    """

    starts_over: bool
    offset: int
    entries: Opaque
    keys: bytes
    values: memoryview
    values_at: int
    end: int


def packed_block(users: Users, named: Mask, offset: int | None, *, starts_over: bool = False) -> bytearray:
    """Pack users into a block. ``named`` says of each state row whether the file already has its key.

    ``offset`` is None if a later block completes this checkpoint.
    """
    values = [value or b"" for value in users.values]
    is_new = (users.rows < 0) | ~named[users.rows]
    entries = np.zeros(len(values), ENTRY)
    entries["row"] = users.rows
    entries["key_size"] = np.fromiter(map(len, users.keys), np.int64, len(values)) * is_new
    entries["value_size"] = np.fromiter(map(len, values), np.int64, len(values))
    keys = b"".join(compress(users.keys, is_new.tolist()))
    n_value_bytes = int(entries["value_size"].sum(dtype=np.int64))
    head = _HEAD.pack(starts_over, -1 if offset is None else offset, len(values), len(keys), n_value_bytes)
    block = bytearray().join((bytes(_CHECKED.size), head, entries.tobytes(), keys, *values))
    _CHECKED.pack_into(block, 0, _MAGIC, xxhash.xxh3_64_intdigest(memoryview(block)[_CHECKED.size :]))
    return block


def blocks(file: BinaryIO, size: int) -> Iterator[Block]:
    """Read the blocks of a file from its beginning, up to the first that is not whole. The file has ``size`` bytes."""
    start = 0
    while (block := _block(file, start, size)) is not None:
        start = block.end
        yield block


def _block(file: BinaryIO, start: int, size: int) -> Block | None:
    head = file.read(_CHECKED.size + _HEAD.size)
    if len(head) < _CHECKED.size + _HEAD.size:
        return None
    magic, checksum = _CHECKED.unpack_from(head)
    starts_over, offset, n_users, n_key_bytes, n_value_bytes = _HEAD.unpack_from(head, _CHECKED.size)
    n_bytes = n_users * ENTRY.itemsize + n_key_bytes + n_value_bytes
    end = start + len(head) + n_bytes
    if magic != _MAGIC or end > size:
        return None
    data = file.read(n_bytes)
    digest = xxhash.xxh3_64(head[_CHECKED.size :])
    digest.update(data)
    if digest.intdigest() != checksum:
        return None
    entries = np.frombuffer(data, ENTRY, n_users)
    keys_at, values_at = n_users * ENTRY.itemsize, n_users * ENTRY.itemsize + n_key_bytes
    values = memoryview(data)[values_at:]
    return Block(starts_over, offset, entries, data[keys_at:values_at], values, end - n_value_bytes, end)
