"""Recovery: checks that it ends in time, reads all of the changelog, and that the state is of our events topic."""

from __future__ import annotations

from collections.abc import Callable

from stream.assignment import Assignment
from stream.errors import ContractError, ValuestreamError
from stream.kafka.app import Source
from stream.kafka.client_types import TP
from stream.service.build import WorkerParts

__all__ = ["RecoveryWatch", "check_recovered", "check_source"]


class RecoveryWatch:
    """Measures recoveries, and ends the worker if one outlasts ``recovery_deadline_s``.

    ``fail`` ends the worker with an error, unless it is ending already.
    """

    def __init__(self, parts: WorkerParts, fail: Callable[[BaseException], None]) -> None:
        self._source, self._metrics, self._clock = parts.source, parts.metrics, parts.clock
        self._deadline_s = parts.settings.recovery_deadline_s
        self._fail = fail
        self._began_at = parts.clock.monotonic()

    def begin(self) -> None:
        """A recovery begins. Its deadline counts from now on."""
        self._began_at = self._clock.monotonic()

    def end(self) -> None:
        """The recovery that began last has ended."""
        self._metrics.recovery_seconds.set(self._clock.monotonic() - self._began_at)

    def look(self) -> None:
        """Publish how much is left to read. Past the deadline, say which partition waits for which offset."""
        if not self._source.app.in_recovery:
            self._metrics.recovery_remaining.set(0)
            return
        waiting = self._source.recovery.active_stats()
        self._metrics.recovery_remaining.set(sum(s.remaining for s in waiting.values()))
        if self._clock.monotonic() - self._began_at > self._deadline_s:
            partitions = ", ".join(
                f"partition {tp.partition} is at offset {s.offset} of {s.highwater}" for tp, s in waiting.items()
            )
            # Reported and not raised, so that an orderly end that is under way is still observed.
            self._fail(
                ValuestreamError(
                    f"recovery took longer than {self._deadline_s:.0f} s: {partitions}; "
                    "look at the changelog topic's brokers, or raise --recovery-deadline-s"
                )
            )


def check_recovered(source: Source) -> None:
    """Raise what went wrong in recovery. Faust would go on with a partial table; we do not."""
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
    """Raise ContractError if the events topic is not the one that the assigned partitions have seen.

    A topic that was made anew begins at offset 0 again. Its events would be taken for replays and be lost.
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
