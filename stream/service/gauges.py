"""Gauges: reads partitions, consumer and lease once a second, for the metrics that operators watch and for health."""

from __future__ import annotations

from stream.checkpoint.partition import Partition
from stream.kafka.client_types import TP
from stream.service.build import WorkerParts

__all__ = ["Gauges"]


class Gauges:
    """The gauges of one worker."""

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        # Counted when it is asked for: an old 0 would look as if everyone had their score.
        parts.metrics.queue_depth.set_function(lambda: sum(len(p.queue) for p in parts.partitions))

    def read(self) -> None:
        """Set all gauges, and tell health that the loop turns. It also lets partitions pass gaps in their offsets."""
        now = self._parts.clock.time()
        fetched_at = [self._follow_source(partition) for partition in self._parts.partitions]
        oldest_fetch = min((at for at in fetched_at if at is not None), default=now)
        self._parts.health.broker(fetch_age_s=max(0.0, now - oldest_fetch), heartbeat_age_s=self._parts.lease.age_s)
        self._set()

    def _follow_source(self, partition: Partition) -> float | None:
        """Note the broker's end of the partition, and pass a gap. Returns when it was last fetched, in seconds."""
        consumer, tp = self._parts.source.consumer, TP(self._parts.settings.events_topic, partition.number)
        highwater = consumer.highwater(tp)
        partition.highwater = highwater if highwater is not None else partition.highwater
        partition.pass_gap(consumer.end_of_gap(tp, partition.next_offset))
        return consumer.fetched_at(tp)

    def _set(self) -> None:
        metrics, partitions = self._parts.metrics, self._parts.partitions
        now, monotonic = self._parts.clock.time(), self._parts.clock.monotonic()
        for p in partitions:
            metrics.consumer_lag.labels(str(p.number)).set(p.lag)
            if p.state.watermark:
                metrics.watermark_lag.labels(str(p.number)).set(now - p.state.watermark)
        metrics.state_users.set(sum(len(p.state) for p in partitions))
        metrics.state_bytes.set(sum(p.state.nbytes for p in partitions))
        metrics.dirty_users.set(sum(len(rows) for p in partitions for rows in p.dirty))
        metrics.reviews_pending.set(sum(len(p.reviews) for p in partitions))
        metrics.queue_oldest_wait.set(max((p.queue.oldest_wait_s(monotonic) for p in partitions), default=0.0))
        self._parts.health.lag(sum(p.lag for p in partitions))
        self._parts.health.beat()
