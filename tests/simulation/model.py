"""Model: stands for the scoring model with a hash of the state and the instant.

The same state and instant give the same score, and another state gives another score. So if two scores have the same id
but were made from different states, their bytes differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import xxhash

from stream.arrays import Seconds
from stream.contract.score import Churn, LifetimeValue, ModelRef, Score
from stream.score.decide import Decided, score_id
from stream.score.scorer import RawScores
from stream.state.partition_state import Snapshot

__all__ = ["HashedDecider", "HashedModel", "HashedSentiment"]

_MODEL = ModelRef("hashed", "1", "0" * 64)
#: Columns of a user that a score may depend on.
_SEEN = [
    *("revenue", "n_events", "orders", "first_time", "last_time", "last_order_time", "history_len"),
    *("sentiment_offset", "sentiment_sum", "reviews", "sentiment_last"),
]


class HashedModel:
    """Stands where :class:`stream.score.inference.Inference` is. The decider does not look at its answer.

    It leaves out features and tokens, which are pure and cost most of the time.
    """

    manifest = SimpleNamespace(labels=SimpleNamespace(eligible_days=45.0))

    async def run(self, _snapshot: Snapshot, as_of: Seconds) -> RawScores:
        """Zeros for every user, from a thread: crashes may come while it works."""
        return await asyncio.get_running_loop().run_in_executor(None, _zeros, len(as_of))


def _zeros(n: int) -> RawScores:
    return RawScores(np.zeros(n, np.float32), np.zeros((n, 0), np.float32), np.zeros((n, 2), np.float32))


class HashedDecider:
    """Stands for :class:`stream.score.decide.Decider`."""

    def decide(self, snapshot: Snapshot, as_of: Seconds, raw: RawScores) -> Decided:
        """Scores of the users of ``snapshot`` at ``as_of`` (seconds), and no alerts."""
        scores = [self._score(snapshot, i, at) for i, at in enumerate(as_of.tolist())]
        churn = np.array([s.churn.probability for s in scores])
        zeros = np.zeros(len(scores))
        return Decided(
            scores=scores,
            alerts=[],
            alerted=np.zeros(0, np.int64),
            churn=churn,
            purchase=zeros,
            ltv=zeros,
            alert_band=zeros.astype(np.uint8),
            alert_time=zeros,
        )

    def _score(self, snapshot: Snapshot, i: int, as_of: int) -> Score:
        user = snapshot.users[i]
        # Not the bytes of the selection: they would include the columns in between.
        seen = repr(user[_SEEN].item()).encode() + snapshot.history[i, : int(user["history_len"])].tobytes()
        bucketed = np.flatnonzero(snapshot.bucketed == i)
        seen += snapshot.buckets[bucketed].tobytes() + str(as_of).encode()
        probability = xxhash.xxh3_64_intdigest(seen) / 2**64
        offset, noted = int(user["applied_offset"]), int(user["sentiment_offset"])
        return Score(
            score_id=score_id(snapshot.ids[i], offset, as_of, _MODEL.sha256, sentiment_offset=noted),
            user_id=snapshot.ids[i],
            as_of=str(as_of),
            model=_MODEL,
            n_events=int(user["n_events"]),
            data_sufficiency="ok",
            churn=Churn(probability, "low", 14),
            purchase=[],
            ltv=LifetimeValue(0.0, 0.0, "USD", 30),
            applied_offset=offset,
        )


class HashedSentiment:
    """Stands for the sentiment model: the hash of a text gives its sentiment."""

    def run(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Sentiments ``(len(texts),)`` from -1 to 1."""
        return np.array([(xxhash.xxh3_64_intdigest(t.encode()) % 201 - 100) / 100 for t in texts], np.float32)
