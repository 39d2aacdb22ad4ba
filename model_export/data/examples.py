"""Examples: columns of labelled examples. An example is one user at one instant.

Its inputs are the state after all events of the user up to that second. Its labels are what came after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stream.arrays import FeatureRows, Floats, Mask, Offsets, Rows, Seconds

__all__ = ["CategoryBuckets", "Examples", "Outcomes", "StoredTokens"]

#: Token channels as examples keep them, ``(n, positions, channels)``: half the size of the int32 that the model takes.
StoredTokens: TypeAlias = npt.NDArray[np.uint16]
#: What came true: 0 or 1.
Outcomes: TypeAlias = npt.NDArray[np.float32]
#: Hash buckets of categories; 0 means none.
CategoryBuckets: TypeAlias = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Examples:
    """``n`` labelled examples. Value is in currency units.

    ``user`` is an index into the names of the users. ``category`` is the hash bucket of the category of the next event
    that has one, and 0 if there is none within the horizon.
    """

    tokens: StoredTokens
    features: FeatureRows
    churn: Outcomes
    purchase: Outcomes
    value: Floats
    category: CategoryBuckets
    user: Rows
    as_of: Seconds
    applied_offset: Offsets
    at_event: Mask

    def __len__(self) -> int:
        return len(self.user)

    @property
    def outcomes(self) -> Outcomes:
        """What came true ``(n, heads)``, 0 or 1: churn first, then purchase by horizon."""
        return np.column_stack((self.churn, self.purchase))

    def take(self, rows: Rows) -> Examples:
        """These rows only."""
        return Examples(*(getattr(self, f.name)[rows] for f in fields(self)))

    def thinned(self, rows_max: int, rng: np.random.Generator) -> Examples:
        """At most ``rows_max`` rows, drawn without looking at them; they keep their order."""
        if len(self) <= rows_max:
            return self
        return self.take(np.sort(rng.choice(len(self), rows_max, replace=False)))

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The rows of several, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))
