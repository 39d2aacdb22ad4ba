"""Rings: the last entries of every user, in one array with a row per user; and runs, by which they are filled.

A batch that is grouped by user has a run for each user in it. Rows are gathered, changed and put back as opaque bytes:
numpy copies those at the speed of memory, and records field by field.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Runs",
    "beginnings",
    "distinct",
    "fault_in",
    "grown",
    "oldest_first",
    "opaque",
    "opaque_rows",
    "order_by_user",
    "order_keys",
    "unrolled",
    "zeros",
]

Array = npt.NDArray[Any]
#: Rows that a grown array has room for at least. Memory is the system's until it is written to, so room costs nothing,
#: and no array is copied again before a partition has this many users.
_ROOM_ROWS = 2**22
#: mmap's own madvise keeps Python's lock while the system works.
_LIBC = ctypes.CDLL(None)
_MADV_POPULATE_WRITE = 23


class Runs(NamedTuple):
    """Runs of equal values in an array that is grouped by user.

    ``rows``, ``starts`` and ``counts`` have an element for each run: its user, where it begins, its length; the longest
    has length ``longest``. ``run_of``, ``rank`` and ``from_end`` have one for each element: its run, and its place
    there from the front and from the end.
    """

    rows: Array
    starts: Array
    counts: Array
    run_of: Array
    rank: Array
    from_end: Array
    longest: int

    @classmethod
    def within(cls, users: Array) -> Runs:
        """The runs of this array.

        >>> runs = Runs.within(np.array([4, 4, 7]))
        >>> runs.rows.tolist(), runs.counts.tolist(), runs.rank.tolist(), runs.from_end.tolist()
        ([4, 7], [2, 1], [0, 1, 0], [1, 0, 0])
        """
        n = len(users)
        is_start = np.ones(n, bool)
        np.not_equal(users[1:], users[:-1], out=is_start[1:])
        starts = is_start.nonzero()[0]
        if len(starts) == n:
            zeros = np.zeros(n, np.int64)
            return cls(users, starts, np.ones(n, np.int64), starts, zeros, zeros, 1)
        ends = np.concatenate((starts[1:], (n,)))
        counts = ends - starts
        of = is_start.cumsum() - 1
        rank = np.arange(n) - starts[of]
        return cls(users[starts], starts, counts, of, rank, counts[of] - 1 - rank, int(counts.max()))

    def slices(self) -> list[slice]:
        """Where each run is."""
        return list(map(slice, self.starts.tolist(), (self.starts + self.counts).tolist()))

    def take(self, which: Array) -> Runs:
        """These elements, where they are whole runs; those left out are runs of no length, so ``run_of`` stays true."""
        of = self.run_of[which]
        counts = np.bincount(of, minlength=len(self.rows))
        return self._replace(counts=counts, run_of=of, rank=self.rank[which], from_end=self.from_end[which])

    def slots(self, following: Array, size: int) -> Array:
        """Where each element goes in rings of this size, of which ``following`` are the next slots."""
        slots: Array = (following[self.run_of] + self.rank) % size
        return slots


def distinct(rows: Array) -> Array:
    """The different ones of these rows, ascending; np.unique asks a hash table, which takes 30 times as long.

    >>> distinct(np.array([7, 4, 7])).tolist(), distinct(np.array([])).tolist()
    ([4, 7], [])
    """
    ordered = np.sort(rows)
    is_first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def order_by_user(users: Array) -> Array:
    """Indices that group by user, in order of arrival: a stable argsort, at the price of a sort of plain numbers.

    >>> order_by_user(np.array([7, 4, 7, 4])).tolist()
    [1, 3, 0, 2]
    """
    bits = len(users).bit_length()
    order: Array = users << bits
    order |= np.arange(len(users))
    order.sort()
    order &= (1 << bits) - 1
    return order


def order_keys(entries: Array) -> Array:
    """Sort keys: event time first, then content, so that equal seconds sort alike however they arrived."""
    content = (
        entries["type"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        + entries["category"].astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        + entries["item"].astype(np.uint64) * np.uint64(0x165667B19E3779F9)
        + entries["value"].astype(np.int64).view(np.uint64) * np.uint64(0x27D4EB2F165667C5)
    )
    keys: Array = (entries["time"].astype(np.uint64) << np.uint64(32)) | (content >> np.uint64(32))
    return keys


def unrolled(ring: Array, length: int, following: int) -> Array:
    """The valid entries of one ring, oldest first."""
    return np.roll(ring, -int(following))[-int(length) :] if length == len(ring) else ring[: int(length)]


def oldest_first(rings: Array, rows: Array, following: Array) -> Array:
    """These rings, each from its slot ``following`` on; shape ``(len(rows), size)``.

    >>> oldest_first(np.array([[4, 5, 3], [1, 2, 0]]), np.array([1, 0]), np.array([0, 2])).tolist()
    [[1, 2, 0], [3, 4, 5]]
    """
    size = rings.shape[1]
    found: Array = opaque_rows(rings)[rows].view(rings.dtype).reshape(-1, size)
    (turned,) = following.nonzero()
    if len(turned):
        slots = (following[turned, None].astype(np.int64) + np.arange(size)) % size
        opaque_rows(found)[turned] = opaque_rows(opaque(rings)[rows[turned, None] * size + slots])
    return found


def beginnings(rings: Array, n_bytes: int) -> Array:
    """The first bytes of every ring, as one item each."""
    return rings.view(np.uint8)[:, :n_bytes].view(f"V{n_bytes}")[:, 0]


def opaque(array: Array) -> Array:
    """The same memory as one row of items of bytes."""
    return array.reshape(-1).view(f"V{array.itemsize}")


def opaque_rows(array: Array) -> Array:
    """The same memory as one item of bytes for each row."""
    row_bytes = array.itemsize * math.prod(array.shape[1:])
    return array.reshape(-1).view(f"V{row_bytes}")


def zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array of zeros in memory of small pages. Raises MemoryError where the system refuses it.

    numpy asks for huge ones, each of which the system zeroes as a whole when it is first touched, and may have to make
    room for: a pause whenever some thousand users are new. Where the host of a virtual machine lends it memory only
    then, such a page took 5 ms, ten times as long as the small ones in its place. Nothing here was faster for them.
    """
    kind = np.dtype(dtype)
    try:
        memory = mmap.mmap(-1, max(1, math.prod(shape) * kind.itemsize), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind, math.prod(shape)).reshape(shape)


def fault_in(array: Array, first: int, last: int) -> None:
    """Have the system give memory for these rows of such an array now, in one call; other threads go on meanwhile.

    Page by page, as each is first touched, takes longer, and it is left to that where the system cannot (Linux before
    5.14).
    """
    begin = array.ctypes.data + first * array.strides[0]
    end = array.ctypes.data + last * array.strides[0]
    begin -= begin % mmap.PAGESIZE
    _LIBC.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_POPULATE_WRITE)


def grown(array: Array, rows: int) -> Array:
    """A copy with at least this many rows, as many as there is room for; the new ones are zero.

    Raises MemoryError where the system refuses even ``rows``.
    """
    room = max(rows, _ROOM_ROWS)
    while True:
        try:
            out = zeros((room, *array.shape[1:]), array.dtype)
            break
        except MemoryError:
            if room == rows:
                raise
            room = max(rows, room // 2)
    out[: len(array)] = array
    return out
