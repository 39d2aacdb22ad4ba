"""The records of the ``scores`` and ``alerts`` topics. Fields may be added, and are never changed or removed.

``python -m stream.contract.score`` writes the JSON Schemas in this folder (``score.v1.schema.json``,
``alert.v1.schema.json``) from these structs. A test compares both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

__all__ = ["Alert", "Churn", "LifetimeValue", "ModelRef", "NextCategory", "Purchase", "Reason", "Score", "json_schema"]

#: A calibrated probability.
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
#: Percentage of held-out users with a lower number than this one (ties count half).
Percentile = Annotated[float, msgspec.Meta(ge=0, le=100)]
#: 95 % Wilson score interval (Wilson 1927), from the number of held-out users with a similar probability. It says how
#: well the probability is known, not how sure the outcome is.
Interval = tuple[Probability, Probability]


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """The model that made a score. ``sha256`` is the hash of its manifest, which lists the hashes of all its files."""

    name: str
    version: str
    sha256: str


class Churn(msgspec.Struct, frozen=True, gc=False):
    """Probability that the user does nothing at all in the horizon."""

    probability: Probability
    band: Literal["low", "medium", "high"]
    horizon_days: float
    percentile: Percentile | None = None
    interval: Interval | None = None


class Purchase(msgspec.Struct, frozen=True, gc=False):
    """Probability of at least one order in the horizon."""

    probability: Probability
    horizon_days: float
    percentile: Percentile | None = None
    interval: Interval | None = None


class LifetimeValue(msgspec.Struct, frozen=True, gc=False):
    """Expected net value in the horizon, and the probability that it is zero.

    ``interval`` runs from the 10 % to the 90 % quantile of the zero-inflated log-normal (Wang, Liu & Miao 2019):
    quantile q is 0 if q ≤ p_zero, else the quantile (q - p_zero) / (1 - p_zero) of a buyer's value. Value is skewed:
    the mean, ``expected``, may lie above the interval.
    """

    expected: float
    p_zero: Probability
    currency: str
    horizon_days: float
    percentile: Percentile | None = None
    interval: tuple[float, float] | None = None


class NextCategory(msgspec.Struct, frozen=True, gc=False):
    """Probability that the user's next event with a category has this category."""

    category: str
    probability: Probability


class Score(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="valuestream.score.v1", tag_field="schema"):
    """What is expected of one user at ``as_of`` (event time, UTC)."""

    score_id: str
    user_id: str
    as_of: str
    model: ModelRef
    n_events: int
    data_sufficiency: Literal["low", "ok"]
    churn: Churn
    purchase: list[Purchase]
    ltv: LifetimeValue
    #: Source offset of the last event that the score has seen.
    applied_offset: int
    #: UTC date of the median time to the next order. The hazard is taken as constant between the purchase horizons, and
    #: goes on after the last as before it (Friedman 1982). Null if the date is more than 365 days after ``as_of``.
    expected_next_purchase: str | None = None
    #: The three most probable categories, best first; empty if the model does not predict categories.
    next_category: list[NextCategory] = []


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why a user is at risk. ``effect``, above 0, is by how much the churn logit falls when this is taken away."""

    #: One of: silence, fewer_visits, spend_down, no_recent_order, short_history, carts_abandoned, refunds, bad_review.
    code: str
    text: str
    effect: float


class Alert(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="valuestream.alert.v1", tag_field="schema"):
    """A rule fired for a user: the score that made it fire, and the reasons.

    ``previous_band`` is the band that the rule keeps for the user (low or high, with hysteresis), null if the user was
    never scored. The band in the score comes from the thresholds of the model.
    """

    alert_id: str
    rule: Literal["churn_high"]
    previous_band: str | None
    score: Score
    #: At most four, strongest first; empty if nothing true could be said, or under load.
    reasons: list[Reason]


def json_schema(record: type[Score] | type[Alert]) -> dict[str, Any]:
    """JSON Schema (2020-12) of one record. It allows further fields, because a later release may add some."""
    schema = msgspec.json.schema(record)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    for name, kind in (("score", Score), ("alert", Alert)):
        path = Path(__file__).parent / f"{name}.v1.schema.json"
        path.write_text(json.dumps(json_schema(kind), indent=2) + "\n", encoding="utf-8")
