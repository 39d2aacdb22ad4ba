"""Occlusion: what a user looks like to the model without one group of evidence.

Occlusion (Zeiler & Fergus 2014) asks the model itself: take a group away, score again, and the difference is the
effect of the group. There are three kinds of groups, and each is taken away in its own way:

- silence: the user is seen at the moment of the last event;
- something that happened (carts, refunds, reviews): its events leave the history, and its features become 0;
- a lack of something (visits, spend, orders, time): nothing can be taken away, so its features become typical ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from stream.arrays import FeatureRows, Seconds, TokenRows
from stream.contract.columns import WINDOWS
from stream.contract.events import EventType
from stream.contract.tokens import CHANNELS, FEATURES
from stream.score.encode import encode
from stream.score.features import features
from stream.state.partition_state import Snapshot

__all__ = ["GROUPS", "SILENCE", "Group", "occlusions"]

_TYPE: Final = CHANNELS.index("type")


@dataclass(frozen=True, slots=True)
class Group:
    """Evidence that a person would name together: features, and the event types of something that happened.

    A group without ``types`` is a lack of something, or silence.
    """

    code: str
    features: tuple[str, ...]
    types: tuple[EventType, ...] = ()


def _windowed(*names: str) -> tuple[str, ...]:
    """The features of these names, in every window."""
    return tuple(f"{name}_{window}" for name in names for window in WINDOWS)


SILENCE: Final = Group("silence", ("recency", "recency_over_gap"))
_VISITS: Final = (*_windowed("other", "view", "search", "wishlist"), "active_days_7d", "active_days_30d")
#: All groups of evidence; silence is the first. Every feature is in exactly one group. The codes are a closed set.
GROUPS: Final = (
    SILENCE,
    Group("fewer_visits", (*_VISITS, "gap_mean", "gap_std")),
    Group("spend_down", (*_windowed("revenue"), "revenue", "order_value")),
    Group("no_recent_order", (*_windowed("purchase"), "order_recency", "has_order", "orders")),
    Group("short_history", ("tenure", "n_events")),
    Group("carts_abandoned", _windowed("cart", "uncart"), (EventType.CART, EventType.UNCART)),
    Group("refunds", _windowed("refund"), (EventType.REFUND,)),
    Group("bad_review", (*_windowed("review"), "reviews", "sentiment_mean", "sentiment_last"), (EventType.REVIEW,)),
)


def occlusions(snapshot: Snapshot, as_of: Seconds, typical: FeatureRows) -> tuple[TokenRows, FeatureRows]:
    """Tokens and features ``((1 + groups) * n, …)``: ``n`` users as they are, then all of them without each group.

    ``typical`` (features,) are the features of a typical user. ``as_of`` (n,) is not before the users' last events.
    """
    tokens, numbers = encode(snapshot, as_of), features(snapshot, as_of)
    last = snapshot.users["last_time"].astype(np.int64)
    others = GROUPS[1:]
    tokens_without = (_without_events(tokens, group) for group in others)
    numbers_without = (_without_features(numbers, group, typical) for group in others)
    return (
        np.concatenate([tokens, encode(snapshot, last), *tokens_without]),
        np.concatenate([numbers, features(snapshot, last), *numbers_without]),
    )


def _without_features(numbers: FeatureRows, group: Group, typical: FeatureRows) -> FeatureRows:
    """Features without a group: 0 for something that happened, typical for a lack of something."""
    columns = [FEATURES.index(name) for name in group.features]
    out = numbers.copy()
    out[:, columns] = 0 if group.types else typical[columns]
    return out


def _without_events(tokens: TokenRows, group: Group) -> TokenRows:
    """Histories without a group's events. Later events move up, because the scorer expects padding at the end only."""
    kept = np.where(np.isin(tokens[:, :, _TYPE], group.types)[:, :, None], 0, tokens)
    order = np.argsort(kept[:, :, _TYPE] == 0, axis=1, kind="stable")
    out: TokenRows = np.take_along_axis(kept, order[:, :, None], axis=1)
    return out
