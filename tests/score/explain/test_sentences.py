"""Sentences: each is true of the user, and there is none if nothing true can be said."""

from __future__ import annotations

import numpy as np
import pytest

from stream.contract.columns import HISTORY_LEN
from stream.contract.events import EventType
from stream.score.explain.explainer import Explainer
from stream.state.partition_state import PartitionState
from tests.score.explain.models import Blaming, ago, everyone
from tests.score.test_encode import fold_users
from tests.state.reference import Plain
from tests.state.test_partition_state import DAY


def sentence(code: str, state: PartitionState, age_s: int = 0, **typical: float) -> str | None:
    """The sentence of this code for the first user; ``typical`` features are given on their own scales."""
    (reasons,) = Explainer(Blaming({code: 1.0}, typical), users_max=1).explain(*everyone(state, age_s))
    return reasons[0].text if reasons else None


@pytest.mark.parametrize(
    ("age_days", "expected"), [(0.9, None), (1, "no visit for 1 day"), (9.5, "no visit for 9 days")]
)
def test_silence_is_said_in_full_days(age_days: float, expected: str | None) -> None:
    assert sentence("silence", fold_users([ago(0)]), round(age_days * DAY)) == expected


@pytest.mark.parametrize(
    ("events", "typical", "expected"),
    [
        ([ago(40, value=10_000), ago(0, value=3_800)], 0, "spend down 62 % on the month before"),
        ([ago(40, value=10_000), ago(0, value=1)], 0, "spend down 99 % on the month before"),
        ([ago(40, value=10_000), ago(0, value=9_500)], 0, None),
        ([ago(40, value=10_000), ago(0, value=20_000)], 1_000, None),
        ([ago(40, value=10_000), ago(0)], 0, "no net spend in the last month, 100.00 EUR in the month before"),
        ([ago(0, value=3_800)], 40, None),
        ([ago(0, value=3_500)], 1_240, "spend of 35.00 EUR in the last month, typical is 1,240.00 EUR"),
        ([ago(0, EventType.VIEW)], 1_240, None),
    ],
    ids=["down", "nearly gone", "noise", "up", "gone", "near typical", "below typical", "never bought"],
)
def test_spend_is_compared_with_the_month_before_or_else_with_typical_spend(
    events: list[Plain], typical: float, expected: str | None
) -> None:
    assert sentence("spend_down", fold_users(events), revenue_30d=float(np.log1p(typical))) == expected


@pytest.mark.parametrize(
    ("n_recent", "expected"),
    [
        (HISTORY_LEN - 2, "visits on 1 day in the last month, on 2 in the month before"),
        (HISTORY_LEN - 1, "visits on 1 day in the last month, typical is 9"),
        (HISTORY_LEN, "visits on 1 day in the last month, typical is 9"),
    ],
)
def test_last_month_is_not_compared_with_the_month_before_if_that_has_left_the_history(
    n_recent: int, expected: str
) -> None:
    events = [ago(41), ago(40), *(ago(i / 1_000) for i in range(n_recent))]
    assert sentence("fewer_visits", fold_users(events), active_days_30d=9.0) == expected


def test_last_month_is_compared_with_the_month_before_if_a_full_history_reaches_back_to_it() -> None:
    events = [ago(3 * i) for i in range(HISTORY_LEN + 20)]
    expected = "visits on 2 days in the last month, on 10 in the month before"
    assert sentence("fewer_visits", fold_users(events), 24 * DAY, active_days_30d=0.0) == expected


@pytest.mark.parametrize(
    ("code", "events", "expected"),
    [
        ("carts_abandoned", [ago(20, EventType.CART)] * 2, "cart or checkout used 2 times, no order in the last month"),
        ("carts_abandoned", [ago(20, EventType.CART), ago(19)], None),
        ("carts_abandoned", [ago(20, EventType.UNCART), ago(19)], "1 item taken out of the cart in the last month"),
        ("carts_abandoned", [ago(40, EventType.CART), ago(0)], None),
        ("refunds", [ago(20, EventType.REFUND)] * 2, "2 refunds or cancelled orders in the last month"),
        ("refunds", [ago(45, EventType.REFUND), ago(0)], "refund or cancelled order 45 days ago"),
        ("refunds", [ago(0)], None),
        ("no_recent_order", [ago(40), ago(0, EventType.VIEW)], "no order for 40 days"),
        ("no_recent_order", [ago(6), ago(0, EventType.VIEW)], None),
        ("no_recent_order", [ago(0, EventType.VIEW)], "no order yet"),
    ],
)
def test_sentences_about_events_speak_of_the_last_month(code: str, events: list[Plain], expected: str | None) -> None:
    assert sentence(code, fold_users(events)) == expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([ago(0)], "first seen less than a day ago, 1 action so far"),
        ([ago(2), ago(1), ago(0)], "first seen 2 days ago, 3 actions so far"),
        ([ago(20), ago(0)], "only 2 actions so far"),
        ([ago(20), *(ago(i / 10) for i in range(9))], None),
    ],
)
def test_history_is_called_short_if_a_typical_one_is_longer(events: list[Plain], expected: str | None) -> None:
    typical = {"tenure": float(np.log1p(9)), "n_events": float(np.log1p(6.5))}
    assert sentence("short_history", fold_users(events), **typical) == expected


@pytest.mark.parametrize(
    ("sentiments", "expected"),
    [
        ([90, -60], "last review was negative"),
        ([-90, -90, 10], "reviews were negative on average"),
        ([-90, 30], None),
        ([-50], None),
    ],
)
def test_review_is_called_bad_only_if_negative_has_more_than_half_of_the_probability(
    sentiments: list[int], expected: str | None
) -> None:
    state = fold_users([ago(1, EventType.REVIEW), ago(0)])
    state.users["reviews"][0], state.users["sentiment_sum"][0] = len(sentiments), sum(sentiments)
    state.users["sentiment_last"][0] = sentiments[-1]
    assert sentence("bad_review", state) == expected
