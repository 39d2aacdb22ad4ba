"""Linear baselines: one logistic regression for each head, and a Tweedie regression for value."""

from __future__ import annotations

from typing import Final

import numpy as np
from sklearn.linear_model import LogisticRegression, TweedieRegressor
from sklearn.metrics import log_loss, mean_tweedie_deviance
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from model_export.baselines.baseline import BaselineScores, log_odds
from model_export.data.examples import Examples, Outcomes
from stream.arrays import Floats
from stream.contract.manifest import Labels
from stream.contract.tokens import FEATURES
from stream.score.calibration import sigmoid

__all__ = ["Logistic", "Recency"]

_RECENCY: Final = [FEATURES.index("recency")]
#: Inverse strengths of the L2 penalty. The log-loss on validation chooses one for each head.
_STRENGTHS: Final = (0.001, 0.01, 0.1, 1.0)
_STEPS_MAX: Final = 1_000
#: Strengths of the penalty of the value regression. The deviance on validation chooses one. On both CDNOW and Online
#: Retail, a Tweedie regression had a lower deviance than the odds of a purchase times a ridge regression of log value.
_PENALTIES: Final = (0.01, 0.1, 1.0)
#: Between Poisson (1) and gamma (2): a mass at 0, and a long tail above it.
_POWER: Final = 1.5
#: The smallest predicted value, over the mean. The deviance of a prediction of 0 is infinite.
_RELATIVE_VALUE_MIN: Final = 1e-6


class _Heads:
    """One logistic regression for each head, on standardised columns."""

    def __init__(self, columns: list[int], strengths: tuple[float, ...]) -> None:
        self._columns, self._strengths = columns, strengths
        self._heads: list[Pipeline | float] = []

    def fit(self, train: Examples, validation: Examples) -> None:
        """Fit every head. A head with only one class gets the log-odds of its base rate."""
        heads = zip(train.outcomes.T, validation.outcomes.T, strict=True)
        self._heads = [self._fit(train, y, validation, y_validation) for y, y_validation in heads]

    def refit(self, recent: Examples) -> None:
        """Fit every head again, with the penalty that was chosen."""
        self._heads = [
            self._fit_one(recent, y, 1.0 if isinstance(head, float) else head[-1].C)
            if len(np.unique(y)) == 2
            else float(log_odds(y.mean()))
            for head, y in zip(self._heads, recent.outcomes.T, strict=True)
        ]

    def logits(self, examples: Examples) -> Floats:
        """Logits ``(n, heads)``."""
        return np.column_stack([self._logits(head, examples) for head in self._heads])

    def _fit(self, train: Examples, y: Outcomes, validation: Examples, y_validation: Outcomes) -> Pipeline | float:
        if len(np.unique(y)) < 2:
            return float(log_odds(y.mean()))
        fits = [self._fit_one(train, y, strength) for strength in self._strengths]
        losses = [log_loss(y_validation, sigmoid(self._logits(f, validation)), labels=[0, 1]) for f in fits]
        return fits[int(np.argmin(losses))]

    def _fit_one(self, train: Examples, y: Outcomes, strength: float) -> Pipeline:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_STEPS_MAX))
        return model.fit(_columns(train)[:, self._columns], y)

    def _logits(self, head: Pipeline | float, examples: Examples) -> Floats:
        if isinstance(head, float):
            return np.full(len(examples), head)
        out: Floats = head.decision_function(_columns(examples)[:, self._columns])
        return out


class Recency:
    """Reads nothing but log days since the last event. Value is the probability of a purchase times a buyer's mean."""

    def __init__(self) -> None:
        self._heads = _Heads(_RECENCY, (1.0,))
        self._value_head, self._buyer_value = 0, 0.0

    def fit(self, train: Examples, validation: Examples, labels: Labels) -> None:
        """Fit on ``train``. There is no setting to choose on ``validation``."""
        self._heads.fit(train, validation)
        self._value_head, self._buyer_value = labels.value_head, _buyer_value(train)

    def refit(self, recent: Examples, as_of: int) -> None:  # noqa: ARG002
        """Fit on ``recent`` instead."""
        self._heads.refit(recent)
        self._buyer_value = _buyer_value(recent)

    def predict(self, examples: Examples) -> BaselineScores:
        """Scores of ``examples``."""
        logits = self._heads.logits(examples)
        return BaselineScores(logits, sigmoid(logits[:, self._value_head]) * self._buyer_value)


class Logistic:
    """Reads all features. Value is a Tweedie regression with a log link, cut at the largest value seen."""

    def __init__(self) -> None:
        self._heads = _Heads(list(range(len(FEATURES))), _STRENGTHS)
        self._value: Pipeline | None = None
        self._scale, self._largest = 0.0, 0.0

    def fit(self, train: Examples, validation: Examples, labels: Labels) -> None:  # noqa: ARG002
        """Fit on ``train``, and choose the penalties that do best on ``validation``."""
        self._heads.fit(train, validation)
        self._scale, self._largest = float(train.value.mean()), float(train.value.max())
        if self._scale == 0.0:
            return
        fits = [self._fit_value(train, penalty) for penalty in _PENALTIES]
        actual = validation.value / self._scale
        self._value = min(
            fits, key=lambda f: mean_tweedie_deviance(actual, self._relative(f, validation), power=_POWER)
        )

    def predict(self, examples: Examples) -> BaselineScores:
        """Scores of ``examples``."""
        value = self._scale * self._relative(self._value, examples) if self._value else np.zeros(len(examples))
        return BaselineScores(self._heads.logits(examples), value)

    def refit(self, recent: Examples, as_of: int) -> None:  # noqa: ARG002
        """Fit on ``recent`` instead, with the same penalties."""
        self._heads.refit(recent)
        self._scale, self._largest = float(recent.value.mean()), float(recent.value.max())
        if self._value is not None and self._scale > 0:
            self._value = self._fit_value(recent, self._value[-1].alpha)

    def _fit_value(self, train: Examples, penalty: float) -> Pipeline:
        regression = TweedieRegressor(power=_POWER, alpha=penalty, link="log", max_iter=_STEPS_MAX)
        return make_pipeline(StandardScaler(), regression).fit(_columns(train), train.value / self._scale)

    def _relative(self, model: Pipeline, examples: Examples) -> Floats:
        """Predicted value over the mean of the training examples: penalties mean the same in any currency."""
        out: Floats = np.clip(model.predict(_columns(examples)), _RELATIVE_VALUE_MIN, self._largest / self._scale)
        return out


def _columns(examples: Examples) -> Floats:
    return examples.features.astype(np.float64)


def _buyer_value(examples: Examples) -> float:
    """Mean value of a buyer."""
    buyers = examples.value > 0
    return float(examples.value[buyers].mean()) if buyers.any() else 0.0
