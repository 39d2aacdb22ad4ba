"""Predictions: raw outputs → the numbers that are published of each user, rounded as they are published."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.columns import DAY_S
from stream.contract.manifest import Manifest
from stream.contract.score import NextCategory
from stream.iso_time import iso_date
from stream.score.calibration import Curves, Ranking, sigmoid, wilson
from stream.score.expectation import days_to_purchase, expected_value, top_categories, value_interval
from stream.score.scorer import RawScores

__all__ = ["PredictionMaker", "Predictions"]

Array = npt.NDArray[Any]
#: A next order later than this is none that anyone can plan for.
_NEXT_PURCHASE_DAYS_MAX: Final = 365.0
_CATEGORIES: Final = 3


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of ``n`` users: arrays ``(heads, n)`` (churn, then purchase by horizon) and ``(n,)``; lists of ``n``.

    ``low`` and ``high`` bound the interval of each probability; ranks are percentiles, a list for each head.
    """

    probability: Array
    low: Array
    high: Array
    rank: list[list[float] | list[None]]
    value: Array
    value_low: Array
    value_high: Array
    value_rank: list[float] | list[None]
    next_purchase: list[str | None]
    next_category: list[list[NextCategory]]


class PredictionMaker:
    """Makes the figures of one model; what depends on its manifest alone is prepared once."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._value_head = manifest.labels.value_head
        self._curves = Curves(manifest.calibration.heads)
        tables = [*(head.percentiles for head in manifest.calibration.heads), manifest.calibration.value_percentiles]
        self._ranking, self._ranked = Ranking(tables), [len(table) > 0 for table in tables]

    def predictions_of(self, as_of: Array, raw: RawScores, enough: Array) -> Predictions:
        """Predictions of ``n`` users at ``as_of`` (seconds); ``enough`` (n,) tells who has sufficient events."""
        labels, calibration = self._manifest.labels, self._manifest.calibration
        p = sigmoid(self._curves.log_odds(np.vstack((raw.churn, raw.purchase.T)), enough))
        buys = p[self._value_head]
        value = (expected_value(buys, raw.value) * calibration.value_factor).round(4)
        bounds = value_interval(buys, raw.value, calibration.value_sigma_factor, calibration.value_shift)
        value_low, value_high = (bounds * calibration.value_factor).round(4).T
        p = p.round(6)
        low, high = wilson(p, self._curves.people(enough))
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

    def _ranks(self, values: Array) -> list[list[float] | list[None]]:
        ranks: list[list[float]] = self._ranking.percentiles_of(values).round(1).tolist()
        return [of if ranked else [None] * len(of) for of, ranked in zip(ranks, self._ranked, strict=True)]

    def _categories(self, logits: Array) -> list[list[NextCategory]]:
        names = self._manifest.categories
        classes, share = top_categories(logits, self._manifest.calibration.category_temperature, _CATEGORIES)
        best = map(NextCategory, [names[c] for c in classes.reshape(-1).tolist()], share.round(6).reshape(-1).tolist())
        return [list(islice(best, classes.shape[1])) for _ in range(len(classes))]


def _dates(as_of: Array, days: Array) -> list[str | None]:
    soon = days <= _NEXT_PURCHASE_DAYS_MAX
    seconds = as_of + np.where(soon, days, 0.0) * DAY_S
    dates = (seconds.astype(np.int64) // DAY_S).tolist()
    return [iso_date(day) if known else None for day, known in zip(dates, soon.tolist(), strict=True)]
