"""Windows: the job as every peer does it, in plain dicts.

It drops repeats and keeps the last 64 events and the counts per window and event type. Windows share their buckets, and
a user is one value. That is less work than a framework's own windows: each event would touch 12 + 24 + 30 of them.
Lateness, dead letters and money, which our worker handles, are left out. It uses the standard library only, since peers
run in an environment of their own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

__all__ = ["EMIT_EVERY_S", "apply", "new_user", "summary"]

#: A user who had an event gets a record on the output topic at most this long after.
EMIT_EVERY_S: Final = 1.0
_HISTORY_LEN: Final = 64
#: Name → (width in seconds, how many buckets are kept): 1 h is 12 × 5 min, 24 h is 24 × 1 h, 7 d and 30 d are days.
_BUCKETS: Final = {"5m": (300, 12), "1h": (3_600, 24), "1d": (86_400, 30)}
#: Name → (name of its buckets, how many of them), in the order in which they are emitted.
_WINDOWS: Final = {"1h": ("5m", 12), "24h": ("1h", 24), "7d": ("1d", 7), "30d": ("1d", 30)}


def new_user() -> dict[str, Any]:
    """A user without events."""
    return {"n_events": 0, "newest": 0, "events": [], "buckets": {name: {} for name in _BUCKETS}}


def apply(user: dict[str, Any], event: dict[str, Any]) -> bool:
    """Count an event of a user by event time. Returns False if it is among the user's last events already."""
    ident = event["messageId"]
    last = user["events"]
    if any(other[1] == ident for other in last):
        return False
    time, kind = int(datetime.fromisoformat(event["timestamp"]).timestamp()), event["event"]
    properties = event["properties"]
    last.append([time, ident, kind, properties["product_id"], properties["category"], properties.get("total")])
    last.sort()
    del last[:-_HISTORY_LEN]
    user["n_events"] += 1
    user["newest"] = newest = max(user["newest"], time)
    for name, (width_s, length) in _BUCKETS.items():
        _count(user["buckets"][name], time // width_s, newest // width_s - length, kind)
    return True


def _count(buckets: dict[str, dict[str, int]], number: int, expired: int, kind: str) -> None:
    """Add one to a bucket, and drop the buckets that have left the longest window."""
    if number <= expired:
        return
    if str(number) not in buckets:
        buckets[str(number)] = {}
        for old in [other for other in buckets if int(other) <= expired]:
            del buckets[old]
    bucket = buckets[str(number)]
    bucket[kind] = bucket.get(kind, 0) + 1


def summary(user: dict[str, Any]) -> dict[str, Any]:
    """The record of a user: number of events, and number in each window as of the newest event."""
    return {"n_events": user["n_events"], "windows": [_inside(user, *window) for window in _WINDOWS.values()]}


def _inside(user: dict[str, Any], name: str, length: int) -> int:
    first = user["newest"] // _BUCKETS[name][0] - length
    return sum(sum(by_kind.values()) for number, by_kind in user["buckets"][name].items() if int(number) > first)
