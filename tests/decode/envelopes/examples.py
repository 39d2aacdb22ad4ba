"""Examples: events of the presets whose senders have no library in Python, as their specifications show them."""

from __future__ import annotations

from typing import Any

__all__ = [
    "EXAMPLES",
    "GA4_PAYLOAD",
    "GA4_ROW",
    "SHOPIFY_ORDER",
    "SHOPIFY_REFUND",
    "SNOWPLOW_JSON",
    "TIME",
    "WOOCOMMERCE_ORDER",
]

#: When the examples happened.
TIME = 1_735_600_000
GA4_ITEMS = [{"item_id": "p1", "item_name": "Boots", "item_category": "shoes", "price": 5, "quantity": 2}]
GA4_PAYLOAD = {
    "client_id": "1234.5678",
    "user_id": "ann",
    "timestamp_micros": str(TIME * 1_000_000),
    "events": [
        {"name": "view_item", "params": {"currency": "USD", "value": 5, "items": GA4_ITEMS}},
        {"name": "purchase", "params": {"transaction_id": "o1", "value": 12.5, "currency": "USD", "items": GA4_ITEMS}},
        {"name": "refund", "params": {"transaction_id": "o1", "currency": "USD"}},
        {"name": "user_engagement", "params": {"engagement_time_msec": 10}},
    ],
}
GA4_ROW = {
    "event_date": "20241230",
    "event_timestamp": TIME * 1_000_000,
    "event_name": "purchase",
    "event_params": [
        {"key": "transaction_id", "value": {"string_value": "o1"}},
        {"key": "value", "value": {"string_value": None, "double_value": 12.5}},
        {"key": "currency", "value": {"string_value": "USD"}},
    ],
    "event_value_in_usd": 99.0,
    "user_pseudo_id": "1234.5678",
    "ecommerce": {"transaction_id": "o1", "purchase_revenue": 12.5},
    "items": GA4_ITEMS,
}
SNOWPLOW_JSON = {
    "event": "unstruct",
    "event_name": "snowplow_ecommerce_action",
    "event_id": "e1",
    "user_id": None,
    "domain_userid": "visitor",
    "collector_tstamp": "2024-12-30T23:06:40.000Z",
    "derived_tstamp": "2024-12-30T23:06:40.000Z",
    "unstruct_event_com_snowplowanalytics_snowplow_ecommerce_snowplow_ecommerce_action_1": {"type": "transaction"},
    "contexts_com_snowplowanalytics_snowplow_ecommerce_product_1": [{"id": "p1", "category": "shoes", "price": 12.5}],
    "contexts_com_snowplowanalytics_snowplow_ecommerce_transaction_1": [
        {"transaction_id": "o1", "revenue": 12.5, "currency": "USD"}
    ],
}
SHOPIFY_ORDER = {
    "id": 820982911946154508,
    "customer": {"id": 115310627314723954, "email": "ann@example.com"},
    "created_at": "2024-12-30T23:06:40-00:00",
    "updated_at": "2024-12-30T23:06:40-00:00",
    "cancelled_at": None,
    "currency": "USD",
    "financial_status": "paid",
    "total_price": "409.94",
    "line_items": [{"product_id": 632910392, "sku": "IPOD", "price": "199.00", "quantity": 1}],
    "test": False,
}
SHOPIFY_REFUND = {
    "id": 890088186047892319,
    "order_id": 820982911946154508,
    "created_at": "2024-12-30T23:08:00Z",
    "user_id": 548380009,
    "refund_line_items": [],
    "transactions": [{"kind": "refund", "status": "success", "amount": "9.94", "currency": "USD"}],
}
WOOCOMMERCE_ORDER = {
    "id": 727,
    "status": "processing",
    "currency": "USD",
    "total": "29.35",
    "customer_id": 26,
    "billing": {"email": "ann@example.com"},
    "date_created_gmt": "2024-12-30T23:00:00",
    "date_modified_gmt": "2024-12-30T23:06:40",
    "line_items": [{"product_id": 93, "sku": "", "price": 10, "quantity": 2}],
    "refunds": [],
}
#: Preset → examples, the first of them one event that can be used.
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "ga4": [GA4_ROW, GA4_PAYLOAD],
    "snowplow": [SNOWPLOW_JSON],
    "shopify": [SHOPIFY_ORDER, SHOPIFY_REFUND],
    "woocommerce": [WOOCOMMERCE_ORDER],
}
