"""Tests of the pipeline without Kafka: when users are scored, and that a refusing broker loses nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews
from stream.clock import ManualClock
from stream.contract.score import Alert
from stream.decode.decoder import Decoder, Money
from stream.metrics import Metrics
from stream.outgoing import Outgoing, OutgoingLike
from stream.pipeline import Pipeline, Stages, Topics
from stream.score.decide import AlertRule, Decider
from stream.score.explain.alert_reasons import AlertReasons
from stream.score.explain.explainer import Explainer
from stream.score.inference import Inference
from stream.score.queue import ScoreQueue
from stream.score.scorer import DEMO_MODEL, RawScores, Scorer
from stream.state.partition_state import PartitionState

DAY = 86_400.0
TOPICS = Topics(events="events", changelog="changelog", scores="scores", alerts="alerts", dlq="dlq")


@dataclass
class Record:
    """A consumer record with the fields that the stages read."""

    offset: int
    value: bytes | None
    timestamp: int
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class MemorySink:
    """Keeps what is sent, in the order of a broker's acknowledgements. While ``refusing`` it refuses everything."""

    sent: dict[str, list[Outgoing]] = field(default_factory=dict)
    refusing: bool = False

    async def send(self, topic: str, partition: int, records: Iterable[OutgoingLike]) -> int | None:
        if self.refusing:
            raise ConnectionError("refused")
        log = self.sent.setdefault(topic, [])
        before = len(log)
        log.extend(map(Outgoing._make, records))
        return len(log) - 1 if len(log) > before else None


