"""Money: amounts are kept in hundredths of one currency, or the event is a dead letter."""

from __future__ import annotations

from typing import Any

import pytest

from stream.contract.events import EventType
from stream.decode.decoder import Money
from stream.errors import ConfigError, EventError
from tests.decode.makers import (
    Make,
    decode,
    reason,
    row,
    short,
)


@pytest.mark.parametrize(
    ("amount", "hundredths"),
    [(12.34, 1_234), ("12.34", 1_234), (0, 0), ("", 0), (None, 0), (-3, -300), (0.29, 29), (21_474_836.47, 2**31 - 1)],
)
def test_amount_is_kept_in_hundredths(preset: str, make: Make, amount: Any, hundredths: int) -> None:
    assert row(preset, make(kind="purchase", amount=amount))["value"] == hundredths


@pytest.mark.parametrize("amount", [5, -5, "5"])
def test_refund_is_below_zero_with_either_sign(preset: str, make: Make, amount: Any) -> None:
    assert row(preset, make(kind="refund", amount=amount))["value"] == -500


@pytest.mark.parametrize("amount", [5, "five", 1e308, "NaN", 10**400])
def test_view_has_no_value_and_its_price_is_not_read(preset: str, make: Make, amount: Any) -> None:
    assert row(preset, make(kind="view", amount=amount, currency="XXX"))["value"] == 0


@pytest.mark.parametrize(
    "amount",
    [100_000_000_001, -100_000_000_001, 1e18, 1e308, -1e308, "1e308", 10**310, -(10**4000)],
    ids=short,
)
def test_amount_that_cannot_be_kept_is_a_dead_letter(preset: str, make: Make, amount: Any) -> None:
    assert reason(preset, make(kind="purchase", amount=amount)) == "value"
    assert reason(preset, make(kind="refund", amount=amount, currency="USD")) == "value"


@pytest.mark.parametrize("amount", ["1e999", "NaN", "-inf", "five", "1,234", "1.234", "12 50", "5 EUR 3"])
def test_amount_that_is_no_certain_number_is_a_dead_letter(preset: str, make: Make, amount: str) -> None:
    assert reason(preset, make(kind="purchase", amount=amount)) == "amount"
    assert reason(preset, make(kind="refund", amount=amount, currency="USD")) == "amount"
    assert row(preset, make(kind="view", amount=amount))["value"] == 0


@pytest.mark.parametrize(("amount", "kept"), [("null", 0), ("undefined", 0), (" N/A ", 0), (False, 0), ({}, 0)])
def test_placeholder_is_no_amount(preset: str, make: Make, amount: Any, kept: int) -> None:
    assert row(preset, make(kind="purchase", amount=amount))["value"] == kept


def test_order_below_zero_is_a_refund_and_not_known_by_its_order(preset: str, make: Make) -> None:
    out = decode(preset, *(make(kind="purchase", amount=n, order_id="o", event_id=n) for n in (5, -5)))
    assert out.batch.rows["type"].tolist() == [EventType.PURCHASE, EventType.REFUND]
    assert out.batch.rows["value"].tolist() == [500, -500]
    assert len(set(out.batch.rows["identity"].tolist())) == 2


def test_currency_is_known_in_any_case_and_a_placeholder_is_none(preset: str, make: Make) -> None:
    paid = [make(kind="purchase", amount=10, currency=c) for c in ("usd", " Usd ", "eur", "null", False)]
    out = decode(preset, *paid, rates={"Eur": 1.1})
    assert out.batch.rows["value"].tolist() == [1_000, 1_000, 1_100, 1_000, 1_000]


def test_amount_may_be_an_object_with_its_currency(preset: str, make: Make) -> None:
    amounts = [{"amount": "12.00", "currency": "eur"}, {"shop_money": {"amount": 3, "currency_code": "USD"}}]
    out = decode(preset, *(make(kind="purchase", amount=a) for a in amounts), rates={"EUR": 2})
    assert (out.dead, out.batch.rows["value"].tolist()) == ([], [2_400, 300])


def test_other_currencies_are_converted_and_those_without_a_rate_are_dead_letters(preset: str, make: Make) -> None:
    paid = [make(kind="purchase", amount=10, currency=c) for c in ("USD", "EUR", "", None)]
    out = decode(preset, *paid, make(kind="purchase", amount=10, currency="GBP"), rates={"EUR": 1.1})
    assert out.batch.rows["value"].tolist() == [1_000, 1_100, 1_000, 1_000]
    message = "currency is 'GBP', expected 'USD' or one with a rate; set --fx-rates"
    assert [(d.reason, d.message) for d in out.dead] == [("currency", message)]


def test_rate_that_makes_an_amount_too_large_is_an_event_error_not_an_overflow() -> None:
    with pytest.raises(EventError) as caught:
        Money("USD", {"BIG": 1e300}).hundredths(1e10, "BIG")
    assert caught.value.reason == "value"


@pytest.mark.parametrize("rate", [0, -1.0, float("inf"), float("nan")])
def test_rate_that_is_not_above_zero_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"rate of EUR is .*, expected a number above 0; set --fx-rates"):
        Money("USD", {"EUR": rate})


def test_amount_that_is_no_number_is_a_dead_letter_that_quotes_only_its_beginning(preset: str, make: Make) -> None:
    (dead,) = decode(preset, make(kind="purchase", amount="12,50 " + "x" * 10_000)).dead
    assert dead.reason == "amount"
    assert dead.message.startswith("amount is '12,50 xxx")
    assert dead.message.endswith(", expected at most 60 characters; mend the sender")
    assert len(dead.message) < 110
