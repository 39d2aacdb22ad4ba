"""AlertReasons: gives alerts their reasons, and leaves them out where that would cost others their score."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from stream.errors import ScoringError

if TYPE_CHECKING:
    from stream.arrays import Seconds
    from stream.clock import Clock
    from stream.metrics import Metrics
    from stream.score.decide import Decided
    from stream.score.explain.explainer import Explainer
    from stream.score.inference import Inference
    from stream.state.snapshot import Snapshot

__all__ = ["EXPLAIN_QUEUE_MAX", "AlertReasons"]

#: If more users than this wait for a score, alerts go out without reasons.
EXPLAIN_QUEUE_MAX: Final = 256


class AlertReasons:
    """Explains alerts beside the event loop, in the thread of the inference: never two at once."""

    def __init__(self, explainer: Explainer, *, inference: Inference, metrics: Metrics, clock: Clock) -> None:
        self._explainer, self._inference = explainer, inference
        self._metrics, self._clock = metrics, clock

    async def add(self, decided: Decided, snapshot: Snapshot, as_of: Seconds, *, n_waiting: int) -> Decided:
        """Return the same decisions with reasons in their alerts.

        Alerts stay without reasons if more than ``EXPLAIN_QUEUE_MAX`` users wait, or if the model fails. They are
        counted by cause.
        """
        unexplained = self._metrics.alerts_unexplained
        if n_waiting > EXPLAIN_QUEUE_MAX:
            unexplained.labels("load").inc(len(decided.alerts))
            return decided
        alerted = decided.alerted
        try:
            with self._metrics.timed("explain", self._clock):
                reasons = await self._inference.in_thread(
                    self._explainer.explain, snapshot.take(alerted), as_of[alerted]
                )
        except ScoringError:
            unexplained.labels("error").inc(len(decided.alerts))
            return decided
        unexplained.labels("bound").inc(max(0, len(decided.alerts) - self._explainer.users_max))
        alerts = [msgspec.structs.replace(a, reasons=r) for a, r in zip(decided.alerts, reasons, strict=True)]
        return replace(decided, alerts=alerts)
