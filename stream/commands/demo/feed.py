"""The feed of the demo: the newest scores and alerts, which a thread reads from their topics."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import closing
from typing import Any, Final

import msgspec

from stream.clock import Clock
from stream.contract.score import Alert, Score
from stream.kafka.client_types import KafkaConsumer
from stream.kafka.reading import follow

__all__ = ["Feed"]

#: How many users and alerts are kept for the view. Beyond that, those not heard of for longest are dropped.
_USERS_MAX: Final = 50_000
_ALERTS_MAX: Final = 50


class Feed:
    """The newest score of each user, and the newest alerts. A thread reads them from their topics."""

    def __init__(self, topics: KafkaConsumer, alerts_topic: str, clock: Clock) -> None:
        self._topics, self._alerts_topic, self._clock = topics, alerts_topic, clock
        self._scores: dict[str, Score] = {}
        self._alerts: deque[Alert] = deque(maxlen=_ALERTS_MAX)
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for the end."""
        self._stop.set()
        self._thread.join()

    def require_alive(self) -> None:
        """Raise the error that has ended the thread, if there is one."""
        if self._error is not None:
            raise self._error

    def at_risk(self, n: int) -> list[Score]:
        """The users in the high churn band, then those in the medium one. In each band the most valuable come first."""
        with self._lock:
            scores = [score for score in self._scores.values() if score.churn.band != "low"]
        return sorted(scores, key=lambda s: (s.churn.band != "high", -s.ltv.expected))[:n]

    def newest_alerts(self, n: int) -> list[Alert]:
        """The ``n`` last alerts, the newest first."""
        with self._lock:
            return list(self._alerts)[: -n - 1 : -1]

    def _run(self) -> None:
        with closing(self._topics):
            try:
                for record in follow(self._topics, self._stop, self._clock):
                    self._keep(record)
            except Exception as error:
                self._error = error

    def _keep(self, record: Any) -> None:
        with self._lock:
            if record.topic == self._alerts_topic:
                self._alerts.append(msgspec.json.decode(record.value, type=Alert))
                return
            score = msgspec.json.decode(record.value, type=Score)
            self._scores.pop(score.user_id, None)
            self._scores[score.user_id] = score
            if len(self._scores) > _USERS_MAX:
                del self._scores[next(iter(self._scores))]
