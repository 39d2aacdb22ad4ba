"""Fetcher, without a broker: aiokafka's fetcher hands records over before it sends the next fetch."""

from __future__ import annotations

import asyncio

import pytest

from stream.kafka.fetcher import _HAND_OVER_TURNS, hand_over_first


class Fetcher:
    """The part of aiokafka's fetcher that hands records over. Each fetch brings the same records."""

    def __init__(self, found: dict[str, str]) -> None:
        self._found = found
        self._records: dict[str, str] = {}
        self._fetch_waiters: set[asyncio.Future[None]] = set()

    @staticmethod
    def _notify(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    async def _proc_fetch_request(self, *_: object) -> bool:
        self._records |= self._found
        return bool(self._found)

    async def fetched_records(self) -> dict[str, str]:
        """Wait for records and take them, in as many turns of the loop as aiokafka needs."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fetch_waiters.add(waiter)
        await asyncio.wait([waiter])
        taken, self._records = self._records, {}
        return taken


async def test_records_of_a_fetch_are_taken_before_the_next_fetch_is_sent() -> None:
    fetcher = Fetcher({"events-1": "records"})
    hand_over_first(fetcher)
    taking = asyncio.create_task(fetcher.fetched_records())
    await asyncio.sleep(0)
    assert await fetcher._proc_fetch_request("assignment", 0, "request")
    assert not fetcher._records
    assert await taking == {"events-1": "records"}


@pytest.mark.parametrize("found", [{"events-1": "records"}, {}], ids=["records", "nothing"])
async def test_next_fetch_is_sent_soon_if_nobody_takes_the_records(found: dict[str, str]) -> None:
    fetcher = Fetcher(found)
    hand_over_first(fetcher)
    fetching = asyncio.create_task(fetcher._proc_fetch_request())
    for _ in range(_HAND_OVER_TURNS + 1):
        await asyncio.sleep(0)
    assert fetching.done()
    assert fetching.result() == bool(found)
    assert fetcher._records == found
