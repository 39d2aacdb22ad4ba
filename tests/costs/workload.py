"""Workload: the pure stages on events from a fixed seed: a partition of users with histories, and one more fetch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import numpy as np

import stream
from stream.checkpoint import changelog
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews
from stream.clock import ManualClock
from stream.contract.columns import DAY_S
from stream.contract.manifest import MANIFEST_FILE, Manifest
from stream.decode.decoder import Decoder, Money
from stream.metrics import Metrics
from stream.outgoing import OutgoingLike
from stream.pipeline import Pipeline, Stages, Topics
from stream.score.decide import AlertRule, Decider, encode_json
from stream.score.encode import encode
from stream.score.features import features
from stream.score.queue import ScoreQueue, priorities
from stream.score.scorer import RawScores
from stream.state.partition_state import PartitionState

__all__ = ["Record", "Stage", "Workload"]

#: These are enough for full histories and used buckets, and few enough to be counted in seconds.
_USERS: Final = 200
_EVENTS_BEFORE: Final = 8_000
_FETCH: Final = 1_000
_REPEATED: Final = 0.01
_SPAN_S: Final = 40 * DAY_S
_NOW: Final = 1_790_000_000
_NAMES: Final = ("Product Viewed", "Products Searched", "Product Added", "Product Removed", "Order Completed")
_SHARES: Final = (0.72, 0.12, 0.1, 0.02, 0.04)
_CATEGORIES: Final = ("shoes", "coats", "shirts", "bags", "kitchen", "garden", "toys", "books")
_MODEL: Final = Path(stream.__file__).parent / "models" / "demo"


@dataclass
class Record:
    """A consumer record with the fields that the stages read."""

    offset: int
    key: bytes
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Stage:
    """One stage. ``prepare`` returns a call that processes ``n`` events or users, with the same work each time."""

    name: str
    per: str
    n: int
    prepare: Callable[[], Callable[[], object]] = field(repr=False)


class _Acknowledging:
    """A broker that acknowledges everything at once."""

    async def send(self, _topic: str, _partition: int, records: Iterable[OutgoingLike]) -> int | None:
        return len(list(records))


class Workload:
    """The stages and their input, all made from one seed."""

    def __init__(self) -> None:
        records = _records(_EVENTS_BEFORE + _FETCH)
        self.fetch = records[_EVENTS_BEFORE:]
        self._before = records[:_EVENTS_BEFORE]
        self.decoder = Decoder("segment", Money("USD"), bytes_max=262_144, future_skew_s=300.0)
        self._state = PartitionState(DAY_S)
        self._queue = ScoreQueue(1.0)
        self._state.apply(self.decoder.decode(self._before, _NOW).batch)
        self._rows = np.arange(len(self._state))
        self._as_of = self._state.users["last_time"][self._rows].astype(np.int64)

    def stages(self) -> list[Stage]:
        """Every stage, in the order in which an event passes them."""
        users, events = len(self._rows), len(self.fetch)
        return [
            Stage("decode", "event", events, self.decoding),
            Stage("state", "event", events, self._applying),
            Stage("queue", "event", events, self._queueing),
            Stage("ingest", "event", events, self._ingesting),
            Stage("snapshot", "user", users, lambda: lambda: self._state.snapshot(self._rows)),
            Stage("features", "user", users, lambda: lambda: features(self._snapshot, self._as_of)),
            Stage("encode", "user", users, lambda: lambda: encode(self._snapshot, self._as_of)),
            Stage("decide", "user", users, lambda: self._decide),
            Stage("to_json", "user", users, lambda: lambda: [encode_json(score) for score in self._scores]),
            Stage("pack", "user", users, lambda: lambda: changelog.pack(self._state, self._rows)),
            Stage("load", "user", users, self._loading),
            Stage("checkpoint", "user", users, self._checkpointing),
        ]

    def decoding(self) -> Callable[[], object]:
        """Decode the fetch. The decoder already knows its names."""
        return lambda: self.decoder.decode(self.fetch, _NOW)

    def _applying(self) -> Callable[[], object]:
        state, batch = copy.deepcopy(self._state), self.decoder.decode(self.fetch, _NOW).batch
        return lambda: state.apply(batch)

    def _queueing(self) -> Callable[[], object]:
        queue, batch = copy.deepcopy(self._queue), self.decoder.decode(self.fetch, _NOW).batch
        users = self._state.rows_of(batch.users)
        arrivals = np.full(len(users), float(_NOW))

        def push_and_take() -> None:
            queue.push(users, priorities(batch.rows["type"]), 10.0, arrivals)
            taken, _ = queue.take(_USERS // 2, 10.0)
            queue.release(taken, 10.0)

        return push_and_take

    def _ingesting(self) -> Callable[[], object]:
        pipeline, partition = self._pipeline(), self._partition()
        return lambda: pipeline.ingest(partition, self.fetch)

    def _loading(self) -> Callable[[], object]:
        state, users = PartitionState(DAY_S), list(self._state.ids)
        values = changelog.pack(self._state, self._rows)
        return lambda: changelog.load(state, users, values)

    def _checkpointing(self) -> Callable[[], object]:
        pipeline, partition = self._pipeline(), self._partition()
        partition.dirty.append(self._rows)
        return lambda: _at_once(pipeline.checkpoint(partition))

    def _partition(self) -> Partition:
        state = copy.deepcopy(self._state)
        return Partition(0, state, copy.deepcopy(self._queue), next_offset=_EVENTS_BEFORE)

    def _pipeline(self) -> Pipeline:
        metrics, clock = Metrics(), ManualClock(_NOW)
        model: Any = SimpleNamespace(manifest=self._manifest)
        topics = Topics("events", "changelog", "scores", "alerts", "dlq")
        reviews = Reviews(None, 1, metrics, clock)
        stages = Stages(self.decoder, reviews, model, self._decider)
        return Pipeline(stages, sink=_Acknowledging(), topics=topics, metrics=metrics, clock=clock)

    @cached_property
    def _snapshot(self) -> Any:
        return self._state.snapshot(self._rows)

    @cached_property
    def _manifest(self) -> Manifest:
        return msgspec.json.decode((_MODEL / MANIFEST_FILE).read_bytes(), type=Manifest)

    @cached_property
    def _decider(self) -> Decider:
        return Decider(self._manifest, "0" * 64, AlertRule(high=0.7, clear=0.6, cooldown_s=DAY_S))

    @cached_property
    def _raw(self) -> RawScores:
        """Possible outputs of a model: about one user in forty has log-odds above 2."""
        rng = np.random.default_rng(2)
        n, horizons = len(self._rows), len(self._manifest.labels.purchase_days)
        shapes = (n,), (n, horizons), (n, 2), (n, len(self._manifest.categories))
        churn, purchase, value, category = (rng.normal(0, 1, shape).astype(np.float32) for shape in shapes)
        return RawScores(churn, purchase, value, category)

    @cached_property
    def _scores(self) -> Any:
        return self._decide().scores

    def _decide(self) -> Any:
        return self._decider.decide(self._snapshot, self._as_of, self._raw)


def _records(n: int) -> list[Record]:
    """``n`` Segment events in offset order, slightly out of order in time, a few of them sent twice."""
    rng = np.random.default_rng(1)
    activity = rng.lognormal(0.0, 1.0, _USERS)
    users = rng.choice(_USERS, n, p=activity / activity.sum()).tolist()
    kinds = rng.choice(len(_NAMES), n, p=_SHARES).tolist()
    times = (_NOW - _SPAN_S + _SPAN_S * np.arange(1, n + 1) / n - rng.uniform(0, 600, n)).tolist()
    items = rng.integers(0, 2_000, n).tolist()
    cents = rng.integers(100, 20_000, n).tolist()
    events = list(map(_event, range(n), users, kinds, times, items, cents))
    for i in np.flatnonzero(rng.random(n) < _REPEATED)[1:].tolist():
        events[i] = events[i - 1]
    return [Record(i, key, value, int(times[i] * 1000)) for i, (key, value) in enumerate(events)]


def _event(i: int, user: int, kind: int, time: float, item: int, cents: int) -> tuple[bytes, bytes]:
    order = {"order_id": f"o-{i:08x}", "total": cents / 100} if _NAMES[kind] == "Order Completed" else {}
    product = {"product_id": f"p-{item:04d}", "category": _CATEGORIES[item % len(_CATEGORIES)], "price": cents / 100}
    event = {
        "type": "track",
        "event": _NAMES[kind],
        "messageId": f"m-{i:08x}",
        "userId": f"user-{user:07d}",
        "timestamp": datetime.fromtimestamp(round(time, 3), UTC),
        "properties": {**product, "quantity": 1, "currency": "USD", **order},
        "context": {"library": {"name": "analytics.js"}},
    }
    return f"user-{user:07d}".encode(), msgspec.json.encode(event)


def _at_once(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that never waits, without an event loop, because a loop's own work must not count."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("a stage waited, expected a broker that acknowledges at once. This is a bug.")
