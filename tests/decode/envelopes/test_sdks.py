"""Tests with the libraries of the senders: what an SDK posts to a collector is read as what was meant."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import posthog
import pytest
import rudderstack.analytics as rudderstack
import segment.analytics as segment
from cloudevents.core.bindings.kafka import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from snowplow_tracker import Emitter, PageView, SelfDescribing, SelfDescribingJson, StructuredEvent, Subject, Tracker

from stream.contract.events import EventType, OrderChange
from stream.decode.decoder import Decoded, Decoder, Money, hash_bucket
from tests.decode.envelopes.collector import Collector, collector
from tests.decode.envelopes.enrich import enriched_line

LINES = [{"product_id": "p1", "category": "shoes", "price": 5, "quantity": 2}, {"sku": "p2", "price": 2.5}]
ORDER = {"order_id": "o1", "total": 12.5, "currency": "USD", "products": LINES}
_VIEW, _CART, _PURCHASE = int(EventType.VIEW), int(EventType.CART), int(EventType.PURCHASE)


@pytest.fixture
def posted() -> Iterator[Collector]:
    with collector() as collected:
        yield collected


def read(envelope: str, *values: bytes | None, headers: Any = ()) -> Decoded:
    """Decode these values as records of one fetch."""
    decoder = Decoder(envelope, Money("USD"), bytes_max=1_000_000, future_skew_s=60)
    records = [SimpleNamespace(offset=i, value=v, key=b"k", headers=headers) for i, v in enumerate(values)]
    out = decoder.decode(records, time.time())
    assert [letter.message for letter in out.dead] == []
    return out


def assert_order(out: Decoded, place: int) -> None:
    """Check that the event at this place is the order."""
    row = out.batch.rows[place]
    assert (row["type"], row["value"]) == (_PURCHASE, 1_250)
    assert (row["item"], row["category"]) == (hash_bucket("p1"), hash_bucket("shoes"))
    assert out.batch.orders["change"][place] == OrderChange.TOTAL
    assert abs(int(row["time"]) - time.time()) < 60


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_segment_analytics_python(posted: Collector, packed: bool) -> None:
    client = segment.Client("key", host=posted.url, gzip=packed)
    client.track("ann", "Product Viewed", {"product_id": "p1"})
    client.track("ann", "Order Completed", ORDER)
    client.page("ann", "Home")
    client.track(anonymous_id="visitor", event="Product Added", properties={"product_id": "p1"})
    client.identify("ann", {"plan": "free"})
    client.shutdown()
    out = read("segment", *posted.bodies)
    assert out.batch.users == ["ann", "ann", "ann", "visitor"]
    assert out.batch.rows["type"].tolist() == [_VIEW, _PURCHASE, _VIEW, _CART]
    assert_order(out, 1)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_rudder_sdk_python(posted: Collector, packed: bool) -> None:
    client = rudderstack.Client("key", host=posted.url, gzip=packed)
    client.track("ann", "Product Viewed", {"product_id": "p1"})
    client.track("ann", "Order Completed", ORDER)
    client.screen("ann", "Home")
    client.flush()
    client.join()
    out = read("rudderstack", *posted.bodies)
    assert out.batch.users == ["ann"] * 3
    assert out.batch.rows["type"].tolist() == [_VIEW, _PURCHASE, _VIEW]
    assert_order(out, 1)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_posthog(posted: Collector, packed: bool) -> None:
    client = posthog.Posthog("key", host=posted.url, gzip=packed)
    client.capture("$pageview", distinct_id="ann")
    client.capture("Order Completed", distinct_id="ann", properties=ORDER)
    client.capture("Product Added", distinct_id="bob", properties={"product_id": "p1"})
    client.set(distinct_id="ann", properties={"plan": "free"})
    client.shutdown()
    out = read("posthog", *posted.bodies)
    assert out.batch.users == ["ann", "ann", "bob"]
    assert out.batch.rows["type"].tolist() == [_VIEW, _PURCHASE, _CART]
    assert_order(out, 1)


SHOP = "iglu:com.snowplowanalytics.snowplow.ecommerce"


def entity(name: str, **data: Any) -> SelfDescribingJson:
    return SelfDescribingJson(f"{SHOP}/{name}/jsonschema/1-0-0", data)


@pytest.mark.parametrize("encoded", [True, False], ids=["base64", "plain"])
def test_snowplow_tracker(posted: Collector, encoded: bool) -> None:
    """The tracker's events reach Kafka behind Snowplow's enrichment, which :mod:`enrich` stands in for."""
    emitter = Emitter(posted.host, protocol="http", batch_size=1)
    tracker = Tracker("ns", emitter, subject=Subject().set_user_id("ann"), encode_base64=encoded)
    product = entity("product", id="p1", category="shoes", price=12.5, currency="USD")
    paid = entity("transaction", transaction_id="o1", revenue=12.5, currency="USD")
    tracker.track(PageView("http://shop.example/p1"))
    tracker.track(SelfDescribing(entity("snowplow_ecommerce_action", type="add_to_cart"), context=[product]))
    tracker.track(SelfDescribing(entity("snowplow_ecommerce_action", type="transaction"), context=[paid, product]))
    tracker.track(StructuredEvent("shop", "product_view", label="p1"))
    tracker.flush()
    out = read("snowplow", *map(enriched_line, posted.bodies))
    assert out.batch.users == ["ann"] * 4
    assert out.batch.rows["type"].tolist() == [_VIEW, _CART, _PURCHASE, int(EventType.OTHER)]
    assert_order(out, 2)
    assert out.batch.rows["item"].tolist() == [0, hash_bucket("p1"), hash_bucket("p1"), 0]


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_cloudevents(mode: str) -> None:
    event = CloudEvent(
        {
            **{"id": "e1", "source": "/shop", "type": "com.example.shop.order.completed", "specversion": "1.0"},
            **{"subject": "ann", "time": datetime.now(UTC), "datacontenttype": "application/json"},
        },
        {"order_id": "o1", "total": 12.5, "currency": "USD", "products": LINES},
    )
    message = to_structured_event(event) if mode == "structured" else to_binary_event(event)
    out = read("cloudevents", message.value, headers=[*message.headers.items()])
    assert out.batch.users == ["ann"]
    assert_order(out, 0)
    assert not out.fields_ignored
