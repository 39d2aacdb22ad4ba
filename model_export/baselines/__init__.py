"""Baselines: what a model must be measured against, behind one small interface.

=============  =====================================================================================
linear         ``Recency`` (days since the last event alone) and ``Logistic`` (all features)
trees          ``LightGbm``, on the features or on the features and more columns
bgnbd          ``BgNbd``: BG/NBD and Gamma-Gamma, on the order history alone
=============  =====================================================================================

A baseline's scores are not calibrated: that is done for all models alike, on the validation window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model_export.data.examples import Examples
from stream.contract.manifest import Labels

__all__ = ["Baseline", "Predicted", "log_odds"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Logits ``(n, heads)`` in the order of ``head_names``, and expected value ``(n,)`` in currency units."""

    logits: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]


class Baseline(Protocol):
    """Fitted on training examples; the validation ones choose between settings and stop early."""

    def fit(self, train: Examples, validation: Examples, labels: Labels) -> None:
        """Fit all heads and value; a head with one class only predicts its base rate."""

    def refit(self, recent: Examples, as_of: int) -> None:
        """Fit anew on newer examples, whose labels have closed by ``as_of`` (seconds), with the settings found."""

    def predict(self, examples: Examples) -> Predicted:
        """Scores of examples, which may come from any window."""


def log_odds(p: Array) -> npt.NDArray[np.float64]:
    """Logits of probabilities, which are kept 1e-9 from 0 and 1.

    >>> log_odds(np.array([0.5])).tolist()
    [0.0]
    """
    clipped = np.clip(np.asarray(p, np.float64), 1e-9, 1 - 1e-9)
    out: npt.NDArray[np.float64] = np.log(clipped) - np.log1p(-clipped)
    return out
