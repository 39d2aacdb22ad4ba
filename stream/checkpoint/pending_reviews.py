"""Pending reviews: wait for their sentiment beside ingestion, until the states of their users have it.

Only the source has the text of a review. So the partition's position stays before the oldest pending review, and after
a crash its text is read again. The user's state knows which reviews were accepted and have no sentiment yet
(:attr:`stream.state.partition_state.PartitionState.awaited`), so no review is lost and none counts twice. See
``docs/decisions/0006-review-sentiment.md``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from stream.arrays import RawOutputs
from stream.checkpoint.partition import Partition, Review
from stream.checkpoint.position import Position
from stream.decode.decoder import Decoded
from stream.score.queue import OWED
from stream.state.partition_state import Applied

if TYPE_CHECKING:
    from stream.clock import Clock
    from stream.metrics import Metrics

__all__ = ["Reviews", "SentimentModel"]

logger = logging.getLogger(__name__)
#: Texts in one inference. A small BERT takes a few tenths of a second of one core for them, with little padding.
_TEXTS_MAX: Final = 32
#: How long ingestion waits before it looks for room again.
_NAP_S: Final = 0.002


class SentimentModel(Protocol):
    """Reads sentiments from texts; see :class:`stream.score.sentiment.Sentiment`."""

    def run(self, texts: Sequence[str]) -> RawOutputs:
        """Return the sentiment of each text, from -1 to 1. Raises ScoringError if the model cannot be run."""


class Reviews:
    """Keeps the reviews of each fetch, and later folds their sentiments into the states.

    ``pending_max`` reviews may wait in all partitions together, plus the reviews of one fetch. Without a model no
    text is kept, and a review is an event like any other.
    """

    def __init__(self, model: SentimentModel | None, pending_max: int, metrics: Metrics, clock: Clock) -> None:
        self._model, self._pending_max = model, pending_max
        self._metrics, self._clock = metrics, clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sentiment")
        self._warned = False

    @property
    def has_model(self) -> bool:
        """Whether there is a model; without one no review is kept."""
        return self._model is not None

    def take_in(self, partition: Partition, before: Position, decoded: Decoded, applied: Applied) -> None:
        """Keep the reviews of one fetch that are accepted now or were accepted before a crash.

        ``before`` is the position that the partition had reached before the fetch.
        """
        if self._model is None or not decoded.reviews:
            return
        state, rows = partition.state, decoded.batch.rows
        indices = [i for i, _ in decoded.reviews]
        newest = np.maximum.accumulate(np.concatenate(([before.watermark], rows["time"].astype(np.int64))))
        accepted = np.isin(indices, applied.accepted).tolist()
        columns = (rows["offset"][indices].tolist(), newest[indices].tolist(), accepted)
        for (i, text), offset, watermark, is_new in zip(decoded.reviews, *columns, strict=True):
            row = state.index.row(decoded.batch.users[i])
            if is_new:
                state.await_sentiment(row, offset)
            if offset in state.awaited.get(row, ()):
                arrival = partition.arrival if watermark > before.watermark else before.arrival
                partition.reviews.append(Review(row, offset, text, Position(offset, watermark, arrival)))

    async def room(self, partitions: Callable[[], Collection[Partition]]) -> None:
        """Wait until another fetch may be taken in. At the bound, some sentiments must come first."""
        if not self._full(partitions()):
            return
        self._metrics.reviews_waits.inc()
        if not self._warned:
            self._warned = True
            logger.warning(
                "%d reviews wait for their sentiment, so ingestion waits with them (told once); "
                "see valuestream_reviews_waits_total and --reviews-pending-max",
                sum(len(p.reviews) for p in partitions()),
            )
        while self._full(partitions()):
            await asyncio.sleep(_NAP_S)

    def _full(self, partitions: Collection[Partition]) -> bool:
        return sum(len(p.reviews) for p in partitions) >= self._pending_max

    async def score(self, partitions: Sequence[Partition]) -> int:
        """Fold the sentiments of the reviews that wait longest into the states. Returns how many.

        If the model fails, its error is raised and the reviews go on waiting.
        """
        waiting = [p for p in partitions if p.reviews]
        share = max(1, _TEXTS_MAX // max(1, len(waiting)))
        batches = [(p, list(islice(p.reviews, share))) for p in waiting]
        if self._model is None or not batches:
            return 0
        started = self._clock.monotonic()
        try:
            texts = [review.text for _, reviews in batches for review in reviews]
            sentiments = await asyncio.get_running_loop().run_in_executor(self._thread, self._model.run, texts)
        except Exception:
            self._metrics.sentiment_errors.inc()
            raise
        self._metrics.stages["sentiment"].observe(self._clock.monotonic() - started)
        ends = np.cumsum([len(reviews) for _, reviews in batches]).tolist()
        for (partition, reviews), end in zip(batches, ends, strict=True):
            self._note(partition, reviews, sentiments[end - len(reviews) : end])
        self._metrics.reviews_scored.inc(len(sentiments))
        return len(sentiments)

    def _note(self, partition: Partition, reviews: Sequence[Review], sentiments: RawOutputs) -> None:
        """Write sentiments into the state, and queue the users to be scored again."""
        rows = np.array([review.row for review in reviews], np.int64)
        partition.state.note_sentiments(rows, np.array([review.offset for review in reviews], np.int64), sentiments)
        for _ in reviews:
            partition.reviews.popleft()
        partition.dirty.append(np.unique(rows))
        partition.queue.push(rows, OWED, self._clock.monotonic(), np.inf)
