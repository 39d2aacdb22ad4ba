"""Envelopes: what each preset reads from its own fields."""

from __future__ import annotations

from typing import Any

import pytest

from stream.contract.events import ORDER_UPDATED, SEGMENT_NAMES, EventType
from stream.decode.decoder import PRESETS
from tests.decode.makers import (
    ALL_MAKERS,
    decode,
    flat,
    row,
    segment,
)


def test_every_preset_has_a_maker_in_these_tests() -> None:
    assert ALL_MAKERS.keys() - {"shop"} == PRESETS.keys() - {"snowplow", "ga4", "shopify", "woocommerce"}


def test_flat_names_and_aliases_give_their_types() -> None:
    for kind in EventType:
        assert row("flat", flat(kind=kind.name.title()))["type"] == kind
    aliases = {"add_to_cart": "CART", "remove_from_cart": "UNCART", "order": "PURCHASE", "buy": "PURCHASE"}
    for alias, kind in {**aliases, "cancel": "REFUND", "favorite": "WISHLIST", "no such thing": "OTHER"}.items():
        assert row("flat", flat(kind=alias))["type"] == EventType[kind]


def test_segment_names_give_the_types_of_the_spec_in_any_case() -> None:
    for name, kind in SEGMENT_NAMES.items():
        if kind == ORDER_UPDATED:
            continue
        assert row("segment", segment(kind=name))["type"] == row("segment", segment(kind=name.upper()))["type"] == kind
    assert row("segment", segment(kind="Coupon Denied"))["type"] == EventType.OTHER


def test_segment_page_and_screen_are_views_and_identify_is_ignored() -> None:
    calls = [{**segment(), "type": kind} for kind in ("page", "screen", "identify", "group", "alias")]
    out = decode("segment", *calls)
    assert out.batch.rows["type"].tolist() == [EventType.VIEW, EventType.VIEW]
    assert (out.n_ignored, out.dead) == (3, [])


def test_segment_anonymous_id_is_the_user_if_there_is_no_user_id() -> None:
    nobody = (0, None, "", "undefined", "Guest", ["ann"], {}, True, 1.5, 1e300)
    for known, expected in (("ann", "ann"), (17.0, "17"), *((one, "visitor") for one in nobody)):
        assert decode("segment", {**segment(user=known), "anonymousId": "visitor"}).batch.users == [expected]


@pytest.mark.parametrize(
    ("properties", "hundredths"),
    [
        ({"total": 5, "revenue": 4, "value": 3, "price": 2}, 500),
        ({"revenue": 4, "value": 3, "price": 2}, 400),
        ({"total": "", "revenue": "", "value": 3, "price": 2}, 300),
        ({"price": 2}, 200),
        ({"price": 2, "quantity": 3}, 600),
        ({"price": "2.50", "quantity": "3"}, 750),
        ({"price": 2, "quantity": 0}, 0),
        ({"price": 2, "quantity": ""}, 200),
        ({"products": [{"price": 2, "quantity": 3}, {"price": 1}, {"quantity": 9}]}, 700),
        ({"products": [], "price": 3}, 300),
        ({"products": [{"price": 2}], "total": 9}, 900),
        ({}, 0),
    ],
)
def test_segment_amount_is_total_else_revenue_else_value_else_the_lines(
    properties: dict[str, Any], hundredths: int
) -> None:
    event = {**segment(kind="Order Completed"), "properties": properties}
    assert row("segment", event)["value"] == hundredths


def test_segment_order_has_the_item_of_its_first_product_unless_it_names_one() -> None:
    products = [{"product_id": "a", "category": "x", "price": 1}, {"product_id": "b", "category": "y"}]
    first = row("segment", segment(kind="Order Completed", products=products))
    assert (first["item"], first["category"]) == tuple(
        row("segment", segment(item="a", category="x"))[["item", "category"]]
    )
    named = row("segment", segment(kind="Order Completed", products=products, item="c", category="z"))
    assert (named["item"], named["category"]) == tuple(
        row("segment", segment(item="c", category="z"))[["item", "category"]]
    )
    by_sku = row("segment", segment(sku="s"))
    assert by_sku["item"] == row("segment", segment(item="s"))["item"]


def test_flat_price_is_the_price_of_one_piece() -> None:
    assert row("flat", flat(kind="purchase", amount="2.50", quantity="3"))["value"] == 750
