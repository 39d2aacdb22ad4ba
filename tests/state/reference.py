"""A plain, obviously correct model of one user: sort, de-duplicate, count. Slow, and independent of the columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from stream.contract.events import EventType


@dataclass(frozen=True, order=True)
class Plain:
    """One event as a person would write it down; ``time`` in seconds."""

    time: int
    user: str
    identity: int
    type: int
    value: int = 0
    category: int = 0
    item: int = 0


#: window → (bucket width in seconds, number of buckets); written out again here on purpose.
WINDOWS = {"1h": (300, 12), "24h": (3600, 24), "7d": (86400, 7), "30d": (86400, 30)}


def events_of(events: list[Plain], user: str) -> list[Plain]:
    """The user's events, each identity once, in time order."""
    return sorted({e.identity: e for e in events if e.user == user}.values())


def window(events: list[Plain], name: str, as_of: int) -> tuple[Counter[int], int]:
    """Counts by type and net value of the events in the window that ends with the bucket of ``as_of``."""
    width, n = WINDOWS[name]
    inside = [e for e in events if as_of // width - e.time // width < n]
    return Counter(e.type for e in inside), sum(e.value for e in inside)


def active_days(events: list[Plain], days: int, as_of: int) -> int:
    """Distinct UTC days with an event, of the last ``days``."""
    return len({e.time // 86400 for e in events if as_of // 86400 - e.time // 86400 < days})


def orders(events: list[Plain]) -> list[Plain]:
    """The user's purchases."""
    return [e for e in events if e.type == EventType.PURCHASE]
