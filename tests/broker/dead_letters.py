"""Dead letters: helpers for tests that write, list and replay them on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from stream.commands.dlq.command import dlq
from stream.decode.dead_letters import dead_letter
from stream.decode.decoder import DeadLetter
from stream.kafka.clients import aiokafka_config
from stream.settings import Settings
from tests.broker import harness

__all__ = [
    "Headers",
    "counted",
    "dead",
    "event_of",
    "events_in",
    "flags",
    "put",
    "record",
    "run",
    "text_headers",
    "users_in",
]

Headers = list[tuple[str, bytes | None]]


def flags(settings: Settings) -> list[str]:
    named = ("bootstrap_servers", "dlq_topic", "events_topic")
    return [part for name in named for part in (f"--{name.replace('_', '-')}", getattr(settings, name))]


def run(settings: Settings, command: str, *more: str) -> str:
    """The output of a ``valuestream dlq`` command. Its errors are raised."""
    ended = CliRunner().invoke(dlq, [command, *flags(settings), *more], catch_exceptions=False, standalone_mode=False)
    if ended.exception:
        raise ended.exception
    return ended.stdout


def counted(settings: Settings, *more: str) -> dict[str, int]:
    return {group["reason"]: group["count"] for group in json.loads(run(settings, "list", "--json", *more))["reasons"]}


def put(settings: Settings, records: Iterable[Any]) -> None:
    """Send records with topic, partition, key, value, headers and timestamp, one after the other."""

    async def send() -> None:
        producer = AIOKafkaProducer(**aiokafka_config(settings), acks="all")
        await producer.start()
        try:
            for r in records:
                await producer.send_and_wait(r.topic, r.value, r.key, r.partition, r.timestamp, list(r.headers))
        finally:
            await producer.stop()

    asyncio.run(send())


def record(topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None, **changed: Any) -> Any:
    place = {"partition": 0, "offset": 0, "timestamp": int(time.time() * 1000)}
    return SimpleNamespace(topic=topic, key=key, value=value, headers=headers or [], **{**place, **changed})


def dead(settings: Settings, event: Any, reason: str = "late", **changed: Any) -> Any:
    """The dead-letter record that the worker makes for an event."""
    out = dead_letter(DeadLetter(event, reason, "why"), event.topic, event.partition)
    changed = {"partition": event.partition, **changed}
    return record(settings.dlq_topic, out.key, out.value, list(out.headers), **changed)


def event_of(settings: Settings, user: str, offset: int = 0, **changed: Any) -> Any:
    return record(settings.events_topic, user.encode(), f"value of {user}".encode(), offset=offset, **changed)


def events_in(settings: Settings, topic: str | None = None) -> list[Any]:
    return harness.read_topic(settings, topic or settings.events_topic)


def users_in(settings: Settings) -> list[str]:
    return [r.key.decode() for r in events_in(settings)]


def text_headers(found: Any) -> dict[str, str]:
    return {name: content.decode() for name, content in found.headers}
