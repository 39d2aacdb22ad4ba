"""What the service knows of one user, as plain values. ``user show`` and ``user export`` print them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stream.checkpoint.byte_strings import ByteStrings
from stream.checkpoint.packed_values import PackedValues
from stream.commands.user.read import Held
from stream.contract.columns import IDLE_AGES_S, SENTIMENT_SCALE, WINDOWS
from stream.contract.events import VALUE_SCALE, EventType
from stream.iso_time import iso_seconds
from stream.score.features import windows
from stream.state.partition_state import Snapshot

__all__ = ["facts", "history", "orders", "reviews"]

_LAST_EVENTS: Final = 10


def facts(user_id: str, held: Held, snapshot: Snapshot) -> dict[str, Any]:
    """What ``user show`` says about the state of a user. The windows end at the last event."""
    state = snapshot.users[0]
    last_time = np.array([state["last_time"]], np.int64)
    counts, revenue = windows(snapshot, last_time)
    return {
        "user_id": user_id,
        "partition": held.partition,
        "applied_offset": int(state["applied_offset"]),
        "first_seen": iso_seconds(int(state["first_time"])),
        "last_event": iso_seconds(int(state["last_time"])),
        "events": int(state["n_events"]),
        "orders": int(state["orders"]),
        "revenue": _money(state["revenue"]),
        "currency": state["currency"].decode() or None,
        "windows": {
            name: {
                "events": {t.name.lower(): int(counts[0, w, t - 1]) for t in EventType if counts[0, w, t - 1]},
                "revenue": _money(revenue[0, w]),
            }
            for w, name in enumerate(WINDOWS)
        },
        "last_events": [
            {field: event[field] for field in ("time", "type", "value")} for event in history(snapshot)[:_LAST_EVENTS]
        ],
        "last_score": _last_score(state),
        "score_record": held.score,
    }


def history(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The events of the history, the newest first. Category and item are hash buckets, because names are not kept."""
    events = snapshot.history[0][: snapshot.users[0]["history_len"]][::-1]
    return [
        {
            "time": iso_seconds(int(event["time"])),
            "type": EventType(int(event["type"])).name.lower(),
            "value": _money(event["value"]),
            "category_hash": int(event["category"]),
            "item_hash": int(event["item"]),
        }
        for event in events
    ]


def orders(value: bytes) -> list[dict[str, Any]]:
    """The last orders that a changelog value remembers, the oldest first. Their ids are hashes."""
    return [
        {
            "order_hash": int(order["order"]),
            "paid": _money(order["paid"]) if order["known"] else None,
            "refunded": _money(order["refunded"]),
            "cancelled": bool(order["cancelled"]),
        }
        for order in PackedValues.parse(ByteStrings.joined([value])).orders
    ]


def reviews(snapshot: Snapshot) -> dict[str, Any]:
    """How many reviews were read, and their mean and last sentiment, from -1 to 1."""
    state = snapshot.users[0]
    n = int(state["reviews"])
    return {
        "read": n,
        "sentiment_mean": round(int(state["sentiment_sum"]) / (n * SENTIMENT_SCALE), 4) if n else None,
        "sentiment_last": int(state["sentiment_last"]) / SENTIMENT_SCALE if n else None,
    }


def _last_score(state: Any) -> dict[str, Any] | None:
    if state["scored_offset"] < 0:
        return None
    return {
        "scored_offset": int(state["scored_offset"]),
        "has_seen_last_event": bool(state["scored_offset"] >= state["applied_offset"]),
        "silence_days": int(IDLE_AGES_S[state["idle_stage"]]) // 86_400,
        "churn": round(float(state["churn"]), 6),
        "purchase": round(float(state["purchase"]), 6),
        "ltv": round(float(state["ltv"]), 4),
    }


def _money(hundredths: Any) -> float:
    return int(hundredths) / VALUE_SCALE
