"""Tests of order events: what a purchase, a refund or an update says about the order that it names."""

from __future__ import annotations

from typing import Any

import pytest

from stream.contract.events import EventType, OrderChange
from stream.decode.identity import hashed
from tests.decode.makers import decode, flat, segment

TOTAL, LINE, UPDATE, REFUND, CANCEL = OrderChange
ORDER_O = hashed("order\0o")


def said(preset: str, event: dict[str, Any]) -> tuple[int, int, int]:
    """Type, value and change of the only event."""
    out = decode(preset, event)
    assert not out.dead
    change = 0
    if len(out.batch.orders):
        assert out.batch.orders["order"].tolist() == [ORDER_O]
        change = int(out.batch.orders["change"][0])
    return int(out.batch.rows["type"][0]), int(out.batch.rows["value"][0]), change


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        ("Order Completed", {"total": 5}, (EventType.PURCHASE, 500, TOTAL)),
        ("Order Completed", {"products": [{"price": 2, "quantity": 3}]}, (EventType.PURCHASE, 600, TOTAL)),
        ("Order Completed", {"price": 2, "quantity": 3}, (EventType.PURCHASE, 600, LINE)),
        ("Order Completed", {"products": [{"product_id": "a"}]}, (EventType.PURCHASE, 0, LINE)),
        ("Order Completed", {}, (EventType.PURCHASE, 0, LINE)),
        ("Order Completed", {"total": -5}, (EventType.REFUND, -500, REFUND)),
        ("Order Updated", {"total": 7}, (EventType.PURCHASE, 700, UPDATE)),
        ("order_updated", {"total": "7,50"}, (EventType.PURCHASE, 750, UPDATE)),
        ("Order Updated", {}, (EventType.OTHER, 0, 0)),
        ("Order Updated", {"total": -7}, (EventType.PURCHASE, 0, UPDATE)),
        ("Order Refunded", {"total": 5}, (EventType.REFUND, -500, REFUND)),
        ("Order Refunded", {"total": 0}, (EventType.REFUND, 0, REFUND)),
        ("Order Refunded", {}, (EventType.REFUND, 0, CANCEL)),
        ("Order Refunded", {"products": [{"product_id": "a", "quantity": 1}]}, (EventType.REFUND, 0, CANCEL)),
        ("Order Cancelled", {"total": 5}, (EventType.REFUND, -500, REFUND)),
        ("Order Cancelled", {}, (EventType.REFUND, 0, CANCEL)),
    ],
)
def test_event_says_what_it_is_to_its_order(name: str, properties: dict[str, Any], expected: tuple[int, ...]) -> None:
    event = segment(kind=name)
    event["properties"] = {"order_id": "o", **properties}
    assert said("segment", event) == expected


@pytest.mark.parametrize("kind", ["Order Completed", "Order Refunded", "Order Updated"])
@pytest.mark.parametrize("nobody", [None, "", "undefined", "(not set)"])
def test_event_that_names_no_order_says_nothing_about_one(kind: str, nobody: Any) -> None:
    event = segment(kind=kind)
    event["properties"] = {"order_id": nobody, "total": 5}
    out = decode("segment", event)
    assert not len(out.batch.orders)
    assert out.batch.rows["value"].tolist() == {"Order Refunded": [-500], "Order Updated": [0]}.get(kind, [500])


def test_flat_purchase_is_a_line_of_its_order() -> None:
    assert said("flat", flat(kind="purchase", order_id="o", amount=5)) == (EventType.PURCHASE, 500, LINE)


def identities(*events: dict[str, Any]) -> list[int]:
    found: list[int] = decode("flat", *events).batch.rows["identity"].tolist()
    return found


def test_line_is_known_by_what_was_bought_and_not_by_its_event_id() -> None:
    line = {"kind": "purchase", "order_id": "o", "item": "a", "amount": 5}
    same, again = identities(flat(**line, event_id="1"), flat(**line, event_id="2"))
    assert same == again
    others = [{"item": "b"}, {"amount": 6}, {"order_id": "p"}, {"quantity": 2}]
    assert len({same, *identities(*(flat(**{**line, **other}, event_id="1") for other in others))}) == 5


def test_orders_stay_with_their_events_among_others() -> None:
    events = [
        flat(kind="view"),
        flat(kind="purchase", order_id="o", amount="five"),  # a dead letter
        flat(kind="view", event_id=None),
        flat(kind="purchase", order_id="o", amount="5"),
        flat(kind="refund", amount=1),
        flat(kind="refund", order_id="o"),
    ]
    out = decode("flat", *events)
    assert [letter.reason for letter in out.dead] == ["amount"]
    assert out.batch.orders["change"].tolist() == [0, 0, LINE, 0, CANCEL]
    assert out.batch.orders["order"].tolist() == [0, 0, ORDER_O, 0, ORDER_O]
