"""Position: how far the source of a partition is done, as text in Kafka's commit metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Position"]

_METADATA: Final = re.compile(r"v1:([0-9]{1,10}):([0-9]{1,10}\.[0-9]{3})")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a partition is taken in, and the event time that belongs to it.

    ``offset`` is the next offset to be read. ``watermark`` is the largest event time before it, and ``arrival`` is when
    the event that raised the watermark was taken in, both in seconds since 1970. The watermark decides which events are
    late. So a replay from ``offset`` must start with the watermark of ``offset``, and not with a later one that the
    state had already reached. See ``docs/decisions/0003-watermark-in-the-commit.md``.
    """

    offset: int = 0
    watermark: int = 0
    arrival: float = 0.0

    def metadata(self) -> str:
        """Return watermark and arrival as text for Kafka's commit metadata.

        >>> Position.read(7, Position(7, 1_700_000_000, 1.5).metadata())
        Position(offset=7, watermark=1700000000, arrival=1.5)
        """
        return f"v1:{self.watermark}:{self.arrival:.3f}"

    @classmethod
    def read(cls, offset: int, metadata: str) -> Position:
        """Read what :meth:`metadata` wrote. A commit that another tool made has no watermark and no arrival."""
        ours = _METADATA.fullmatch(metadata)
        return cls(offset, int(ours[1]), float(ours[2])) if ours else cls(offset)
