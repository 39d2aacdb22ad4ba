"""The summary of a run of the demo, counted in Kafka and in the worker's own metrics."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from stream.commands.demo.scrape import Reading, quantile
from stream.errors import ValuestreamError
from stream.kafka.client_types import KafkaConsumer, TopicPartition
from stream.kafka.clients import kafka_python_config
from stream.settings import Settings

__all__ = ["Summary", "count"]


@dataclass(frozen=True)
class Summary:
    """The numbers of a run.

    ``events_in`` were acknowledged to the simulator. The worker counts the processed events and the users. Dead
    letters, scores, alerts and lag are counted in Kafka, after the worker has ended. The latencies are quantiles of the
    worker's histogram over the whole run: from the broker timestamp of an event to the acknowledgement of the score
    that saw it.
    """

    events_in: int
    events_processed: int
    dead_letters: int
    scores_out: int
    alerts_out: int
    users: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    final_lag: int
    startup_s: float
    run_s: float

    def __str__(self) -> str:
        return (
            f"{self.events_in:,} events in, {self.events_processed:,} processed, {self.dead_letters:,} dead letters,"
            f" {self.scores_out:,} scores and {self.alerts_out:,} alerts out, {self.users:,} users,"
            f" lag {self.final_lag:,}"
        )

    def require_complete(self) -> None:
        """Raise ValuestreamError unless every event is either processed or a dead letter, and no lag is left."""
        if self.events_processed + self.dead_letters != self.events_in or self.final_lag:
            raise ValuestreamError(
                f"{self}; expected processed and dead letters to add up to all events in, and no lag;"
                " this machine may be too slow for it, so try a lower --rate"
            )


def count(settings: Settings, events_in: int, last_reading: Reading, *, startup_s: float, run_s: float) -> Summary:
    """Count what a run has done, after its worker has ended. ``last_reading`` are the last metrics of the worker."""
    config = kafka_python_config(settings)
    with closing(KafkaConsumer(**config, group_id=settings.app_id, enable_auto_commit=False)) as consumer:

        def ends(topic: str) -> dict[TopicPartition, int]:
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            offsets: dict[TopicPartition, int] = consumer.end_offsets(partitions)
            return offsets

        lag = sum(end - (consumer.committed(tp) or 0) for tp, end in ends(settings.events_topic).items())
        p50, p99 = quantile(0.5, last_reading.latency), quantile(0.99, last_reading.latency)
        return Summary(
            events_in=events_in,
            events_processed=last_reading.processed,
            dead_letters=sum(ends(settings.dlq_topic).values()),
            scores_out=sum(ends(settings.scores_topic).values()),
            alerts_out=sum(ends(settings.alerts_topic).values()),
            users=last_reading.users,
            latency_p50_ms=None if p50 is None else round(p50 * 1000, 1),
            latency_p99_ms=None if p99 is None else round(p99 * 1000, 1),
            final_lag=lag,
            startup_s=round(startup_s, 1),
            run_s=round(run_s, 1),
        )
