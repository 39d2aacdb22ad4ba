"""Amounts: a number in any usual spelling is that number, and what is not certain is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.decode.amounts import amount_of
from stream.errors import EventError
from tests.decode.makers import short

#: Text → the number it says.
NUMBERS: dict[str, float] = {
    **{"12.50": 12.5, "12,50": 12.5, " 12.5 ": 12.5, "+12.5": 12.5, ".5": 0.5, ",50": 0.5, "5.": 5, "007": 7, "0": 0},
    **{"1234.5": 1234.5, "1,234.56": 1234.56, "1.234,56": 1234.56, "1.234.567": 1_234_567, "1,234,567.8": 1_234_567.8},
    **{"1 234,56": 1234.56, "1\u00a0234": 1234, "1\u202f234,5": 1234.5, "1'234.50": 1234.5, "12 345 678": 12_345_678},
    **{"1,23,456.78": 123_456.78, "0,125": 0.125, "0.125": 0.125, "1234,567": 1234.567, "12.3456": 12.3456},
    **{
        "€12.50": 12.5,
        "12,99 €": 12.99,
        "US$ 1 234.50": 1234.5,
        "Rs. 500": 500,
        "Rs.500": 500,
        "€.50": 0.5,
        "CHF 12.50": 12.5,
        "R$ 1.234,50": 1234.5,
    },
    **{"12.50EUR": 12.5, "12,- €": 12, "12.--": 12, "￥500".replace("￥", "¥"): 500},
    **{"-5": -5, "5-": -5, "−5": -5, "(3.20)": -3.2, "-€5.00": -5, "€-5.00": -5},
    **{"1e3": 1000, "1.5E2": 150, "-1e-2": -0.01, "1e-999": 0},
}
#: What is no certain number of money.
OTHERS: list[Any] = [
    *("", " ", "five", "NaN", "inf", "-Infinity", "1e999", "--5", "5--5", "(5", "-(5)", "12 50", "3 x 5", "12€50"),
    *("1.2.3", "1,2,3", "1.234,5.6", "12,34,56", "1,234567,8.0", "1 2345", "1234 567", "0x10", "⅓", "5 apples"),
    *("1" * 61, "1" + " " * 80 + "234", "1_" * 9_000 + "1"),
    *(None, True, False, [], [5], {}, float("nan"), float("inf"), 10**400),
]
#: What can be read in two ways: with a decimal comma, with a decimal point.
DOUBTFUL: dict[str, tuple[float, float]] = {
    "1,234": (1.234, 1234),
    "1.234": (1234, 1.234),
    "12.345": (12_345, 12.345),
    "€ 999,999": (999.999, 999_999),
    "-1,234": (-1.234, -1234),
}


@pytest.mark.parametrize("text", NUMBERS, ids=short)
def test_amount_is_read_where_it_is_certain(text: str) -> None:
    for decimal_comma in (None, True, False):
        assert amount_of(text, decimal_comma=decimal_comma) == pytest.approx(NUMBERS[text], abs=1e-12)


@pytest.mark.parametrize("other", OTHERS, ids=short)
def test_what_is_no_certain_amount_is_refused_with_its_beginning(other: Any) -> None:
    for decimal_comma in (None, True, False):
        with pytest.raises(EventError, match=r"^amount is .*; mend the sender$") as caught:
            amount_of(other, decimal_comma=decimal_comma)
        assert (caught.value.reason, len(str(caught.value)) < 110) == ("amount", True)


@pytest.mark.parametrize("text", DOUBTFUL)
def test_amount_that_can_be_read_in_two_ways_is_refused_unless_decided(text: str) -> None:
    with pytest.raises(EventError, match=r"which may be .* or .*; .* or set --decimal-comma") as caught:
        amount_of(text)
    assert caught.value.reason == "amount"
    assert (amount_of(text, decimal_comma=True), amount_of(text, decimal_comma=False)) == DOUBTFUL[text]


def test_minor_unit_of_the_currency_decides_what_it_can() -> None:
    assert amount_of("1.234", minor_digits=3) == 1.234
    assert amount_of("350.000", minor_digits=0) == amount_of("350,000", minor_digits=0) == 350_000
    with pytest.raises(EventError):
        amount_of("1,234", minor_digits=3)


@given(st.integers(-(10**12), 10**12), st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", "."), ("", ".")]))
def test_hundredths_are_read_again_in_every_way_to_group_them(hundredths: int, signs: tuple[str, str]) -> None:
    thousands, decimal = signs
    whole, rest = divmod(abs(hundredths), 100)
    text = f"{whole:,}".replace(",", thousands) + decimal + f"{rest:02}"
    for written in (text, f"€ {text}", f"{text} USD"):
        signed = f"-{written}" if hundredths < 0 else written
        assert round(amount_of(signed) * 100) == hundredths


@given(st.one_of(st.text(), st.text("0123456789.,-+()e €$"), st.integers(), st.floats(), st.none()))
def test_anything_is_a_finite_number_or_an_event_error(anything: Any) -> None:
    try:
        assert math.isfinite(amount_of(anything))
    except EventError as error:
        assert error.reason == "amount"
        assert str(error).encode("utf-8", "surrogatepass")
