"""Events: the workload of the benchmark. All systems get the same bytes, Segment events of a shop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import numpy as np

from stream.arrays import Floats
from stream.contract.columns import DAY_S
from tests.broker.harness import Message

__all__ = ["SPAN_S", "clicks", "everyone", "zipf"]

#: It is longer than the longest window, so that events leave every window.
SPAN_S: Final = 40 * DAY_S
#: How many seconds an event may be older than the ones before it.
_DISORDER_S: Final = 600
#: A repeat comes at most this many records after the event.
_REPEAT_WITHIN: Final = 50
#: Users differ in activity: with a spread of 1 the busiest tenth of them sends about 40 % of the events.
_ACTIVITY_SPREAD: Final = 1.0

_NAMES: Final = ("Product Viewed", "Products Searched", "Product Added", "Product Removed", "Order Completed")
_SHARES: Final = (0.72, 0.12, 0.1, 0.02, 0.04)
_CATEGORIES: Final = ("shoes", "coats", "shirts", "bags", "kitchen", "garden", "toys", "books")


def clicks(
    n: int,
    users: int,
    seed: int,
    end: float,
    *,
    span_s: float = SPAN_S,
    repeated: float = 0.01,
    activity: Floats | None = None,
) -> Iterator[Message]:
    """Keys and values of ``n`` records, slightly out of order, with event times that lead up to ``end``.

    A share of ``repeated`` of the records are earlier records once more. Users send in proportion to their
    ``activity``, which is log-normal by default. The same arguments give the same bytes.
    """
    rng = np.random.default_rng(seed)
    if activity is None:
        activity = rng.lognormal(0.0, _ACTIVITY_SPREAD, users)
    who = rng.choice(users, n, p=activity / activity.sum()).tolist()
    kinds = rng.choice(len(_NAMES), n, p=_SHARES).tolist()
    items = rng.integers(0, 2_000, n).tolist()
    cents = rng.integers(100, 20_000, n).tolist()
    times = (end - span_s + span_s * np.arange(1, n + 1) / n - rng.uniform(0, min(_DISORDER_S, span_s), n)).tolist()
    repeats = np.where(rng.random(n) < repeated, rng.integers(1, _REPEAT_WITHIN, n), 0).tolist()
    sent: list[Message] = []
    for i in range(n):
        back = repeats[i]
        if 0 < back <= len(sent):
            message = sent[-back]
        else:
            message = _message(f"{seed}-{i:08x}", f"user-{who[i]:07d}", _NAMES[kinds[i]], times[i], items[i], cents[i])
        sent.append(message)
        del sent[:-_REPEAT_WITHIN]
        yield message


def everyone(users: int, seed: int, end: float, *, span_s: float = DAY_S) -> Iterator[Message]:
    """One record of each user, in an order that the seed decides, with event times before ``end``."""
    for i, user in enumerate(np.random.default_rng(seed).permutation(users).tolist()):
        at = end - span_s + span_s * i / users
        yield _message(f"first-{i:08x}", f"user-{user:07d}", _NAMES[0], at, i % 2_000, 1_000)


def zipf(users: int, seed: int, exponent: float = 1.1) -> Floats:
    """Activity of each user by Zipf's law; the seed decides which users are the busiest."""
    rank = np.random.default_rng(seed).permutation(users) + 1
    return np.asarray(rank**-exponent, np.float64)


def _message(ident: str, user: str, name: str, time: float, item: int, cents: int) -> Message:
    at = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    order = f',"order_id":"o-{ident}","total":{cents / 100}' if name == "Order Completed" else ""
    value = (
        f'{{"type":"track","event":"{name}","messageId":"m-{ident}","userId":"{user}","timestamp":"{at}",'
        f'"properties":{{"product_id":"p-{item:04d}","category":"{_CATEGORIES[item % len(_CATEGORIES)]}",'
        f'"price":{cents / 100},"quantity":1,"currency":"USD"{order}}},'
        '"context":{"library":{"name":"analytics.js"}}}'
    )
    return user.encode(), value.encode()
