"""Flat: an event without an envelope."""

from __future__ import annotations

from typing import Final

from stream.decode.envelopes.envelope import ALL_NAMES
from stream.decode.envelopes.mapped import envelope_of_mapping
from stream.decode.envelopes.mapping import MappedEnvelope, paths

__all__ = ["FLAT"]

FLAT: Final = envelope_of_mapping(
    MappedEnvelope(
        type=paths("type"),
        user=paths("user_id"),
        time=paths("ts"),
        id=paths("event_id"),
        item=paths("item_id"),
        category=paths("category"),
        price=paths("price"),
        quantity=paths("quantity"),
        order=paths("order_id"),
        currency=paths("currency"),
        text=paths("text"),
        names=ALL_NAMES,
    )
)
