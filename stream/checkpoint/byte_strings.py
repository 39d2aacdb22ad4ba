"""ByteStrings: many byte strings one after the other in one, so that numpy can look into all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ByteStrings", "cut", "every_slice"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ByteStrings:
    """Byte strings in ``data``: where each starts, and its size; shapes ``(n,)``. Between them may be others."""

    data: bytes | memoryview
    starts: Array
    sizes: Array

    @classmethod
    def joined(cls, strings: Sequence[bytes]) -> ByteStrings:
        """These, joined.

        >>> ByteStrings.joined([b"ann", b"", b"bo"]).strings()
        [b'ann', b'', b'bo']
        """
        sizes = np.fromiter(map(len, strings), np.int64, len(strings))
        return cls(b"".join(strings), np.cumsum(sizes) - sizes, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def strings(self) -> list[bytes]:
        """Each by itself."""
        return _slices(bytes(self.data), self.starts, self.starts + self.sizes)


def cut(data: bytes, sizes: Array) -> list[bytes]:
    """The data cut into pieces of these sizes."""
    ends = np.cumsum(sizes)
    return _slices(data, ends - sizes, ends)


def _slices(data: bytes, starts: Array, ends: Array) -> list[bytes]:
    return [data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def every_slice(data: bytes | memoryview | Array, size: int) -> Array:
    """Every piece of this many bytes, as one item each: element i begins at byte i."""
    if len(data) < size:
        return np.empty(0, f"V{size}")
    return np.ndarray((len(data) - size + 1,), f"V{size}", data, strides=(1,))
