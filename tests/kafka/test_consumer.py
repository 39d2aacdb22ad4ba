"""Consumer, without a broker: errors of its group coordinator, and fetches that waited through a seek."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError
from faust.types import TP

from stream.kafka.consumer import PositionConsumer
from tests.kafka.test_table import source_at


class Coordinator:
    """A group coordinator that has met this error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def check_errors(self) -> None:
        raise self._error


def check(coordinator: Coordinator | None) -> None:
    """Look for errors of this coordinator."""
    client = SimpleNamespace(_coordinator=coordinator)
    reader = SimpleNamespace(replaced=False, _ensure_consumer=lambda: client)
    consumer: Any = SimpleNamespace(_thread=reader)
    PositionConsumer.check_errors(consumer)


def test_client_that_is_still_connecting_has_no_error() -> None:
    check(None)


def test_error_that_no_retry_can_mend_is_raised() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        check(Coordinator(GroupAuthorizationFailedError("shop")))


def test_error_that_a_retry_may_mend_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check(Coordinator(KafkaConnectionError("gone")))
    assert ["trying again" in record.getMessage() for record in caplog.records] == [True]


async def test_fetch_that_waited_through_a_seek_does_not_hide_the_next_fetches(tmp_path: Path) -> None:
    app, delivered = source_at(tmp_path).app, list[int]()
    tp, following = TP("events", 0), iter([90, 45, 46])

    async def take(message: Any) -> None:
        delivered.append(message.offset)
        if message.offset == 90:
            consumer._read_offset.update({tp: 45})  # A seek does this while the fetch still waits.

    async def fetches(timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        for offset in following:
            yield tp, SimpleNamespace(offset=offset, topic="events", key=None, value=None)
        fetcher._stopped.set()

    consumer: Any = app.transport.create_consumer(take, on_partitions_revoked=None, on_partitions_assigned=None)
    consumer.getmany = fetches
    fetcher: Any = SimpleNamespace(_stopped=asyncio.Event())
    await consumer._drain_messages(fetcher)
    assert delivered == [90, 45, 46]
