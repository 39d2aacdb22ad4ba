"""Baseline: the interface of all baselines, and how they are scored: calibrated and refitted as the network is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model_export.data.dataset import Dataset
from model_export.data.examples import Examples
from model_export.evaluation.evaluation_folder import Scores
from model_export.settings import Settings
from model_export.training.calibration import calibrate_heads, has_enough, recalibrated_heads, recalibrated_value_factor
from stream.arrays import Floats, Numbers
from stream.contract.manifest import Labels
from stream.score.calibration import probabilities, sigmoid

__all__ = ["Baseline", "BaselineScores", "log_odds", "score_baseline"]


@dataclass(frozen=True, slots=True)
class BaselineScores:
    """Logits ``(n, heads)`` in the order of ``head_names``, and expected value ``(n,)`` in currency units."""

    logits: Floats
    value: Floats


class Baseline(Protocol):
    """A model that is fitted on the training split. The validation split chooses its settings and stops it early."""

    def fit(self, train: Examples, validation: Examples, labels: Labels) -> None:
        """Fit all heads and value. A head with only one class predicts its base rate."""

    def refit(self, recent: Examples, as_of: int) -> None:
        """Fit again with the chosen settings on newer examples. Their labels have closed by ``as_of`` (seconds)."""

    def predict(self, examples: Examples) -> BaselineScores:
        """Scores of examples, which may come from any split."""


def score_baseline(model: Baseline, examples: Dataset, settings: Settings) -> Scores:
    """Scores of the test examples. A head that ranks worse than chance on validation gets its base rate."""
    labels, enough, drift = settings.labels, settings.export.sufficient_events, settings.fit.drift
    validation, test = examples.validation, examples.test
    model.fit(examples.train, validation, labels)
    first = model.predict(validation)
    heads = calibrate_heads(first.logits, validation, labels, enough, strict=False)
    factor = float(validation.value.sum() / max(first.value.sum(), 1e-9))
    model.refit(examples.recent, int(test.as_of.min()))
    refitted, scores = model.predict(validation), model.predict(test)
    heads = recalibrated_heads(heads, refitted.logits, validation, sufficient_events=enough, drift=drift)
    return Scores(
        probabilities(scores.logits, heads, has_enough(test, enough)),
        scores.value * recalibrated_value_factor(factor, refitted.value, validation, drift),
        sigmoid(scores.logits),
        scores.value,
    )


def log_odds(p: Numbers) -> Floats:
    """Log-odds of probabilities, which are kept 1e-9 away from 0 and 1.

    >>> log_odds(np.array([0.5])).tolist()
    [0.0]
    """
    clipped = np.clip(np.asarray(p, np.float64), 1e-9, 1 - 1e-9)
    out: Floats = np.log(clipped) - np.log1p(-clipped)
    return out
