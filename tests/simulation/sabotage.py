"""Sabotage: ways to break the protocol on purpose. The simulation must notice each of them.

A simulation that could not fail would prove nothing. Each sabotage is a function that changes a worker process before
the process starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from aiokafka.errors import KafkaError
from faust.types import TP

from stream.checkpoint import changelog
from stream.checkpoint.journal_blocks import Users
from stream.checkpoint.partition import Partition
from stream.checkpoint.position import Position
from stream.errors import LeaseError, PublishError
from stream.outgoing import Outgoing
from stream.pipeline import Decided
from stream.score.queue import ScoreQueue
from tests.simulation.broker import CHANGELOG, DLQ, EVENTS
from tests.simulation.process import Process

__all__ = ["SABOTAGES"]


def acknowledges_before_the_changelog(process: Process) -> None:
    """A position is acknowledged when its checkpoint begins, not when it is durable."""
    checkpoint = process.assignment._checkpoint

    async def early(partition: Partition) -> bool:
        process.consumer.acknowledge(TP(EVENTS, partition.number), partition.position())
        return await checkpoint(partition)

    process.assignment._checkpoint = early


def acknowledges_what_came_meanwhile(process: Process) -> None:
    """A checkpoint acknowledges everything that the partition has taken in, not only what it made durable."""
    assignment, acknowledge = process.assignment, process.assignment._acknowledge
    assignment._acknowledge = lambda number, _: acknowledge(number, assignment.partitions[number].reached())


def acknowledges_past_waiting_reviews(process: Process) -> None:
    """A position passes reviews that still wait for their sentiment."""

    def reached(partition: Partition) -> None:
        for review in list(partition.reviews):
            partition.reviews.remove(review)
            partition.reviews.append(review._replace(before=Position(partition.next_offset, review.before.watermark)))

    _before_checkpoints(process, reached)


def sends_without_a_lease(process: Process) -> None:
    """The lease never ends."""
    process.lease._session_s = float("inf")


def judges_lateness_by_the_watermark_reached(process: Process) -> None:
    """After recovery the watermark of the state decides which events are late, not that of the committed position."""

    def reached(partition: Partition) -> None:
        partition.state.watermark = int(partition.state.users["last_time"].max())

    _after_resume(process, reached)


def counts_replayed_events(process: Process) -> None:
    """After recovery neither the applied offset nor the identity shows that an event was counted before."""

    def forget(partition: Partition) -> None:
        partition.state.users["applied_offset"] = -1
        partition.state.seen[:] = 0

    _after_resume(process, forget)


def forgets_identities(process: Process) -> None:
    """After recovery repeats by the sender are not recognized."""

    def forget(partition: Partition) -> None:
        partition.state.seen[:] = 0

    _after_resume(process, forget)


def owes_no_scores_after_recovery(process: Process) -> None:
    """Users who were not scored before a crash are not queued after it."""

    def forget(partition: Partition) -> None:
        partition.queue = ScoreQueue(0.5)

    _after_resume(process, forget)


def does_not_wait_for_dead_letters(process: Process) -> None:
    """Dead letters are sent, but nobody waits for their acknowledgement."""
    send = process.pipeline._sink.send

    async def unheard(topic: str, partition: int, records: Any) -> int | None:
        if topic != DLQ:
            return await send(topic, partition, records)
        process.loop.create_task(_unheard(send(topic, partition, list(records))))
        return None

    process.pipeline._sink.send = unheard


def writes_the_store_before_the_changelog(process: Process) -> None:
    """The local store gets users that may never reach the changelog."""

    def write(partition: Partition) -> None:
        rows = np.unique(np.concatenate(partition.dirty)) if partition.dirty else np.zeros(0, np.int64)
        keys = [partition.state.ids[row].encode() for row in rows.tolist()]
        at = process.store.persisted_offset(TP(CHANGELOG, partition.number))
        users = Users(keys, changelog.pack(partition.state, rows), rows)
        process.store.write(partition.number, users, 0 if at is None else at)

    _before_checkpoints(process, write)


def goes_on_fetching_where_it_was(process: Process) -> None:
    """After a rebalance fetches go on from their old position, not from the committed one."""
    consumer, forget, seek = process.consumer, process.consumer.forget, process.consumer.perform_seek
    reached: dict[int, int] = {}

    def remember() -> None:
        reached.update(consumer.fetch_at)
        forget()

    async def seek_elsewhere() -> None:
        await seek()
        consumer.fetch_at.update({number: at for number, at in reached.items() if number in consumer.fetch_at})

    consumer.forget, consumer.perform_seek = remember, seek_elsewhere


def counts_a_score_before_the_broker_has_it(process: Process) -> None:
    """A user counts as scored as soon as the score is made."""

    async def without_waiting(partition: int, decided: Decided) -> None:
        process.loop.create_task(_unheard(publish(partition, decided)))

    publish, process.pipeline._send_scores = process.pipeline._send_scores, without_waiting


def recovers_half(process: Process) -> None:
    """Recovery ends before the end of the changelog."""

    async def half() -> None:
        for number in process.numbers:
            records = await process._read(CHANGELOG, number, 0, 2)
            if records:
                process.store.recover(number, records)

    process._recover_store = half


def sends_half_of_the_changelog(process: Process) -> None:
    """Only the first batch of a checkpoint's users is sent."""
    send = process.pipeline._sink.send

    async def half(topic: str, partition: int, records: Any) -> int | None:
        outgoing: Sequence[Outgoing] = list(records)
        return await send(topic, partition, outgoing[:2] if topic == CHANGELOG else outgoing)

    process.pipeline._sink.send = half


async def _unheard(sending: Any) -> None:
    try:
        await sending
    except (KafkaError, PublishError, LeaseError):
        return


def _after_resume(process: Process, change: Callable[[Partition], None]) -> None:
    resume = process.assignment.resume

    async def changed(seeks: int, positions: Any) -> bool:
        resumed = await resume(seeks, positions)
        for partition in process.assignment.partitions.values():
            change(partition)
        return resumed

    process.assignment.resume = changed


def _before_checkpoints(process: Process, change: Callable[[Partition], None]) -> None:
    checkpoint = process.pipeline.checkpoint

    async def changed(partition: Partition) -> Any:
        change(partition)
        return await checkpoint(partition)

    process.pipeline.checkpoint = changed


SABOTAGES: Final[tuple[Callable[[Process], None], ...]] = (
    acknowledges_before_the_changelog,
    acknowledges_what_came_meanwhile,
    acknowledges_past_waiting_reviews,
    sends_without_a_lease,
    judges_lateness_by_the_watermark_reached,
    counts_replayed_events,
    forgets_identities,
    owes_no_scores_after_recovery,
    does_not_wait_for_dead_letters,
    writes_the_store_before_the_changelog,
    goes_on_fetching_where_it_was,
    counts_a_score_before_the_broker_has_it,
    recovers_half,
    sends_half_of_the_changelog,
)
