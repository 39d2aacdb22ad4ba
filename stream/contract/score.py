"""The records of the ``scores`` and ``alerts`` topics. Fields are only ever added.

The JSON Schemas beside this file (``score.v1.schema.json``, ``alert.v1.schema.json``) are made from these
structs by ``python -m stream.contract.score``; a test compares them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

__all__ = ["Alert", "Churn", "LifetimeValue", "ModelRef", "NextCategory", "Purchase", "Reason", "Score", "json_schema"]

#: A calibrated probability.
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
#: Share of held-out users, in percent, whose number is lower than this one (ties count half).
Percentile = Annotated[float, msgspec.Meta(ge=0, le=100)]
#: Wilson score interval (Wilson 1927), 95 %, of the share among as many held-out users of like probability as there
#: were: how well the probability is known, not how sure the outcome is.
Interval = tuple[Probability, Probability]


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """Which model made a score; ``sha256`` is that of its manifest, which lists all its files."""

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
    """Expected net value in the horizon, and the probability that it is nothing.

    ``interval`` runs from the 10 % to the 90 % quantile of the zero-inflated log-normal (Wang, Liu & Miao 2019):
    quantile q is 0 where q ≤ p_zero, else that of a buyer's value at (q - p_zero) / (1 - p_zero). Value is skewed:
    the mean, ``expected``, may lie above the interval.
    """

    expected: float
    p_zero: Probability
    currency: str
    horizon_days: float
    percentile: Percentile | None = None
    interval: tuple[float, float] | None = None


class NextCategory(msgspec.Struct, frozen=True, gc=False):
    """Probability that the user's next event that has a category has this one."""

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
    #: UTC date of the median time to the next order, under a hazard that is constant between the purchase horizons
    #: and goes on as in the last (Friedman 1982); null where it is more than 365 days after ``as_of``.
    expected_next_purchase: str | None = None
    #: The most probable three, best first; empty where the model does not tell.
    next_category: list[NextCategory] = []


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why a user is at risk: ``effect`` is how much of the churn logit goes when this is taken away (above 0)."""

    #: silence, fewer_visits, spend_down, no_recent_order, short_history, carts_abandoned, refunds or bad_review.
    code: str
    text: str
    effect: float


class Alert(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="valuestream.alert.v1", tag_field="schema"):
    """A rule fired for a user: the score that did it, and reasons.

    ``previous_band`` is the rule's own (low or high, with hysteresis), null where the user was never scored; the
    score's band is by the model's thresholds.
    """

    alert_id: str
    rule: Literal["churn_high"]
    previous_band: str | None
    score: Score
    #: Strongest first, at most four; empty where nothing true could be said, or under load.
    reasons: list[Reason]


def json_schema(record: type[Score] | type[Alert]) -> dict[str, Any]:
    """JSON Schema (2020-12) of one record; further fields are allowed, as they may be added."""
    schema = msgspec.json.schema(record)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    for name, kind in (("score", Score), ("alert", Alert)):
        path = Path(__file__).parent / f"{name}.v1.schema.json"
        path.write_text(json.dumps(json_schema(kind), indent=2) + "\n", encoding="utf-8")
