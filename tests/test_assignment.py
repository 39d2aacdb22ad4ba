"""Tests of the assignment: which fetches are taken in around a rebalance."""

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


class RecordingPipeline:
    """A pipeline that notes the offsets of the records that it ingests."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def check_state(self, _state: object) -> None:
        """Accept any state."""

    def ingest(self, partition: Any, records: Records) -> None:
        self.offsets += [record.offset for record in records]
        partition.next_offset = records[-1].offset + 1


def fetched(scheduler: OneEventPerFetch, *offsets: int) -> Records:
    """A fetch with these offsets, as the agent gets it."""
    records = [SimpleNamespace(offset=at, topic=TP0.topic, partition=0, timestamp=0) for at in offsets]
    ((_, event),) = scheduler.iterate({TP0: records})
    (fetch,) = event.value
    assert isinstance(fetch, Records)
    return fetch


async def empty_state(_number: int) -> PartitionState:
    """The state of a new partition."""
    return PartitionState(lateness_s=60)


def assignment(pipeline: RecordingPipeline) -> Assignment:
    store: Any = SimpleNamespace(load=empty_state)
    lease: Any = SimpleNamespace(term=0, held=True)
    return Assignment(
        pipeline=pipeline,  # type: ignore[arg-type]
        store=store,
        acknowledge=lambda _number, _position: None,
        lease=lease,
        metrics=Metrics(),
        clock=ManualClock(),
        refresh_interval_s=1,
    )


async def test_fetch_from_before_the_last_seek_is_ignored_even_if_faust_sought_while_resuming() -> None:
    pipeline, scheduler = RecordingPipeline(), OneEventPerFetch()
    ours = assignment(pipeline)

    async def positions() -> Mapping[int, Position]:
        scheduler.sought()  # Faust seeks by itself if a fetch comes while its flow is suspended.
        ours.take_in(0, fetched(scheduler, 5, 6), None)
        return {0: Position(5)}

    assert await ours.resume(lambda: scheduler.seeks, positions())
    ours.take_in(0, fetched(scheduler, 7, 8), None)
    assert pipeline.offsets == []
    scheduler.sought()
    ours.take_in(0, fetched(scheduler, 5, 6, 7, 8), None)
    assert pipeline.offsets == [5, 6, 7, 8]


async def test_gap_between_two_fetches_is_an_error() -> None:
    pipeline, scheduler = RecordingPipeline(), OneEventPerFetch()
    ours = assignment(pipeline)

    async def positions() -> Mapping[int, Position]:
        return {0: Position(5)}

    assert await ours.resume(lambda: scheduler.seeks, positions())
    scheduler.sought()
    fetched(scheduler, 5, 6)
    with pytest.raises(ContractError, match="goes on at offset 7, expected 5: a fetch between was lost"):
        ours.take_in(0, fetched(scheduler, 7, 8), None)
