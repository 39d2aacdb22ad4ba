"""The two inputs of the model: token channels for each event, numeric features for each user.

The version must be raised when the meaning or size of a channel changes, or the name, order or meaning of a feature. A
model made for another version is refused at start-up.
"""

from __future__ import annotations

from typing import Final

from stream.contract.columns import WINDOWS
from stream.contract.events import EventType

__all__ = ["CHANNELS", "CHANNEL_SIZES", "FEATURES", "FEATURES_VERSION", "LENGTHS", "TOKENS_VERSION"]

TOKENS_VERSION: Final = 2
FEATURES_VERSION: Final = 2

#: Channel → number of its values (0 is padding, or "not given"). There is one position for each event. Category and
#: item are the hash buckets of the state, unchanged: the model folds them, or looks them up in its table of product
#: texts.
CHANNEL_SIZES: Final = {
    "type": 16,
    "category": 65_536,
    "item": 65_536,
    "price": 32,
    "gap": 32,
    "hour_of_week": 169,
    "age": 48,
}
CHANNELS: Final = tuple(CHANNEL_SIZES)
#: A history is padded to the next of these lengths, so that the model sees few shapes.
LENGTHS: Final = (8, 16, 32, 64)

#: The numeric features, in the order in which the model reads them.
FEATURES: Final = (
    *(f"{t.name.lower()}_{w}" for w in WINDOWS for t in EventType),
    *(f"revenue_{w}" for w in WINDOWS),
    "active_days_7d",
    "active_days_30d",
    "recency",
    "order_recency",
    "has_order",
    "tenure",
    "n_events",
    "orders",
    "revenue",
    "order_value",
    "gap_mean",
    "gap_std",
    "recency_over_gap",
    "reviews",
    "sentiment_mean",
    "sentiment_last",
)
