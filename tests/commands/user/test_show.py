"""The details of a score: they claim only what the record holds, and nothing steers the terminal."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream.commands.console import score_words
from stream.commands.user.show import score_details
from stream.contract.score import Churn, LifetimeValue, NextCategory, Purchase
from tests.broker.examples import score_of

SCORE = score_of(
    "ann",
    churn=Churn(0.83, "high", 14, 92.5, (0.79, 0.86)),
    purchase=[Purchase(0.12, 7, 31.0, (0.1, 0.15)), Purchase(0.31, 30)],
    ltv=LifetimeValue(1_041.2, 0.69, "EUR", 30, 66.0, (0.0, 2_310.55)),
    expected_next_purchase="2025-06-02",
    next_category=[NextCategory("shoes", 0.4), NextCategory("hats", 0.25)],
)


def test_details_give_interval_and_rank_of_each_number() -> None:
    assert score_details(SCORE) == [
        "churn 14 d     83%, 95% interval 79% to 86%, higher than 92.5% of users",
        "buys 7 d       12%, 95% interval 10% to 15%, higher than 31% of users",
        "buys 30 d      31%",
        "worth 30 d     1,041.20 EUR, 80% of outcomes 0.00 to 2,310.55 EUR, higher than 66% of users",
        "next category  shoes 40%, hats 25%",
    ]


def test_record_of_the_first_release_shows_its_numbers_alone() -> None:
    first = msgspec.structs.replace(
        SCORE, churn=Churn(0.83, "high", 14), ltv=LifetimeValue(10.0, 0.69, "EUR", 30), next_category=[]
    )
    assert score_details(first)[::3] == ["churn 14 d     83%", "worth 30 d     10.00 EUR"]


@given(st.text(max_size=10), st.text(max_size=10), st.text(max_size=10))
def test_no_text_in_a_record_steers_the_terminal(date: str, category: str, currency: str) -> None:
    score = msgspec.structs.replace(
        SCORE,
        expected_next_purchase=date,
        next_category=[NextCategory(category, 1.0)],
        ltv=msgspec.structs.replace(SCORE.ltv, currency=currency),
    )
    assert all(line.isprintable() for line in [score_words(score, band=False), *score_details(score)])
