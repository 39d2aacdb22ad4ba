"""Shares: what share of a set of users was predicted, what share came true, and how well that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.score.calibration import wilson

__all__ = ["Shares", "shares_of_sets"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of ``k`` labelled sets of users, all ``(k,)``: size, predicted and observed share, and its 95 % interval."""

    labels: Sequence[str]
    n: Array
    predicted: Array
    observed: Array
    low: Array
    high: Array

    @staticmethod
    def with_intervals(labels: Sequence[str], n: Array, predicted: Array, observed: Array) -> Shares:
        """With Wilson's interval of each observed share among ``n``."""
        return Shares(labels, n, predicted, observed, *wilson(observed, n))


def shares_of_sets(members: dict[str, Array], p: Array, y: Array) -> Shares:
    """Shares of sets of the examples ``(n,)``, each given as the indices of its members."""
    sets = list(members.values())
    n = np.array([len(rows) for rows in sets])
    means = (np.array([column[rows].mean() for rows in sets]) for column in (p, y))
    return Shares.with_intervals(list(members), n, *means)
