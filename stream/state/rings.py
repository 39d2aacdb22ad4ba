"""Rings: read the last entries of users from arrays that hold one ring per user.

Rings are gathered, changed and put back as opaque bytes: numpy copies those at the speed of memory, and records field
by field.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.arrays import Opaque, Rows, Slots

__all__ = ["beginnings", "oldest_first", "opaque", "opaque_rows", "unrolled"]

#: What a ring holds.
Entry = TypeVar("Entry", bound=np.generic)


def unrolled(ring: NDArray[Entry], length: int, next_slot: int) -> NDArray[Entry]:
    """The valid entries of one ring, oldest first."""
    return np.roll(ring, -int(next_slot))[-int(length) :] if length == len(ring) else ring[: int(length)]


def oldest_first(rings: NDArray[Entry], rows: Rows, next_slots: Slots) -> NDArray[Entry]:
    """The rings of these rows, each turned so that it begins with its slot ``next_slots``; shape ``(len(rows), size)``.

    >>> oldest_first(np.array([[4, 5, 3], [1, 2, 0]]), np.array([1, 0]), np.array([0, 2])).tolist()
    [[1, 2, 0], [3, 4, 5]]
    """
    size = rings.shape[1]
    entries: NDArray[Entry] = opaque_rows(rings)[rows].view(rings.dtype).reshape(-1, size)
    (turned,) = next_slots.nonzero()
    if len(turned):
        slots = (next_slots[turned, None].astype(np.int64) + np.arange(size)) % size
        opaque_rows(entries)[turned] = opaque_rows(opaque(rings)[rows[turned, None] * size + slots])
    return entries


def beginnings(rings: NDArray[Any], n_bytes: int) -> Opaque:
    """The first ``n_bytes`` bytes of every ring, as one item each; the same memory."""
    return rings.view(np.uint8)[:, :n_bytes].view(f"V{n_bytes}")[:, 0]


def opaque(array: NDArray[Any]) -> Opaque:
    """The same memory as a flat array, with one item of raw bytes for each element."""
    return array.reshape(-1).view(f"V{array.itemsize}")


def opaque_rows(array: NDArray[Any]) -> Opaque:
    """The same memory as a flat array, with one item of raw bytes for each row."""
    row_bytes = array.itemsize * math.prod(array.shape[1:])
    return array.reshape(-1).view(f"V{row_bytes}")
