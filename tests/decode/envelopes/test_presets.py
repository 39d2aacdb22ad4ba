"""Tests of the presets whose senders have no library in Python, by the examples of their specifications."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.events import EventType, OrderChange
from stream.decode.decoder import hash_bucket
from stream.state.partition_state import PartitionState
from tests.decode.envelopes.enrich import line_of
from tests.decode.envelopes.examples import (
    EXAMPLES,
    GA4_PAYLOAD,
    GA4_ROW,
    SHOPIFY_ORDER,
    SHOPIFY_REFUND,
    SNOWPLOW_JSON,
    TIME,
    WOOCOMMERCE_ORDER,
)
from tests.decode.makers import REASONS, decode

_VIEW, _OTHER, _PURCHASE, _REFUND = (int(EventType[name]) for name in ("VIEW", "OTHER", "PURCHASE", "REFUND"))


def test_ga4_payload_holds_several_events_of_one_user() -> None:
    out = decode("ga4", GA4_PAYLOAD)
    assert out.dead == []
    assert out.batch.users == ["ann"] * 3
    assert out.batch.rows["type"].tolist() == [_VIEW, _PURCHASE, _REFUND]
    assert out.batch.rows["value"].tolist() == [0, 1_250, 0]
    assert out.batch.rows["time"].tolist() == [TIME] * 3
    assert set(out.batch.rows["item"].tolist()) == {hash_bucket("p1"), 0}
    assert out.batch.orders["change"].tolist() == [0, OrderChange.TOTAL, OrderChange.CANCEL]


def test_ga4_row_of_the_export_has_its_parameters_as_a_list() -> None:
    out = decode("ga4", GA4_ROW)
    assert out.dead == []
    assert out.batch.users == ["1234.5678"]
    assert out.batch.rows[["time", "value", "item", "category", "type"]].tolist() == [
        (TIME, 1_250, hash_bucket("p1"), hash_bucket("shoes"), _PURCHASE)
    ]


# Snowplow ------------------------------------------------------------------------------------------------

OLD_SNOWPLOW = {"domain_userid": "ann", "collector_tstamp": "2024-12-30 23:06:40.000", "event_id": "e"}


def test_snowplow_json_is_read_like_its_line() -> None:
    out = decode("snowplow", SNOWPLOW_JSON)
    assert out.dead == []
    assert out.batch.users == ["visitor"]
    assert out.batch.rows[["time", "value", "item", "category", "type"]].tolist() == [
        (TIME, 1_250, hash_bucket("p1"), hash_bucket("shoes"), _PURCHASE)
    ]


def test_older_events_of_snowplow_say_the_total_and_each_line() -> None:
    total = {"event": "transaction", "event_name": "transaction", "tr_orderid": "o1", "tr_total": "12.50"}
    item = {"event": "transaction_item", "event_name": "transaction_item", "ti_orderid": "o1", "ti_price": "5"}
    lines = [line_of({**OLD_SNOWPLOW, **total}), line_of({**OLD_SNOWPLOW, **item, "ti_sku": "p1", "ti_quantity": "2"})]
    out = decode("snowplow", b"\n".join(lines))
    assert out.dead == []
    state = PartitionState(60)
    state.apply(out.batch)
    assert (state.users["orders"][0], state.users["revenue"][0]) == (1, 1_250)
    assert out.batch.rows["time"].tolist() == [TIME, TIME]


@pytest.mark.parametrize("line", [b"a\tb", b"\xff" + b"\t" * 130])
def test_line_that_is_no_enriched_event_is_a_dead_letter(line: bytes) -> None:
    assert [letter.reason for letter in decode("snowplow", line).dead] == ["malformed"]


# Webhooks ------------------------------------------------------------------------------------------------


def came_to(preset: str, *bodies: dict[str, Any]) -> tuple[int, int, list[int]]:
    """Orders, revenue and types of one user, after these webhooks in turn."""
    out = decode(preset, *bodies)
    assert [letter.message for letter in out.dead] == []
    assert len(set(out.batch.users)) == 1
    state = PartitionState(3_600)
    types = state.apply(out.batch).events["type"].tolist()
    return int(state.users["orders"][0]), int(state.users["revenue"][0]), types


def test_shopify_order_counts_once_however_often_it_is_sent() -> None:
    later = {**SHOPIFY_ORDER, "updated_at": "2024-12-30T23:07:00Z", "total_price": "400.00"}
    assert came_to("shopify", SHOPIFY_ORDER, SHOPIFY_ORDER) == (1, 40_994, [_PURCHASE])
    assert came_to("shopify", SHOPIFY_ORDER, later) == (1, 40_000, [_PURCHASE, _OTHER])
    cancelled = {**SHOPIFY_ORDER, "cancelled_at": "2024-12-30T23:07:00Z"}
    assert came_to("shopify", SHOPIFY_ORDER, cancelled, cancelled) == (1, 0, [_PURCHASE, _REFUND])


def test_shopify_refund_needs_the_key_of_its_record_to_know_the_customer() -> None:
    assert [letter.reason for letter in decode("shopify", SHOPIFY_REFUND).dead] == ["user"]


@pytest.mark.parametrize("status", ["pending", "authorized", "voided"])
def test_shopify_order_that_is_not_paid_is_of_no_interest(status: str) -> None:
    assert decode("shopify", {**SHOPIFY_ORDER, "financial_status": status}).n_ignored == 1


def test_woocommerce_order_is_worth_what_is_left_of_it() -> None:
    assert came_to("woocommerce", WOOCOMMERCE_ORDER, WOOCOMMERCE_ORDER) == (1, 2_935, [_PURCHASE])
    refunded = {**WOOCOMMERCE_ORDER, "date_modified_gmt": "2024-12-30T23:06:50", "refunds": [{"total": "-9.35"}]}
    assert came_to("woocommerce", WOOCOMMERCE_ORDER, refunded) == (1, 2_000, [_PURCHASE, _OTHER])
    cancelled = {**WOOCOMMERCE_ORDER, "date_modified_gmt": "2024-12-30T23:06:55", "status": "refunded"}
    assert came_to("woocommerce", WOOCOMMERCE_ORDER, refunded, cancelled)[:2] == (1, 0)
    assert decode("woocommerce", {**WOOCOMMERCE_ORDER, "status": "pending"}).n_ignored == 1
    assert decode("woocommerce", {**WOOCOMMERCE_ORDER, "customer_id": 0}).batch.users == ["ann@example.com"]


# Anything anywhere ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every object or list in a JSON value, with each of its keys or indices."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield value, key
        yield from places(inner)


@pytest.mark.parametrize("preset", EXAMPLES)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_json_in_any_place_is_read_or_refused_for_a_reason_of_ours(preset: str, data: st.DataObject) -> None:
    event = copy.deepcopy(data.draw(st.sampled_from(EXAMPLES[preset])))
    holder, key = data.draw(st.sampled_from(list(places(event))))
    holder[key] = data.draw(JSON)
    try:
        value = json.dumps(event).encode()
    except UnicodeEncodeError:
        return
    out = decode(preset, value)
    assert {letter.reason for letter in out.dead} <= REASONS
    assert out.dead or out.n_ignored or len(out.batch)
    PartitionState(60).apply(out.batch)
