"""Observe: partitions → the gauges that operators watch, once a second."""

from __future__ import annotations

from collections.abc import Sequence

from stream.checkpoint.partition import Partition
from stream.clock import Clock
from stream.metrics import Metrics
from stream.service.health import Health

__all__ = ["observe"]


def observe(partitions: Sequence[Partition], metrics: Metrics, health: Health, clock: Clock) -> None:
    """Set the gauges that are read off the partitions now and then, and tell health that the loop turns."""
    now, monotonic = clock.time(), clock.monotonic()
    for p in partitions:
        metrics.consumer_lag.labels(str(p.number)).set(p.lag)
        if p.state.watermark:
            metrics.watermark_lag.labels(str(p.number)).set(now - p.state.watermark)
    metrics.state_users.set(sum(len(p.state) for p in partitions))
    metrics.state_bytes.set(sum(p.state.nbytes for p in partitions))
    metrics.dirty_users.set(sum(len(rows) for p in partitions for rows in p.dirty))
    metrics.reviews_pending.set(sum(len(p.reviews) for p in partitions))
    metrics.queue_oldest_wait.set(max((p.queue.oldest_wait_s(monotonic) for p in partitions), default=0.0))
    health.lag(sum(p.lag for p in partitions))
    health.beat()
