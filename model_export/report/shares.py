"""Shares: what share of a set of users was predicted, what share came true, and the interval of that share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.arrays import Counts, Floats, Numbers, Probabilities, Rows
from stream.score.calibration import wilson

__all__ = ["Shares", "shares_of_sets"]


@dataclass(frozen=True, slots=True)
class Shares:
    """``k`` named sets of users: size, predicted share, observed share and its 95 % interval, all ``(k,)``."""

    labels: Sequence[str]
    n: Counts
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats

    @staticmethod
    def with_intervals(labels: Sequence[str], n: Counts, predicted: Floats, observed: Floats) -> Shares:
        """Add the Wilson interval of each observed share among ``n`` users."""
        return Shares(labels, n, predicted, observed, *wilson(observed, n))


def shares_of_sets(members: dict[str, Rows], p: Probabilities, y: Numbers) -> Shares:
    """Shares of named sets of examples. ``members`` holds the rows of each set, ``p`` and ``y`` are ``(n,)``."""
    sets = list(members.values())
    n = np.array([len(rows) for rows in sets])
    means = (np.array([column[rows].mean() for rows in sets]) for column in (p, y))
    return Shares.with_intervals(list(members), n, *means)
