"""Garbage: Python's collector looks at what is new, not again and again at all that lives as long as the worker."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["collect_rarely", "spare_nothing", "spare_the_living"]

#: New objects after which the youngest are looked at, some six fetches of 4,000 records; Python's own is 700.
_YOUNG_MAX: Final = 50_000


def collect_rarely() -> None:
    """Let a fetch be read and folded in without a look at its records.

    A record is two objects that the collector follows, and none of them is ever part of a cycle. But they made it look
    at all of a fetch six times while it was read, which took twice as long as reading it. A look at as many objects as
    this takes a millisecond.
    """
    gc.set_threshold(_YOUNG_MAX)


def spare_the_living() -> None:
    """Collect what is new, and leave what is alive now out of later collections.

    Every second or so a collection of all generations looked through modules, Faust and the state: 50 to 150 ms in
    which no event was taken in. What is spared is still freed when nothing refers to it; cycles of it wait until
    :func:`spare_nothing`.
    """
    gc.collect()
    gc.freeze()


def spare_nothing() -> None:
    """The next collection looks at everything: partitions were given up, and what only they held may be cycles."""
    gc.unfreeze()
