"""Assignment: which fetches are taken in around a rebalance."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream.assignment import Assignment
from stream.checkpoint.position import Position
from stream.clock import ManualClock
from stream.errors import ContractError
from stream.kafka.fetches import OneEventPerFetch, Records
from stream.metrics import Metrics
from stream.state.partition_state import PartitionState

TP0 = TP("events", 0)


class Taken:
    """A pipeline that notes the offsets of what it is given."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def check_state(self, _state: object) -> None:
        """Any will do."""

    def ingest(self, partition: Any, records: Records) -> None:
        self.offsets += [record.offset for record in records]
        partition.next_offset = records[-1].offset + 1


def fetched(scheduler: OneEventPerFetch, *offsets: int) -> Records:
    """A fetch of these offsets, as the agent gets it."""
    records = [SimpleNamespace(offset=at, topic=TP0.topic, partition=0, timestamp=0) for at in offsets]
    ((_, event),) = scheduler.iterate({TP0: records})
    (found,) = event.value
    assert isinstance(found, Records)
    return found


async def nobody(_number: int) -> PartitionState:
    """The users of a partition that is new."""
    return PartitionState(lateness_s=60)


def assignment(taken: Taken) -> Assignment:
    store: Any = SimpleNamespace(load=nobody)
    lease: Any = SimpleNamespace(term=0, held=True)
    return Assignment(
        pipeline=taken,  # type: ignore[arg-type]
        store=store,
        acknowledge=lambda _number, _position: None,
        lease=lease,
        metrics=Metrics(),
        clock=ManualClock(),
        refresh_interval_s=1,
    )


async def test_fetch_from_before_the_last_seek_is_read_again_though_there_was_another_while_the_state_was_read() -> (
    None
):
    taken, scheduler = Taken(), OneEventPerFetch()
    ours = assignment(taken)

    async def positions() -> Mapping[int, Position]:
        scheduler.sought()  # Faust seeks by itself where a fetch comes while its flow is suspended.
        ours.take_in(0, fetched(scheduler, 5, 6), None)
        return {0: Position(5)}

    assert await ours.resume(lambda: scheduler.seeks, positions())
    ours.take_in(0, fetched(scheduler, 7, 8), None)
    assert taken.offsets == []
    scheduler.sought()
    ours.take_in(0, fetched(scheduler, 5, 6, 7, 8), None)
    assert taken.offsets == [5, 6, 7, 8]


async def test_fetch_that_was_read_and_never_taken_in_is_an_error() -> None:
    taken, scheduler = Taken(), OneEventPerFetch()
    ours = assignment(taken)

    async def positions() -> Mapping[int, Position]:
        return {0: Position(5)}

    assert await ours.resume(lambda: scheduler.seeks, positions())
    scheduler.sought()
    fetched(scheduler, 5, 6)
    with pytest.raises(ContractError, match="goes on at offset 7, expected 5: a fetch between was lost"):
        ours.take_in(0, fetched(scheduler, 7, 8), None)
