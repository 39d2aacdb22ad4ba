"""Examples: makes records as a worker writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from stream.contract.score import Churn, LifetimeValue, ModelRef, Purchase, Score

__all__ = ["score_of"]

_SCORE = Score(
    score_id="id",
    user_id="ann",
    as_of="2025-05-01T12:34:56Z",
    model=ModelRef("demo", "1", "0" * 64),
    n_events=57,
    data_sufficiency="ok",
    churn=Churn(0.83, "high", 14),
    purchase=[Purchase(0.12, 7), Purchase(0.31, 30)],
    ltv=LifetimeValue(1_041.2, 0.69, "EUR", 30),
    applied_offset=12,
)


def score_of(user: str, worth: float = 1_041.2, **changed: Any) -> Score:
    """A score of this user."""
    value = LifetimeValue(worth, 0.69, "EUR", 30)
    return msgspec.structs.replace(_SCORE, **{"user_id": user, "ltv": value, **changed})
