"""Traffic: makes events of shoppers, and sends them at a rate or in transactions."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer

from stream.kafka.clients import aiokafka_config, kafka_python_config
from stream.settings import Settings
from tests.broker.harness import Message, partition_of, track
from tests.broker.undisturbed import NAMES

__all__ = ["Shop", "Transaction", "send_steadily", "send_transactions"]

#: How often a steady sender sends the events that are due.
_TICK_S: Final = 0.05


class Shop:
    """Makes events. The same seed and calls give the same events, and no two events have the same id."""

    def __init__(self, seed: int, users: int) -> None:
        self._seed, self._users, self._made = seed, users, 0
        self.rng = random.Random(seed)

    def anyone(self) -> str:
        """A random user of the shop."""
        return f"user-{self.rng.randrange(self._users)}"

    def event(self, user: str, at: float) -> Message:
        """An event of this user at this time (seconds since 1970)."""
        self._made += 1
        name, number = self.rng.choice(NAMES), f"{self._seed}-{self._made}"
        extra = {"total": 20.5, "order_id": f"o{number}"} if name == "Order Completed" else {}
        product = {"product_id": f"p{self._made % 50}", "category": "shoes"}
        return user.encode(), track(user, name, round(at, 3), f"m{number}", **product, **extra)

    def half_hour(self, n: int) -> list[Message]:
        """Events of the last half hour, in their order."""
        start = time.time() - 1_800
        return [self.event(self.anyone(), start + 1_800 * i / n) for i in range(n)]


def send_steadily(
    settings: Settings,
    event: Callable[[float], Message],
    *,
    per_s: float,
    seconds: float,
    sample: Callable[[float], object] = lambda _: None,
    every_s: float = 5.0,
) -> None:
    """Send events of now at a fixed rate. Call ``sample`` every ``every_s`` with the seconds since the start."""
    producer = KafkaProducer(**kafka_python_config(settings), acks="all", linger_ms=5)
    started, sent, next_sample_s = time.monotonic(), 0, 0.0
    try:
        while (elapsed := time.monotonic() - started) < seconds:
            for _ in range(int(elapsed * per_s) - sent):
                key, value = event(time.time())
                producer.send(settings.events_topic, key=key, value=value, partition=_partition(key))
                sent += 1
            if elapsed >= next_sample_s:
                sample(elapsed)
                next_sample_s += every_s
            time.sleep(_TICK_S)
        producer.flush(timeout=60)
    finally:
        producer.close(timeout=10)


#: Messages, and whether their transaction is committed or aborted.
Transaction = tuple[Sequence[Message], bool]


def send_transactions(
    settings: Settings, transactions: Sequence[Transaction], before_the_end: Callable[[], object] = lambda: None
) -> None:
    """Send each transaction, and commit or abort it when the broker has its messages.

    ``before_the_end`` is called while each transaction is open.
    """

    async def send() -> None:
        producer = AIOKafkaProducer(**aiokafka_config(settings), transactional_id=f"{settings.events_topic}-sender")
        await producer.start()
        try:
            for messages, committed in transactions:
                await producer.begin_transaction()
                acks = [
                    await producer.send(settings.events_topic, value, key=key, partition=_partition(key))
                    for key, value in messages
                ]
                await asyncio.gather(*acks)
                await asyncio.to_thread(before_the_end)
                await (producer.commit_transaction() if committed else producer.abort_transaction())
        finally:
            await producer.stop()

    asyncio.run(send())


def _partition(key: bytes | None) -> int:
    return partition_of((key or b"").decode())
