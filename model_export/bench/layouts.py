"""Layouts: how a batch of histories with different lengths is laid out in arrays before it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from stream.arrays import Counts, Rows
from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import LENGTHS
from stream.score.encode import padded_length

__all__ = ["Layout", "bucketed", "to_full", "to_longest", "without_padding"]

#: Takes the history lengths of a batch. Yields the rows that are run at once, and how many positions each row takes.
Layout: TypeAlias = Callable[[Counts], Iterator[tuple[Rows, Counts]]]


def bucketed(lengths: Counts) -> Iterator[tuple[Rows, Counts]]:
    """As the worker does: users with similar history lengths are run together."""
    padded = np.array([padded_length(n) for n in range(HISTORY_LEN + 1)])[lengths]
    for length in LENGTHS:
        if len(rows := np.flatnonzero(padded == length)):
            yield rows, padded[rows]


def to_longest(lengths: Counts) -> Iterator[tuple[Rows, Counts]]:
    """Every user is padded to the longest history of the batch."""
    yield np.arange(len(lengths)), np.full_like(lengths, padded_length(int(lengths.max())))


def to_full(lengths: Counts) -> Iterator[tuple[Rows, Counts]]:
    """Every user is padded to the longest history that there can be."""
    yield np.arange(len(lengths)), np.full_like(lengths, HISTORY_LEN)


def without_padding(lengths: Counts) -> Iterator[tuple[Rows, Counts]]:
    """There are as many positions as there are events."""
    yield np.arange(len(lengths)), lengths
