"""Predictions: raw scores → the numbers that are published about each user, rounded as they are published."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from stream.arrays import Floats, Mask, Probabilities, RawOutputs, Seconds
from stream.contract.columns import DAY_S
from stream.contract.manifest import Manifest
from stream.contract.score import NextCategory
from stream.iso_time import iso_date
from stream.score.calibration import Curves, PercentileTables, sigmoid, wilson
from stream.score.expectation import days_to_purchase, expected_value, top_categories, value_interval
from stream.score.scorer import RawScores

__all__ = ["Predictions", "Predictor"]

#: Nobody can plan for an order that is expected later than this, so none is published.
_NEXT_PURCHASE_DAYS_MAX: Final = 365.0
#: How many next categories are published.
_CATEGORIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Predictions of ``n`` users. Probability arrays are ``(heads, n)``: churn first, then purchase by horizon.

    ``low`` and ``high`` bound the interval of each probability. Value arrays are ``(n,)``, in the manifest's currency.
    Ranks are percentiles: a list of ``n`` for each head; None if the manifest has no percentiles.
    """

    probability: Probabilities
    low: Probabilities
    high: Probabilities
    rank: list[list[float] | list[None]]
    value: Floats
    value_low: Floats
    value_high: Floats
    value_rank: list[float] | list[None]
    #: UTC dates; None if the next order is expected too late.
    next_purchase: list[str | None]
    next_category: list[list[NextCategory]]


class Predictor:
    """Turns the raw scores of one model into predictions. All that depends on the manifest alone is prepared once."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._value_head = manifest.labels.value_head
        self._curves = Curves(manifest.calibration.heads)
        tables = [*(head.percentiles for head in manifest.calibration.heads), manifest.calibration.value_percentiles]
        self._tables, self._is_ranked = PercentileTables(tables), [len(table) > 0 for table in tables]

    def predict(self, raw: RawScores, as_of: Seconds, enough: Mask) -> Predictions:
        """Predictions of ``n`` users at ``as_of`` (n,); ``enough`` (n,) says which users have sufficient events."""
        labels, calibration = self._manifest.labels, self._manifest.calibration
        p = sigmoid(self._curves.log_odds(np.vstack((raw.churn, raw.purchase.T)), enough))
        p_buy = p[self._value_head]
        value = (expected_value(p_buy, raw.value) * calibration.value_factor).round(4)
        bounds = value_interval(p_buy, raw.value, calibration.value_sigma_factor, calibration.value_shift)
        value_low, value_high = (bounds * calibration.value_factor).round(4).T
        p = p.round(6)
        low, high = wilson(p, self._curves.n_users(enough))
        *rank, value_rank = self._ranks(np.vstack((p, value)))
        return Predictions(
            probability=p,
            low=low.round(6),
            high=high.round(6),
            rank=rank,
            value=value,
            value_low=value_low,
            value_high=value_high,
            value_rank=value_rank,
            next_purchase=_dates(as_of, days_to_purchase(p[1:].T, labels.purchase_days)),
            next_category=self._categories(raw.category),
        )

    def _ranks(self, values: Floats) -> list[list[float] | list[None]]:
        ranks: list[list[float]] = self._tables.ranks(values).round(1).tolist()
        return [row if is_ranked else [None] * len(row) for row, is_ranked in zip(ranks, self._is_ranked, strict=True)]

    def _categories(self, logits: RawOutputs) -> list[list[NextCategory]]:
        names = self._manifest.categories
        classes, p = top_categories(logits, self._manifest.calibration.category_temperature, _CATEGORIES)
        best = map(NextCategory, [names[c] for c in classes.reshape(-1).tolist()], p.round(6).reshape(-1).tolist())
        return [list(islice(best, classes.shape[1])) for _ in range(len(classes))]


def _dates(as_of: Seconds, days: Floats) -> list[str | None]:
    soon = days <= _NEXT_PURCHASE_DAYS_MAX
    seconds = as_of + np.where(soon, days, 0.0) * DAY_S
    dates = (seconds.astype(np.int64) // DAY_S).tolist()
    return [iso_date(day) if is_soon else None for day, is_soon in zip(dates, soon.tolist(), strict=True)]
