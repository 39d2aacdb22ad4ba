"""Counting: what a fetch or a batch of scores came to, in the metrics that operators watch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stream.arrays import Instants, Seconds
    from stream.decode.decoder import DeadLetter, Decoded
    from stream.metrics import Metrics
    from stream.score.decide import Decided
    from stream.state.partition_state import Applied
    from stream.state.snapshot import Snapshot

__all__ = ["FirstRecords", "count_events", "count_scores"]

logger = logging.getLogger(__name__)

#: So many records are looked at before a worker says that it can use few of them.
_FIRST: Final = 1_000


@dataclass(slots=True)
class FirstRecords:
    """Says once that most of a worker's first records cannot be used: its envelope is probably not theirs."""

    events_topic: str
    n_records: int = 0
    n_unused: int = 0

    def note(self, n_records: int, decoded: Decoded) -> None:
        """Take in what one fetch came to."""
        if self.n_records >= _FIRST:
            return
        self.n_records += n_records
        self.n_unused += decoded.n_ignored + len(decoded.dead)
        if self.n_records >= _FIRST and 2 * self.n_unused > self.n_records:
            logger.warning(
                "of the first %d records %d are ignored or dead letters, expected most of them to be events;"
                " look with `valuestream events check --topic %s`, and choose the --envelope that fits",
                self.n_records,
                self.n_unused,
                self.events_topic,
            )


def count_events(metrics: Metrics, decoded: Decoded, late: Sequence[DeadLetter], applied: Applied) -> None:
    """Count the records of one fetch by what became of them, and its dead letters by reason."""
    outcomes = {
        "applied": applied.n_accepted,
        "duplicate": applied.n_duplicate,
        "replayed": applied.n_replayed,
        "late": len(late),
        "erased": applied.n_erased,
        "erasure": len(decoded.erasures),
        "dead_letter": len(decoded.dead),
        "ignored": decoded.n_ignored,
    }
    for outcome, n in outcomes.items():
        if n:
            metrics.events.labels(outcome).inc(n)
    for field, n in decoded.fields_ignored.items():
        metrics.fields_ignored.labels(field).inc(n)
    for dead in (*decoded.dead, *late):
        metrics.dead_letters.labels(dead.reason).inc()


def count_scores(
    metrics: Metrics, snapshot: Snapshot, decided: Decided, arrivals: Instants, as_of: Seconds, now: float
) -> None:
    """Count the scores of ``n`` users by what made each stale, and observe how long events waited for theirs.

    ``arrivals (n,)`` and ``now`` are wall-clock seconds, ``as_of (n,)`` event-time seconds.
    """
    users = snapshot.users
    by_event = users["scored_offset"] < users["applied_offset"]
    by_review = ~by_event & (users["scored_sentiment"] < users["sentiment_offset"])
    n_events, n_reviews = int(by_event.sum()), int(by_review.sum())
    metrics.scores.labels("event").inc(n_events)
    metrics.scores.labels("review").inc(n_reviews)
    metrics.scores.labels("silence").inc(len(users) - n_events - n_reviews)
    metrics.alerts.labels("churn_high").inc(len(decided.alerts))
    for arrival, at in zip(arrivals[by_event].tolist(), as_of[by_event].tolist(), strict=True):
        metrics.ingest_to_score.observe(now - arrival)
        metrics.event_to_score.observe(now - at)
