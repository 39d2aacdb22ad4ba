"""ByteStrings: many byte strings in one piece of memory, so that numpy can look into all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.arrays import Bytes, Counts, Opaque, Slots

__all__ = ["ByteStrings", "cut", "every_slice"]


@dataclass(frozen=True, slots=True)
class ByteStrings:
    """Byte strings in ``data``: where each starts, and its size in bytes; shapes ``(n,)``.

    There may be other bytes between them.
    """

    data: bytes | memoryview
    starts: Slots
    sizes: Counts

    @classmethod
    def joined(cls, strings: Sequence[bytes]) -> ByteStrings:
        """Join these byte strings.

        >>> ByteStrings.joined([b"ann", b"", b"bo"]).strings()
        [b'ann', b'', b'bo']
        """
        sizes = np.fromiter(map(len, strings), np.int64, len(strings))
        return cls(b"".join(strings), np.cumsum(sizes) - sizes, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def strings(self) -> list[bytes]:
        """Return each byte string by itself."""
        return _slices(bytes(self.data), self.starts, self.starts + self.sizes)


def cut(data: bytes, sizes: Counts) -> list[bytes]:
    """Cut the data into consecutive byte strings of these sizes."""
    ends = np.cumsum(sizes)
    return _slices(data, ends - sizes, ends)


def _slices(data: bytes, starts: Slots, ends: Slots) -> list[bytes]:
    return [data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def every_slice(data: bytes | memoryview | Bytes, size: int) -> Opaque:
    """Return every slice of ``size`` bytes as one item: item i begins at byte i. Nothing is copied."""
    if len(data) < size:
        return np.empty(0, f"V{size}")
    return np.ndarray((len(data) - size + 1,), f"V{size}", data, strides=(1,))
