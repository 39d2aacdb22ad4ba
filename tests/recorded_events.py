"""Recorded events: the records that ``tests.same_bytes`` gives to both builds, made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from stream.decode.decoder import ORIGIN_HEADER
from stream.state.erasure import COMMAND_HEADER, ERASE

__all__ = ["Recorded", "recorded_events"]

#: Event times lead up to the end from this long before.
SPAN_S: Final = 1_800
#: Event names, and how often each comes.
NAMES: Final = {
    "Product Viewed": 40,
    "Product List Viewed": 6,
    "Products Searched": 10,
    "Product Added to Wishlist": 3,
    "Product Added": 12,
    "Product Removed": 3,
    "Order Completed": 8,
    "Order Refunded": 3,
    "Product Reviewed": 4,
    "Coupon Applied": 2,  # It is not among the names that the decoder knows, so it counts as OTHER.
}
CATEGORIES: Final = ("shoes", "coats", "shirts", "bags", "kitchen", None)
TEXTS: Final = ("Fits well, I would buy it again.", "Broke after a day. Never again!", "  ", 7, None)


class Recorded(NamedTuple):
    """One record of the events topic; ``time`` is the timestamp that Kafka keeps with it, in seconds."""

    key: bytes | None
    value: bytes | None
    time: float
    headers: tuple[tuple[str, bytes], ...] = ()


def recorded_events(n: int, users: int, seed: int, end: int) -> Iterator[Recorded]:
    """``n`` records that lead up to ``end``; the same arguments give the same bytes.

    Some users send far more than others, so that histories overflow into buckets. About one record in thirty is an
    earlier one once more, one in fifty becomes a dead letter, and one in a thousand asks for an erasure.
    """
    rng = random.Random(seed)
    activity = [rng.lognormvariate(0, 1.2) for _ in range(users)]
    recent: list[Recorded] = []
    for i in range(n):
        at = end - SPAN_S + SPAN_S * i / n
        number = rng.choices(range(users), activity)[0]
        user, kind = _user(number), rng.random()
        if number % 50 == 3 and i > 0.9 * n:
            # These users do not come back: they leave a tombstone.
            record = _erasure(user, at)
        elif kind < 0.03 and recent:
            record = rng.choice(recent)._replace(time=at)
        elif kind < 0.05:
            record = _unusable(rng, i, user, at)
        elif kind < 0.051:
            record = _erasure(user, at)
        else:
            record = _event(rng, i, user, at)
        recent = [*recent[-200:], record]
        yield record


def _user(number: int) -> str:
    """Ids of several forms: most are plain, some are numbers, some are not ASCII."""
    return str(number) if number % 10 == 1 else f"käufer-{number}" if number % 10 == 2 else f"user-{number}"


def _erasure(user: str, at: float) -> Recorded:
    return Recorded(user.encode(), None, at, ((COMMAND_HEADER, ERASE),))


def _event(rng: random.Random, i: int, user: str, at: float) -> Recorded:
    """A Segment event that can be used. Some come hours late, but within the lateness; few are of no interest."""
    event_time = at - rng.choice((rng.random() * 30, rng.random() * 30, rng.random() * 20_000))
    event: dict[str, Any] = {"type": "track", "timestamp": _time(rng, event_time), **_person(user)}
    if rng.random() < 0.97:
        event["messageId"] = f"m{i}"
    kind = rng.random()
    if kind < 0.05:
        event["type"] = rng.choice(("page", "screen", "identify", "group"))
    else:
        name = rng.choices(list(NAMES), list(NAMES.values()))[0]
        event |= {"event": name, "properties": _properties(rng, i, name)}
    return Recorded(user.encode(), json.dumps(event, ensure_ascii=bool(i % 2)).encode(), at)


def _person(user: str) -> dict[str, Any]:
    if user.isdigit():
        return {"userId": int(user)}
    return {"anonymousId": user} if user.endswith("7") else {"userId": user, "anonymousId": "a"}


def _time(rng: random.Random, seconds: float) -> Any:
    """The same time in one of the forms that senders use."""
    whole = int(seconds)
    utc = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return rng.choice((whole, round(seconds, 3), whole * 1000 + 5, utc, utc.replace("+00:00", "Z")))


def _properties(rng: random.Random, i: int, name: str) -> dict[str, Any]:
    item = rng.randrange(300)
    product = {"product_id": f"p{item}", "category": rng.choice(CATEGORIES), "price": rng.randrange(100, 9_000) / 100}
    if name == "Product Reviewed":
        return {**product, "review_body": rng.choice(TEXTS)}
    if not name.startswith("Order"):
        return product
    # One order in twenty has the id of another: only the first of them counts.
    order = {"order_id": f"o{i if rng.random() < 0.95 else i // 20}", "currency": rng.choice(("USD", "USD", "GBP"))}
    amount = rng.choice(("total", "revenue", "value", "products"))
    if amount == "products":
        return {**order, "products": [{**product, "quantity": rng.randrange(1, 4)}, {"sku": "s1", "price": "9.5"}]}
    return {**order, **product, amount: rng.choice((product["price"], str(product["price"])))}


def _unusable(rng: random.Random, i: int, user: str, at: float) -> Recorded:
    """A record that must come out as a dead letter."""
    good = {"type": "track", "event": "Order Completed", "messageId": f"x{i}", "userId": user, "timestamp": int(at)}
    if rng.random() < 0.15:
        # More than a day behind the newest event: too late. It keeps its key, as the first records are never late.
        late = good | {"timestamp": int(at) - rng.choice((90_000, 400_000))}
        return Recorded(user.encode(), json.dumps(late).encode(), at)
    values: tuple[Any, ...] = (
        *(b"not json", b"{", b"[]", b"\0\0\0\0\1avro", b"\xff\xfe", b"[" * 5_000, b'"text"', None, b" " * 270_000),
        *(good | {"userId": value} for value in (None, "", "u" * 300, "a\0b", ["u"])),
        *(good | {"timestamp": value} for value in (None, "yesterday", -5, 10**30, 0, at + 366 * 86_400)),
        *(good | {"properties": {"total": value}} for value in ("ten", 1e300, "NaN", {}, 3e7)),
        good | {"properties": {"total": 5, "currency": "XYZ"}},
    )
    value = rng.choice(values)
    headers = rng.choice(((), (("trace", b"\1\2"),), ((ORIGIN_HEADER, b"events/0/7"), ("valuestream.attempt", b"2"))))
    content = json.dumps(value).encode() if isinstance(value, dict) else value
    # kafka-python sends no record that has neither a key nor a value.
    key = rng.choice((user.encode(), b"\xff", None if content else b""))
    return Recorded(key, content, at, headers)
