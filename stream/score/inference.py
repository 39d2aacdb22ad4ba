"""Inference: a snapshot of users → raw scores, by way of features, tokens and the model.

A short run of the model stays on the event loop, because a hand-over to a thread costs more than it saves. A longer
run would hold the loop up, so it goes to a thread. There is one such thread, so runs never compete for the cores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, TypeVarTuple

from stream.metrics import Timed
from stream.score.encode import encode
from stream.score.features import features

if TYPE_CHECKING:
    from stream.arrays import FeatureRows, Seconds, TokenRows
    from stream.clock import Clock
    from stream.metrics import Metrics
    from stream.score.scorer import RawScores, Scorer
    from stream.state.partition_state import Snapshot

__all__ = ["Inference"]

#: A run that is expected to take longer goes to the thread: the event loop would be held up.
_ON_LOOP_S_MAX: Final = 0.010

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")


class _Run(NamedTuple):
    """How long the model took for a batch, and how many events the batch had."""

    seconds: float
    n_events: int


class Inference:
    """Runs the model on snapshots, times each stage, and measures the batches."""

    def __init__(self, *, scorer: Scorer, metrics: Metrics, clock: Clock) -> None:
        self._scorer, self._metrics, self._clock = scorer, metrics, clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._last_run: _Run | None = None

    async def run(self, snapshot: Snapshot, as_of: Seconds) -> RawScores:
        """Raw scores of the ``n`` users of a snapshot at ``as_of`` (n,). Raises ScoringError if the model fails."""
        with Timed(self._metrics.stages["features"], self._clock):
            numbers = features(snapshot, as_of)
        with Timed(self._metrics.stages["encode"], self._clock):
            tokens = encode(snapshot, as_of)
        n_events = int(snapshot.users["history_len"].sum())
        if self._fits_on_loop(n_events):
            raw = self._run_model(tokens, numbers, n_events)
        else:
            raw = await self.in_thread(self._run_model, tokens, numbers, n_events)
        self._metrics.batch_users.observe(len(as_of))
        self._metrics.batch_tokens.observe(raw.n_positions)
        self._metrics.padding_ratio.observe(1 - n_events / raw.n_positions)
        return raw

    async def in_thread(self, work: Callable[[*_Arguments], _Result], *args: *_Arguments) -> _Result:
        """Do work in the thread, so that the event loop goes on meanwhile. Works are done one at a time, in order."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _fits_on_loop(self, n_events: int) -> bool:
        """Whether the last run says that this one will be short. A smaller batch is not expected to be quicker."""
        last = self._last_run
        return last is not None and last.seconds * max(1.0, n_events / last.n_events) <= _ON_LOOP_S_MAX

    def _run_model(self, tokens: TokenRows, numbers: FeatureRows, n_events: int) -> RawScores:
        began = self._clock.monotonic()
        with Timed(self._metrics.stages["infer"], self._clock):
            raw = self._scorer.run(tokens, numbers)
        self._last_run = _Run(self._clock.monotonic() - began, n_events)
        return raw
