"""Tolerant: each field is read as far as it can be, and what cannot be read is noted by its name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from stream.decode.placeholders import Placeholders, Unreadable
from stream.decode.tolerant import IGNORABLE_FIELDS, Reader
from stream.errors import EventError
from tests.decode.test_decoder import JSON


def reader() -> Reader:
    return Reader(Placeholders())


#: Method, value → what is read.
READ: list[tuple[str, Any, Any]] = [
    *(("name", value, value) for value in ("shoes", "", "null", None)),
    *[("name", 17, "17"), ("name", 12.0, "12"), ("name", False, None)],
    *[
        ("identifier", "o1", "o1"),
        ("identifier", 1001.0, "1001"),
        ("identifier", "null", None),
        ("identifier", 0, None),
    ],
    *(("amount", value, value) for value in (5, 1.5, "12,50", "", "NaN", None)),
    *[("amount", False, None), ("amount", {}, None)],
    *[
        ("an_object", {"a": 1}, {"a": 1}),
        ("an_object", '{"a": 1}', {"a": 1}),
        ("an_object", [], {}),
        ("an_object", "", {}),
    ],
    *[("objects", [{"a": 1}, None], [{"a": 1}]), ("objects", {"0": {"a": 1}, "1": {}}, [{"a": 1}, {}])],
    *[("objects", {"a": {"b": 1}}, [{"a": {"b": 1}}]), ("objects", '[{"a": 1}]', [{"a": 1}]), ("objects", None, [])],
]
#: Method, value that cannot be read.
UNREAD: list[tuple[str, Any]] = [
    *[("name", []), ("name", {}), ("name", True), ("name", 1.5)],
    *[("identifier", ["o"]), ("identifier", True), ("identifier", 1e300)],
    *[("amount", []), ("amount", True), ("amount", {"a": 1})],
    *[("an_object", [1]), ("an_object", "x"), ("an_object", 5), ("an_object", "{a}")],
    *[("objects", "x"), ("objects", 5), ("objects", [1]), ("objects", ["{a}"]), ("objects", True)],
]


@pytest.mark.parametrize(("method", "value", "expected"), READ, ids=str)
def test_field_is_read_as_far_as_it_can_be(method: str, value: Any, expected: Any) -> None:
    one = reader()
    assert (getattr(one, method)("item", value), one.noted) == (expected, set())


@pytest.mark.parametrize(("method", "value"), UNREAD, ids=str)
def test_field_that_cannot_be_read_is_noted(method: str, value: Any) -> None:
    one = reader()
    getattr(one, method)("item", value)
    assert one.noted == {"item"}


def test_list_with_many_unreadable_elements_keeps_one_of_them() -> None:
    one = reader()
    assert one.objects("products", [1, {"a": 1}, *range(50_000)]) == [{"a": 1}, Unreadable([1])]


def test_user_is_the_first_id_that_stands_for_somebody() -> None:
    assert reader().somebody([None, "", "guest", [], 17.0, "ann"]) == "17"
    with pytest.raises(EventError, match="user id is missing"):
        reader().somebody([None, ""])
    with pytest.raises(EventError, match="user id is 'guest', which stands for nobody"):
        reader().somebody([None, "guest", 0])


@given(JSON)
def test_any_json_is_read_or_noted_and_only_who_and_when_raise(value: Any) -> None:
    one = reader()
    for method, key in (("name", "item"), ("identifier", "order_id"), ("amount", "price"), ("objects", "products")):
        getattr(one, method)(key, value)
    one.an_object("properties", value)
    one.currency(value)
    assert one.noted <= set(IGNORABLE_FIELDS)
    for strict, reason in ((lambda: one.somebody([value]), "user"), (lambda: one.seconds(value), "timestamp")):
        try:
            assert strict()
        except EventError as error:
            assert error.reason == reason
