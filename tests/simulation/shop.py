"""Shop: makes the events of a few users from a seed. Some are sent twice, late or unreadable, some are reviews."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final

from stream.outgoing import Outgoing

__all__ = ["LATENESS_S", "START", "events"]

#: The simulated clock starts at 2025-01-01T00:00:00Z.
START: Final = 1_735_689_600
DAY_S: Final = 86_400
LATENESS_S: Final = 1.0 * DAY_S
#: Event time goes on in steps of 0.7 days. So no user is ever within minutes of an age of silence (1, 3, 7, … days),
#: and the wall clock does not decide which users are silent.
_STEP_S: Final = 60_480
_KINDS: Final = ("view", "view", "search", "cart", "purchase", "review")


def events(rng: random.Random, n: int, users: int, unreadable: float) -> Iterator[tuple[int, Outgoing]]:
    """``n`` records, each with its partition. User ``u<i>`` belongs to partition ``i % 2``."""
    before: list[tuple[int, Outgoing]] = []
    for i in range(n):
        if before and rng.random() < 0.1:
            yield before[-rng.randrange(1, min(len(before), 8) + 1)]
            continue
        # The first user sends half of all events, so that a replay may go back further than a user's last 64 events.
        user = 0 if rng.random() < 0.5 else rng.randrange(users)
        value = b"{" if rng.random() < unreadable else _value(rng, i, n, user)
        record = Outgoing(f"u{user}".encode(), value)
        before.append((user % 2, record))
        yield before[-1]


def _value(rng: random.Random, i: int, n: int, user: int) -> bytes:
    step = 5 * i // n - (rng.choice((1, 2, 3)) if rng.random() < 0.15 else 0)
    kind = rng.choice(_KINDS)
    event = {"type": kind, "user_id": f"u{user}", "ts": START - 5 * _STEP_S + step * _STEP_S + rng.randrange(300)}
    if rng.random() < 0.9:
        event["event_id"] = f"e{i}"
    if kind == "purchase":
        event |= {"price": rng.randrange(100), "order_id": f"o{i}"}
    if kind == "review":
        event["text"] = f"review {i}"
    return json.dumps(event).encode()
