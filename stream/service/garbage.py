"""Garbage: Python's collector looks at what is new, not again and again at all that lives as long as the worker."""

from __future__ import annotations

import gc

__all__ = ["spare_the_living"]


def spare_the_living() -> None:
    """Collect once, and leave what is alive now out of later collections.

    Every second or so a collection of all generations looked through modules, Faust and the state: 50 to 150 ms in
    which no event was taken in. What is spared is still freed when nothing refers to it; cycles of it wait for the
    next call.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
