"""Memory of the columns: reserve room for many users early, and take it from the system only as users come."""

from __future__ import annotations

import ctypes
import math
import mmap
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["fault_in", "grown", "zeros"]

#: A grown array has room for at least this many rows. The system gives memory only when it is written to, so room costs
#: nothing, and no array is copied again before a partition has this many users.
_ROOM_ROWS = 2**22
#: We call madvise through ctypes, because mmap's own madvise keeps Python's lock while the system works.
_LIBC = ctypes.CDLL(None)
_MADV_POPULATE_WRITE = 23

Cell = TypeVar("Cell", bound=np.generic)


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros in memory of small pages. Raises MemoryError if the system refuses the memory.

    numpy asks for huge pages. The system zeroes a huge page as a whole when it is first touched, and may have to make
    room for it first: the stream paused whenever a few thousand users were new. On a virtual machine that gets memory
    from its host only at that moment, such a page took 5 ms, ten times as long as the small pages in its place. Nothing
    here was faster with huge pages.
    """
    kind = np.dtype(dtype)
    try:
        memory = mmap.mmap(-1, max(1, math.prod(shape) * kind.itemsize), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind, math.prod(shape)).reshape(shape)


def fault_in(array: NDArray[Any], first: int, end: int) -> None:
    """Let the system give memory for the rows ``first`` to ``end`` (exclusive) now, in one call.

    Other threads go on meanwhile. Without it the system gives each page when it is first touched, which takes longer;
    that is still what happens where the system cannot do it early (Linux before 5.14).
    """
    begin = array.ctypes.data + first * array.strides[0]
    end_address = array.ctypes.data + end * array.strides[0]
    begin -= begin % mmap.PAGESIZE
    _LIBC.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end_address - begin), _MADV_POPULATE_WRITE)


def grown(array: NDArray[Cell], rows: int) -> NDArray[Cell]:
    """A copy with room for more rows, at least ``rows``; the new ones are zero.

    It has room for 2**22 rows, or for fewer if the system refuses that much memory. Raises MemoryError if the system
    refuses even ``rows``.
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
