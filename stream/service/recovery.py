"""Recovery: what Faust has read back is all of the changelog, and belongs to the topic that we go on to read."""

from __future__ import annotations

from faust.types import TP

from stream.assignment import Assignment
from stream.errors import ContractError
from stream.kafka.app import Source

__all__ = ["check_recovered", "check_source"]


def check_recovered(source: Source) -> None:
    """Raise what went wrong in recovery: Faust goes on after it, with a partial table; we do not."""
    if source.store.recovery_error is not None:
        raise source.store.recovery_error
    for tp, last in source.recovery.active_highwaters.items():
        have = source.store.persisted_offset(tp)
        if last >= 0 and (have is None or have < last):
            raise ContractError(
                f"recovery of {tp.topic} partition {tp.partition} ended at offset {have}, expected {last}. "
                "This is a bug."
            )


async def check_source(source: Source, topic: str, assignment: Assignment) -> None:
    """Raise ContractError where the events topic is not the one that the assigned partitions have seen.

    A topic that was made anew begins at offset 0 again: its events would be taken for replays, and be lost.
    """
    ends = await source.consumer.highwaters(*(TP(topic, p.number) for p in assignment.partitions.values()))
    for partition in assignment.partitions.values():
        end = ends[TP(topic, partition.number)]
        seen = int(partition.state.users["applied_offset"][: len(partition.state)].max(initial=-1))
        if seen >= end:
            raise ContractError(
                f"topic {topic} partition {partition.number} ends at offset {end}, but the state has seen offset"
                f" {seen}; expected the topic that the state comes from; begin anew with another --app-id"
            )
