"""Placeholders: what stands for nobody is nobody, in ids, amounts and names alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.decode.placeholders import Placeholders, is_no_amount, shown, text_of
from tests.decode.makers import Make, decode, short

NOBODY: list[Any] = [
    *("undefined", "null", "None", "NaN", "anonymous", "guest", "(not set)", "[object Object]", "0", "-1", "", "  "),
    *("UNDEFINED", "Null", "none", "nan", "Guest", "N/A", "unknown", "true", "null ", "\t"),
    *("00000000-0000-0000-0000-000000000000", 0, -1, 0.0, None, True, [], {}, 1.5, 1e300),
]


@pytest.mark.parametrize("nobody", NOBODY, ids=short)
def test_placeholder_is_nobody_no_order_and_no_event(preset: str, make: Make, nobody: Any) -> None:
    assert Placeholders().identifier(nobody) is None
    assert [dead.reason for dead in decode(preset, make(user=nobody)).dead] == ["user"]
    orders = [make(kind="purchase", event_id=i, order_id=nobody, amount=i) for i in range(1, 4)]
    assert len(set(decode(preset, *orders).batch.rows["identity"].tolist())) == 3
    views = [make(event_id=nobody)] * 3
    assert len(set(decode(preset, *views).batch.rows["identity"].tolist())) == 3


@pytest.mark.parametrize("somebody", ["ann", "0a", "00", "10", "nulla", "un defined", "none@example.org", 17, "-17"])
def test_any_other_id_is_somebody(preset: str, make: Make, somebody: Any) -> None:
    assert decode(preset, make(user=somebody)).batch.users == [str(somebody)]


def test_setting_adds_to_the_placeholders() -> None:
    known = Placeholders([" Test ", "qa"])
    assert [known.identifier(word) for word in ("test", "TEST", "qa", "Qa", "null", "tester")] == [None] * 5 + [
        "tester"
    ]
    assert Placeholders().identifier("test") == "test"


@pytest.mark.parametrize("absent", ["null", "undefined", "(not set)", "", "N/A"])
def test_placeholder_is_no_category_and_no_item_either(preset: str, make: Make, absent: str) -> None:
    found = decode(preset, make(category=absent, item=absent)).batch.rows[0]
    assert (found["category"], found["item"]) == (0, 0)


def test_zero_is_an_amount_and_nan_was_one() -> None:
    assert not any(map(is_no_amount, ("0", 0, "-1", "NaN", False, [])))
    assert all(map(is_no_amount, (None, "", " ", "null", "Undefined", "-", "n/a")))


@given(st.integers(-(2**53), 2**53))
def test_id_that_went_through_a_float_is_the_same_id(number: int) -> None:
    assert text_of(float(number)) == text_of(number) == text_of(str(number)) == str(number)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.text()), st.none()))
def test_anything_is_text_or_nobody_and_can_be_shown(anything: Any) -> None:
    assert type(Placeholders().identifier(anything)) in (str, type(None))
    assert len(shown(anything)) <= 40
