"""Reviews: texts wait here for their sentiment, off the ingestion path, until their users' states have it.

A text lives nowhere but in the source, so the partition's position stays before the oldest review that waits, and a
crash reads it again. Which of the reviews read again were accepted, and have no sentiment yet, is in the user's
state (:attr:`stream.state.partition_state.PartitionState.awaited`), so none is lost and none counts twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from stream.checkpoint.partition import Partition, Position, Review
from stream.decode.decoder import Decoded
from stream.score.queue import OWED
from stream.state.partition_state import Applied

if TYPE_CHECKING:
    from stream.clock import Clock
    from stream.metrics import Metrics

__all__ = ["Reviews", "SentimentModel"]

logger = logging.getLogger(__name__)
#: Texts in one inference: a few tenths of a second of one core with a small BERT, and little padding.
_TEXTS_MAX: Final = 32
#: How long ingestion waits before it looks for room again.
_NAP_S: Final = 0.002


class SentimentModel(Protocol):
    """What tells the sentiment of texts; see :class:`stream.score.sentiment.Sentiment`."""

    def run(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Sentiments ``(len(texts),)`` from -1 to 1; raises ScoringError where the model cannot be run."""


class Reviews:
    """Takes reviews in with their events, and folds their sentiments into the states later.

    ``pending_max`` reviews may wait in all partitions together, and those of one fetch more. Without a model no text is
    read: a review is an event like others.
    """

    def __init__(self, model: SentimentModel | None, pending_max: int, metrics: Metrics, clock: Clock) -> None:
        self._model, self._pending_max = model, pending_max
        self._metrics, self._clock = metrics, clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sentiment")
        self._told = False

    @property
    def has_model(self) -> bool:
        """Whether anything reads reviews; without a model none is kept."""
        return self._model is not None

    def take_in(self, partition: Partition, before: Position, decoded: Decoded, applied: Applied) -> None:
        """Let the reviews of one fetch wait: those accepted now, and those accepted before a crash.

        ``before`` is what the partition had reached before the fetch.
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
        """Return when another fetch may be taken in; at the bound that is when some sentiments have come."""
        if not self._full(partitions()):
            return
        self._metrics.reviews_waits.inc()
        if not self._told:
            self._told = True
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
        """Fold the sentiments of the reviews that wait longest into the states; returns of how many.

        Raises where the model fails, and then the reviews wait on.
        """
        waiting = [p for p in partitions if p.reviews]
        share = max(1, _TEXTS_MAX // max(1, len(waiting)))
        taken = [(p, list(islice(p.reviews, share))) for p in waiting]
        if self._model is None or not taken:
            return 0
        started = self._clock.monotonic()
        try:
            texts = [review.text for _, reviews in taken for review in reviews]
            sentiments = await asyncio.get_running_loop().run_in_executor(self._thread, self._model.run, texts)
        except Exception:
            self._metrics.sentiment_errors.inc()
            raise
        self._metrics.stages["sentiment"].observe(self._clock.monotonic() - started)
        ends = np.cumsum([len(reviews) for _, reviews in taken]).tolist()
        for (partition, reviews), end in zip(taken, ends, strict=True):
            self._note(partition, reviews, sentiments[end - len(reviews) : end])
        self._metrics.reviews_scored.inc(len(sentiments))
        return len(sentiments)

    def _note(self, partition: Partition, reviews: Sequence[Review], sentiments: npt.NDArray[Any]) -> None:
        """Write sentiments into the state, and let its users be scored again."""
        rows = np.array([review.row for review in reviews], np.int64)
        partition.state.note_sentiments(rows, np.array([review.offset for review in reviews], np.int64), sentiments)
        for _ in reviews:
            partition.reviews.popleft()
        partition.dirty.append(np.unique(rows))
        partition.queue.push(rows, OWED, self._clock.monotonic(), np.inf)