class Bench:
    """A pipeline with one partition and a manual clock. Tests feed it event by event."""

    def __init__(self, scorer: Scorer, refresh_interval_s: float = 1.0, explain_users_max: int = 2) -> None:
        self.clock, self.sink, self.metrics = ManualClock(), MemorySink(), Metrics()
        decider = Decider(scorer.manifest, scorer.sha256, AlertRule(high=0.7, clear=0.6, cooldown_s=DAY))
        decoder = Decoder("flat", Money("USD"), bytes_max=10_000, future_skew_s=300)
        reviews = Reviews(None, 1, self.metrics, self.clock)
        inference = Inference(scorer=scorer, metrics=self.metrics, clock=self.clock)
        explainer = Explainer(scorer, users_max=explain_users_max)
        reasons = AlertReasons(explainer, inference=inference, metrics=self.metrics, clock=self.clock)
        self.pipeline = Pipeline(
            Stages(decoder, reviews, inference, decider, reasons),
            sink=self.sink,
            topics=TOPICS,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.partition = Partition(0, PartitionState(DAY), ScoreQueue(refresh_interval_s))
        self.offset = 0

    def event(self, user: str, kind: str = "view") -> None:
        event_id = f"e{self.offset}"
        self.take_in({"type": kind, "user_id": user, "ts": self.clock.time(), "event_id": event_id, "price": 10})

    def take_in(self, *values: Any) -> None:
        """Ingest one record for each value, all in one fetch."""
        arrival = int(self.clock.time() * 1000)
        records = [Record(self.offset + i, json.dumps(value).encode(), arrival) for i, value in enumerate(values)]
        self.offset += len(records)
        self.partition.highwater = self.offset
        self.pipeline.ingest(self.partition, records)

    async def score(self) -> list[str]:
        """Score once. Returns the users in the order of their urgency."""
        before = len(self.sink.sent.get("scores", []))
        await self.pipeline.score([self.partition], 100)
        return [(r.key or b"").decode() for r in self.sink.sent.get("scores", [])[before:]]

    async def sweep(self) -> list[str]:
        """Look for silent users and score them."""
        event_now = self.partition.event_now(self.clock.time())
        self.partition.queue_silent(event_now, self.pipeline.idle_stage_max, self.clock.monotonic())
        return await self.score()


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(DEMO_MODEL)


async def test_user_is_scored_once_per_refresh_interval_for_any_number_of_events(scorer: Scorer) -> None:
    bench = Bench(scorer, refresh_interval_s=1.0)
    scored = 0
    for _ in range(50):
        bench.event("u")
        scored += len(await bench.score())
        bench.clock.advance(seconds=0.1)
    assert scored == 5
    bench.clock.advance(seconds=1)
    assert await bench.score() == ["u"]
    assert await bench.score() == []


def test_fields_that_are_left_out_are_counted(scorer: Scorer) -> None:
    bench = Bench(scorer)
    event = {"type": "view", "user_id": "u", "ts": bench.clock.time(), "category": ["shoes"]}
    bench.take_in(event, event)
    ignored = bench.metrics.registry.get_sample_value("valuestream_fields_ignored_total", {"field": "category"})
    assert (len(bench.partition.dead), ignored) == (0, 2)


def test_record_of_several_events_is_one_dead_letter_however_many_are_late_or_bad(scorer: Scorer) -> None:
    bench = Bench(scorer)
    bench.event("ann")
    late = [{"type": "view", "user_id": "ann", "ts": bench.clock.time() - 3 * DAY, "event_id": i} for i in "abc"]
    new = {"type": "view", "user_id": "ann", "ts": bench.clock.time(), "event_id": "new"}
    bench.take_in([*late, new], [*late, {"type": "view"}, {**new, "event_id": "newer"}])
    assert [(d.record.offset, d.reason) for d in bench.partition.dead] == [(2, "user"), (1, "late")]
    assert bench.partition.state.users["n_events"][0] == 3


async def test_purchases_and_carts_are_scored_before_views(scorer: Scorer) -> None:
    bench = Bench(scorer)
    for user, kind in (("viewer", "view"), ("carter", "cart"), ("buyer", "purchase")):
        bench.event(user, kind)
    assert await bench.score() == ["buyer", "carter", "viewer"]


async def test_silent_user_is_scored_once_at_each_idle_stage_while_others_move_the_watermark(scorer: Scorer) -> None:
    bench = Bench(scorer)
    bench.event("silent")
    assert await bench.score() == ["silent"]
    days = []
    for day in range(1, 41):
        bench.clock.advance(seconds=DAY)
        bench.event("busy")
        days += [day for user in await bench.sweep() if user == "silent"]
    assert days == [1, 3, 7, 14, 30]
    ages = [as_of(r) - as_of(bench.sink.sent["scores"][0]) for r in of_user(bench, "silent")]
    assert [age // np.timedelta64(1, "D") for age in ages] == [0, 1, 3, 7, 14, 30]


async def test_silent_user_is_scored_by_the_wall_clock_when_the_topic_is_silent(scorer: Scorer) -> None:
    bench = Bench(scorer)
    bench.event("silent")
    await bench.score()
    bench.clock.advance(seconds=DAY + 60)
    assert await bench.sweep() == ["silent"]
    assert await bench.sweep() == []


async def test_bad_and_late_records_do_not_stop_the_clock_of_silence(scorer: Scorer) -> None:
    bench = Bench(scorer)
    bench.event("silent")
    await bench.score()
    scored = []
    for _ in range(26):
        bench.clock.advance(seconds=3_600)
        bench.pipeline.ingest(bench.partition, [Record(bench.offset, b"not json", 0)])
        bench.offset += 1
        bench.partition.highwater = bench.offset
        scored += await bench.sweep()
    assert scored == ["silent"]


async def test_nobody_is_silent_behind_a_backlog(scorer: Scorer) -> None:
    bench = Bench(scorer)
    bench.event("unheard")
    await bench.score()
    bench.partition.highwater = 1_000
    bench.clock.advance(seconds=3 * DAY)
    assert await bench.sweep() == []


async def test_users_of_a_refused_score_are_scored_again(scorer: Scorer) -> None:
    bench = Bench(scorer, refresh_interval_s=0)
    bench.event("u")
    bench.sink.refusing = True
    with pytest.raises(ConnectionError):
        await bench.score()
    bench.sink.refusing = False
    assert await bench.score() == ["u"]


async def test_checkpoint_that_is_refused_does_not_move_the_position(scorer: Scorer) -> None:
    bench = Bench(scorer)
    bench.event("u")
    before = bench.partition.durable
    bench.sink.refusing = True
    with pytest.raises(ConnectionError):
        await bench.pipeline.checkpoint(bench.partition)
    assert bench.partition.durable == before
    assert bench.partition.durable != bench.partition.position()


async def test_checkpoint_writes_each_changed_user_once_and_then_nothing(scorer: Scorer) -> None:
    bench = Bench(scorer)
    for user in ("a", "b", "a"):
        bench.event(user)
    position, users, offset = await bench.pipeline.checkpoint(bench.partition)
    assert (position.offset, offset) == (3, 1)
    assert users.keys == [b"a", b"b"]
    assert users.rows.tolist() == [0, 1]
    again, nobody, nothing = await bench.pipeline.checkpoint(bench.partition)
    assert (again, nobody.keys, nothing) == (position, [], None)


async def test_event_that_comes_while_a_score_is_made_leaves_the_user_stale(scorer: Scorer) -> None:
    bench = Bench(scorer, refresh_interval_s=0)
    bench.event("u")
    send = bench.sink.send

    async def send_after_an_event(topic: str, partition: int, records: Iterable[OutgoingLike]) -> int | None:
        if topic == "scores":
            bench.sink.send = send  # type: ignore[method-assign]
            bench.event("u", "purchase")
        return await send(topic, partition, records)

    bench.sink.send = send_after_an_event  # type: ignore[method-assign]
    assert await bench.score() == ["u"]
    assert bench.partition.state.unscored().tolist() == [0]
    assert await bench.score() == ["u"]
    assert bench.partition.state.unscored().tolist() == []


class SlowModel:
    """The demo model, but it takes a millisecond per event, and notes whether it ran in the event loop's thread."""

    def __init__(self, scorer: Scorer, clock: ManualClock) -> None:
        self._scorer, self._clock = scorer, clock
        self.in_the_loop: list[bool] = []

    def run(self, tokens: Any, numbers: Any) -> RawScores:
        self._clock.advance(seconds=0.001 * np.count_nonzero(tokens[:, :, 0]))
        self.in_the_loop.append(threading.current_thread() is threading.main_thread())
        return self._scorer.run(tokens, numbers)


async def test_quick_inference_runs_in_the_event_loop_and_slow_inference_in_a_thread(scorer: Scorer) -> None:
    bench = Bench(scorer, refresh_interval_s=0)
    model = SlowModel(scorer, bench.clock)
    bench.pipeline._model._scorer = model  # type: ignore[attr-defined]
    for users in (1, 1, 1, 8, 1, 1):
        for user in range(users):
            bench.event(f"u{user}")
        await bench.score()
    # Nothing is known before the first run. The fourth takes 11 ms, so the fifth might take as long.
    assert model.in_the_loop == [False, True, True, False, False, True]


def of_user(bench: Bench, user: str) -> list[Outgoing]:
    return [r for r in bench.sink.sent["scores"] if r.key == user.encode()]


def as_of(record: Outgoing) -> np.datetime64:
    return np.datetime64(json.loads(record.value or b"")["as_of"].removesuffix("Z"))


async def silent_alerts(bench: Bench, users: int) -> list[Alert]:
    """Alerts for ``users`` shoppers who looked around for a week and then stayed away for a month."""
    for _ in range(7):
        for user in range(users):
            bench.event(f"u{user}")
        bench.clock.advance(seconds=DAY)
    await bench.score()
    bench.clock.advance(seconds=30 * DAY)
    await bench.sweep()
    return [msgspec.json.decode(r.value or b"", type=Alert) for r in bench.sink.sent.get("alerts", [])]


async def test_alert_has_reasons_in_words(scorer: Scorer) -> None:
    bench = Bench(scorer)
    (alert,) = await silent_alerts(bench, 1)
    assert 1 <= len(alert.reasons) <= 4
    assert any(reason.text.startswith("no visit for ") for reason in alert.reasons)
    assert unexplained(bench) == {"load": 0, "bound": 0, "error": 0}


async def test_only_so_many_alerts_get_reasons_but_all_go_out(scorer: Scorer) -> None:
    bench = Bench(scorer, explain_users_max=2)
    alerts = await silent_alerts(bench, 5)
    assert len(alerts) == 5
    assert [bool(alert.reasons) for alert in alerts] == [True, True, False, False, False]
    assert unexplained(bench) == {"load": 0, "bound": 3, "error": 0}


async def test_alerts_go_out_without_reasons_while_others_wait_for_a_score(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.score.explain.alert_reasons.EXPLAIN_QUEUE_MAX", -1)
    bench = Bench(scorer)
    (alert,) = await silent_alerts(bench, 1)
    assert alert.reasons == []
    assert unexplained(bench) == {"load": 1, "bound": 0, "error": 0}


def unexplained(bench: Bench) -> dict[str, float]:
    names = ("load", "bound", "error")
    return {name: bench.metrics.alerts_unexplained.labels(name)._value.get() for name in names}
