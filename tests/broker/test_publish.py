"""Tests of publishing on a broker: records that wait in a producer when its lease term ends are never written."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stream.errors import LeaseError
from stream.kafka.clients import aiokafka_config
from stream.kafka.publisher import Publisher
from stream.outgoing import Outgoing
from stream.settings import Settings
from tests.broker import harness

pytestmark = pytest.mark.broker


class HeldForSends:
    """A lease that ends after it has allowed this number of sends."""

    def __init__(self, sends: int) -> None:
        self.term = 0
        self._sends = sends

    @property
    def held(self) -> bool:
        self._sends -= 1
        return self._sends >= 0

    def begin_term(self, sends: int) -> None:
        """Begin a new term: the partitions were given up and assigned again."""
        self.term += 1
        self._sends = sends


async def test_records_that_wait_behind_a_request_when_the_term_ends_are_not_written(settings: Settings) -> None:
    lease: Any = HeldForSends(6)
    publisher = Publisher(lease, 20.0, "changelog", **aiokafka_config(settings))
    await publisher.start()
    sends = [
        asyncio.create_task(publisher.send(settings.scores_topic, number % 2, [Outgoing(b"u", b"stale")]))
        for number in range(6)
    ]
    await asyncio.sleep(0.5)
    lease.begin_term(sends=100)
    for send in sends:
        with pytest.raises(LeaseError):
            await send
    assert await publisher.send(settings.scores_topic, 0, [Outgoing(b"u", b"new")]) == 0
    await publisher.stop()
    assert [record.value for record in harness.read_topic(settings, settings.scores_topic)] == [b"new"]
