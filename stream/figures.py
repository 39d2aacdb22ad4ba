"""Figures: raw outputs → the numbers that are published of each user, rounded as they are published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.calibration import percentile, probabilities, wilson
from stream.contract.columns import DAY_S
from stream.contract.manifest import Manifest
from stream.contract.score import NextCategory
from stream.expectation import days_to_purchase, expected_value, top_categories, value_interval
from stream.score import RawScores

__all__ = ["Figures", "figures_of"]

Array = npt.NDArray[Any]
#: A next order later than this is none that anyone can plan for.
_NEXT_PURCHASE_DAYS_MAX: Final = 365.0
_CATEGORIES: Final = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """Of ``n`` users: arrays ``(n, heads)`` (churn, then purchase by horizon) and ``(n,)``; lists of ``n``.

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


def figures_of(manifest: Manifest, as_of: Array, raw: RawScores, enough: Array) -> Figures:
    """Figures of ``n`` users at ``as_of`` (seconds); ``enough`` (n,) tells who has sufficient events."""
    labels, calibration = manifest.labels, manifest.calibration
    heads = calibration.heads
    p = probabilities(raw.logits, heads, enough)
    buys = p[:, labels.value_head]
    value = np.round(expected_value(buys, raw.value) * calibration.value_factor, 4)
    bounds = value_interval(buys, raw.value, calibration.value_sigma_factor, calibration.value_shift)
    bounds = np.round(bounds * calibration.value_factor, 4)
    people = np.where(enough[:, None], [head.enough.n for head in heads], [head.few.n for head in heads])
    p = np.round(p, 6)
    low, high = (np.round(bound, 6) for bound in wilson(p, people))
    return Figures(
        probability=p,
        low=low,
        high=high,
        rank=[_ranks(p[:, h], head.percentiles) for h, head in enumerate(heads)],
        value=value,
        value_low=bounds[:, 0],
        value_high=bounds[:, 1],
        value_rank=_ranks(value, calibration.value_percentiles),
        next_purchase=_dates(as_of, days_to_purchase(p[:, 1:], labels.purchase_days)),
        next_category=_categories(manifest.categories, raw.category, calibration.category_temperature),
    )


def _ranks(values: Array, percentiles: Sequence[float]) -> list[float] | list[None]:
    if not percentiles:
        return [None] * len(values)
    ranks: list[float] = np.round(percentile(values, percentiles), 1).tolist()
    return ranks


def _dates(as_of: Array, days: Array) -> list[str | None]:
    soon = days <= _NEXT_PURCHASE_DAYS_MAX
    seconds = as_of + np.where(soon, days, 0.0) * DAY_S
    dates = np.datetime_as_string(seconds.astype("datetime64[s]"), unit="D").tolist()
    return [date if known else None for date, known in zip(dates, soon.tolist(), strict=True)]


def _categories(names: tuple[str, ...], logits: Array, temperature: float) -> list[list[NextCategory]]:
    classes, share = top_categories(logits, temperature, _CATEGORIES)
    rows = zip(classes.tolist(), np.round(share, 6).tolist(), strict=True)
    return [[NextCategory(names[c], p) for c, p in zip(*row, strict=True)] for row in rows]
