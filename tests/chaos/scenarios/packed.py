"""Packed: events as real senders pack them, compressed and in batches, while workers die."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from stream.settings import Settings
from tests.broker.harness import Message, partition_of
from tests.broker.librdkafka import CODECS, send_by_librdkafka
from tests.chaos.judge import Verdict, judge, recovered
from tests.chaos.scenarios.crash import QUICK
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["input_packed"]

_RECORD_EVENTS_MAX: Final = 12
_Event = dict[str, Any]


@scenario("input_packed")
def input_packed(world: World) -> Verdict:
    """Records in every codec, many with several events, and orders told by several of them; workers die by kill -9.

    Events, orders and revenue are counted apart, by what the shop knows.
    """
    rng = random.Random(f"input_packed {world.seed}")
    settings = world.settings(instance_id="packed")
    n_parts, n_visits = (2, 60) if world.short else (8, 1_200)
    shop = _Shop(rng, users=max(20, n_visits // 4))
    worker = world.worker(settings, **QUICK)
    worker.wait_ready()
    for part in range(n_parts):
        for codec, messages in _in_codecs(rng, shop.visits(n_visits)):
            send_by_librdkafka(settings, settings.events_topic, codec, messages)
        if part % 2 == 0:
            time.sleep(rng.uniform(0, 0.5))
            worker.kill()
            if rng.random() < 0.5:
                shutil.rmtree(settings.data_dir, ignore_errors=True)
            worker = world.worker(settings, **QUICK)
            worker.wait_ready()
    wait_settled(settings, worker)
    ended = worker.terminate()
    problem = f"the worker ended with {ended}" if ended else _wrong_orders(settings, shop)
    return judge("input_packed", world.seed, settings, problem=problem)


class _Shop:
    """Makes events of visits, and keeps how many of them count for each user, and what each ordered and paid."""

    def __init__(self, rng: random.Random, users: int) -> None:
        self._rng, self._n_users, self._made, self._at = rng, users, 0, time.time() - 1_800
        self.events: dict[str, int] = defaultdict(int)
        self.orders: dict[str, int] = defaultdict(int)
        self.revenue: dict[str, int] = defaultdict(int)

    def visits(self, n: int) -> list[_Event]:
        """The events of ``n`` visits, one after the other. A third of the visits order something."""
        events: list[_Event] = []
        for _ in range(n):
            user = f"user-{self._rng.randrange(self._n_users)}"
            self._at += 0.05
            events += [self._event(user, "Product Viewed", product_id=f"p{self._made % 50}") for _ in range(2)]
            self.events[user] += 2
            if self._rng.random() < 1 / 3:
                events += self._order(user)
        return events

    def _order(self, user: str) -> list[_Event]:
        """The events of one order, told in one of the ways in which senders tell it."""
        rng, order = self._rng, {"order_id": f"o{self._made}"}
        paid, back = rng.randrange(100, 9_000), rng.randrange(1, 100)
        total = self._event(user, "Order Completed", total=paid / 100, **order)
        kept, n_repeats = paid, 0
        kind = rng.randrange(6)
        if kind == 0:  # told again by a page that was loaded again
            told, n_repeats = [total, self._event(user, "Order Completed", total=paid / 100, **order)], 1
        elif kind == 1:  # line by line
            lines = [rng.randrange(100, 999) for _ in range(rng.randrange(2, 6))]
            told = [
                self._event(user, "Order Completed", product_id=f"l{i}", price=cents / 100, quantity=2, **order)
                for i, cents in enumerate(lines)
            ]
            kept = 2 * sum(lines)
        elif kind == 2:
            kept = paid + back
            told = [total, self._event(user, "Order Updated", total=kept / 100, **order)]
        elif kind == 3:  # in part, and retried for more than was left
            refunds = [self._event(user, "Order Refunded", total=cents / 100, **order) for cents in (back, paid)]
            told, kept = [total, *refunds], 0
        elif kind == 4:
            ends = [self._event(user, f"Order {how}", **order) for how in ("Cancelled", "Refunded")]
            told, kept, n_repeats = [total, *ends], 0, 1
        else:
            told = [total]
        self.events[user] += len(told) - n_repeats
        self.orders[user] += 1
        self.revenue[user] += kept
        return told

    def _event(self, user: str, name: str, **properties: Any) -> _Event:
        self._made += 1
        message = {"type": "track", "event": name, "messageId": f"m{self._made}", "userId": user}
        return {**message, "timestamp": round(self._at, 3), "properties": properties}


def _in_codecs(rng: random.Random, events: list[_Event]) -> Iterator[tuple[str, list[Message]]]:
    """The events in records of several events, and these in parts of one codec each.

    A record holds events of one partition, and the events of a partition keep their order.
    """
    waiting: dict[int, list[_Event]] = defaultdict(list)
    messages: list[Message] = []
    for event in events:
        mine = waiting[partition_of(event["userId"])]
        mine.append(event)
        if len(mine) >= rng.randrange(1, _RECORD_EVENTS_MAX):
            messages.append(_record(rng, mine))
            mine.clear()
    messages += [_record(rng, rest) for rest in waiting.values() if rest]
    size = -(-len(messages) // len(CODECS))
    for i, codec in enumerate(rng.sample(CODECS, len(CODECS))):
        yield codec, messages[i * size : (i + 1) * size]


def _record(rng: random.Random, events: list[_Event]) -> Message:
    """One record of these events, wrapped in one of the ways in which senders wrap them."""
    texts = [json.dumps(event) for event in events]
    batch = json.dumps({"batch": events, "sentAt": "2026-01-01T00:00:00Z"})
    wrapped = [json.dumps(events), "\n".join(texts), batch, json.dumps(batch)]
    text = (texts[0] if len(texts) == 1 else rng.choice(wrapped)).encode()
    value = gzip.compress(text) if rng.random() < 0.3 else text
    return events[0]["userId"].encode(), value


def _wrong_orders(settings: Settings, shop: _Shop) -> str:
    """The first user who has not what the shop sold them, in words; empty if there is none."""
    found: dict[str, tuple[int, int, int]] = {}
    for state in recovered(settings).values():
        columns = state.users[["n_events", "orders", "revenue"]][: len(state)].tolist()
        found |= dict(zip(state.ids, columns, strict=True))
    for user in shop.events:
        expected = shop.events[user], shop.orders[user], shop.revenue[user]
        if found.get(user) != expected:
            return f"{user} has {found.get(user)} events, orders and hundredths, and by the shop {expected}"
    return ""
