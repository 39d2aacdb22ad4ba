"""Occlude: what a user would look like to the model without one group of evidence.

Occlusion (Zeiler & Fergus 2014) asks the model itself: take a group away, score again, and the difference is what the
group did. A group is of one of three kinds, by what "without it" means:

- silence: the user as seen at the moment of the last event;
- something that happened (carts, refunds, reviews): those events are taken out of the history, its features are 0;
- a lack of something (visits, spend, orders, time): nothing can be taken out, so its features become typical ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.contract.columns import WINDOWS
from stream.contract.events import EventType
from stream.contract.tokens import CHANNELS, FEATURES
from stream.score.encode import encode
from stream.score.features import features
from stream.state.partition_state import Snapshot

__all__ = ["GROUPS", "SILENCE", "Group", "occlusions"]

Array = npt.NDArray[Any]
_TYPE: Final = CHANNELS.index("type")


@dataclass(frozen=True, slots=True)
class Group:
    """Evidence that a person would name in one breath; ``types`` are the events of something that happened."""

    code: str
    features: tuple[str, ...]
    types: tuple[EventType, ...] = ()


def _windowed(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{window}" for name in names for window in WINDOWS)


SILENCE: Final = Group("silence", ("recency", "recency_over_gap"))
_VISITS: Final = (*_windowed("other", "view", "search", "wishlist"), "active_days_7d", "active_days_30d")
#: Every group of evidence, silence first; every feature is in exactly one. Their codes are a closed set.
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


def occlusions(
    snapshot: Snapshot, as_of: Array, typical: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Model inputs of ``n`` users as they are, then without each group: ``((1 + groups) * n, …)``, group by group.

    ``typical`` is a row of features. ``as_of`` is in seconds, not before the users' last events.
    """
    tokens, numbers = encode(snapshot, as_of), features(snapshot, as_of)
    last = snapshot.users["last_time"].astype(np.int64)
    rest = GROUPS[1:]
    return (
        np.concatenate([tokens, encode(snapshot, last), *(_without_events(tokens, group) for group in rest)]),
        np.concatenate([numbers, features(snapshot, last), *(_without(numbers, group, typical) for group in rest)]),
    )


def _without(numbers: Array, group: Group, typical: Array) -> Array:
    """Features without a group: 0 had it not happened, typical where it is a lack."""
    columns = [FEATURES.index(name) for name in group.features]
    out = numbers.copy()
    out[:, columns] = 0 if group.types else typical[columns]
    return out


def _without_events(tokens: Array, group: Group) -> Array:
    """Histories without a group's events; later ones move up, as the scorer looks for padding at the end only."""
    kept = np.where(np.isin(tokens[:, :, _TYPE], group.types)[:, :, None], 0, tokens)
    order = np.argsort(kept[:, :, _TYPE] == 0, axis=1, kind="stable")
    out: Array = np.take_along_axis(kept, order[:, :, None], axis=1)
    return out
