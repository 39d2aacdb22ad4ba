"""Load: one user sends half of the events, bursts come, and other workers with another model take over a service."""

from __future__ import annotations

import bisect
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np

from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import WorkerProcess, produce, wait_for
from tests.broker.models import write_scoring_model
from tests.chaos.judge import Verdict, judge
from tests.chaos.traffic import Shop, send_steadily
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["hot_user_and_burst", "resumed_by_others"]

_HOT: Final = "user-hot"
_EVENTS_PER_S: Final = 60
_BURST: Final = 10
#: Allows for buffers of fetches, and for users with more events.
_RSS_GROWTH_MAX_MB: Final = 64.0
#: Latency may double. A user with many events also waits for ``--refresh-interval-s`` (1 s).
_LATENCY_FACTOR, _LATENCY_EXTRA_S = 2.0, 1.0


@scenario("hot_user_and_burst", timeout_s=900)
def hot_user_and_burst(world: World) -> Verdict:
    """After a calm phase one user sends half of all events, then a burst brings ten times as many events."""
    settings = world.settings(instance_id="hot")
    shop = Shop(world.seed, users=100 if world.short else 1_000)
    worker = world.worker(settings)
    worker.wait_ready()
    seconds = 2.0 if world.short else 60.0
    rss: dict[str, list[float]] = defaultdict(list)
    begins: dict[str, float] = {}

    def send(phase: str, per_s: float, seconds: float, hot_share: float = 0.0) -> None:
        begins[phase] = time.time()
        send_steadily(
            settings,
            lambda now: shop.event(_HOT if shop.rng.random() < hot_share else shop.anyone(), now),
            per_s=per_s,
            seconds=seconds,
            sample=lambda _: rss[phase].append(_rss_mb(worker)),
            every_s=0.5,
        )

    send("calm", _EVENTS_PER_S, seconds)
    send("hot", _EVENTS_PER_S, seconds, hot_share=0.5)
    send("burst", _BURST * _EVENTS_PER_S, seconds / 2)
    wait_settled(settings, worker, timeout_s=300)
    rss["after"].append(_rss_mb(worker))
    code = worker.terminate()
    latencies = _latencies(settings, begins)
    problems = [] if code == 0 else [f"the worker ended with {code}"]
    if not world.short:
        problems += _beyond_bounds(rss, latencies)
    verdict = judge("hot_user_and_burst", world.seed, settings, problem="; ".join(problems))
    measures = {
        f"others_{phase}_{name}_s": value for phase, quantiles in latencies.items() for name, value in quantiles.items()
    }
    measures |= {f"rss_{phase}_mb": max(values) for phase, values in rss.items()}
    return msgspec.structs.replace(verdict, measures={name: round(value, 3) for name, value in measures.items()})


def _rss_mb(worker: WorkerProcess) -> float:
    return worker.metric("process_resident_memory_bytes") / 2**20


def _latencies(settings: Settings, begins: dict[str, float]) -> dict[str, dict[str, float]]:
    """Phase → quantiles of the seconds from an event's arrival to its first score, without the hot user.

    Both times are those of the records, and processes on one machine made them.
    """
    scored: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in harness.read_topic(settings, settings.scores_topic):
        scored[record.key.decode()].append((json.loads(record.value)["applied_offset"], record.timestamp))
    found: dict[str, list[float]] = {phase: [] for phase in begins}
    phases, starts = list(begins), list(begins.values())
    for record in harness.read_topic(settings, settings.events_topic):
        user = record.key.decode()
        if user != _HOT:
            first = scored[user][bisect.bisect_left(scored[user], (record.offset, 0))]
            phase = phases[max(0, bisect.bisect(starts, record.timestamp / 1_000) - 1)]
            found[phase].append((first[1] - record.timestamp) / 1_000)
    return {
        phase: {"p50": float(np.quantile(values, 0.5)), "p95": float(np.quantile(values, 0.95))}
        for phase, values in found.items()
    }


def _beyond_bounds(rss: dict[str, list[float]], latencies: dict[str, dict[str, float]]) -> list[str]:
    problems = []
    grown = max(map(max, rss.values())) - max(rss["calm"])
    if grown > _RSS_GROWTH_MAX_MB:
        problems.append(f"memory grew by {grown:.0f} MB, expected at most {_RSS_GROWTH_MAX_MB:.0f}")
    most = _LATENCY_FACTOR * latencies["calm"]["p95"] + _LATENCY_EXTRA_S
    problems += [
        f"95 % of the others waited up to {quantiles['p95']:.2f} s when {phase}, expected at most {most:.2f}"
        for phase, quantiles in latencies.items()
        if quantiles["p95"] > most
    ]
    return problems


@scenario("resumed_by_others")
def resumed_by_others(world: World) -> Verdict:
    """Two workers, then one that is killed, then three with another model, which scores only stale users.

    In the short form it is one worker, one, and two.
    """
    n, users = (400, 60) if world.short else (20_000, 2_000)
    # A worker without an instance id leaves the group when it ends, so others need not wait for its session to end.
    shop, settings = Shop(world.seed, users), [world.settings(instance_id=name) for name in ("a", "", "")]
    model = write_scoring_model(world.folder / "model")
    first, everyone = settings[0], [f"user-{i}" for i in range(users)]
    produce(first, shop.half_hour(n))
    with _serving(world, settings[: 1 if world.short else 2]):
        before = _scores(first)
    # The first model scores these users, but that does not become durable. So the second scores the same events.
    unsaved = everyone[: users // 3]
    produce(first, [shop.event(user, time.time()) for user in unsaved])
    with world.worker(first, VALUESTREAM_CHECKPOINT_INTERVAL_S="600") as worker:
        worker.wait_ready()
        wait_for("scores that are not durable", lambda: _users(_scores(first)[len(before) :]) == set(unsaved))
        worker.kill()
    scored = len(_scores(first))
    with _serving(world, settings[: 2 if world.short else 3], VALUESTREAM_MODEL_DIR=str(model)) as workers:
        rescored = _users(_scores(first)[scored:])
        produce(first, [shop.event(user, time.time()) for user in everyone])
        wait_settled(first, *workers, timeout_s=300)
    problems = [] if rescored == set(unsaved) else ["the new model scored other users than the stale ones"]
    scores = _scores(first)
    ids = [{score["score_id"] for score in scores if score["model"]["name"] == name} for name in ("event-bert", "sums")]
    if ids[0] & ids[1]:
        problems.append(f"{len(ids[0] & ids[1])} scores of both models have the same id")
    verdict = judge("resumed_by_others", world.seed, first, problem="; ".join(problems), model=model)
    return msgspec.structs.replace(verdict, measures={"scores_first_model": len(ids[0]), "scores_second": len(ids[1])})


@contextmanager
def _serving(world: World, settings: list[Settings], **env: str) -> Iterator[list[WorkerProcess]]:
    """Workers with these settings that have nothing left to do. At the end of the context they end in order."""
    workers = [world.worker(each, **env) for each in settings]
    for worker in workers:
        worker.wait_ready()
    wait_settled(settings[0], *workers, timeout_s=300)
    yield workers
    for worker in workers:
        worker.process.terminate()
    assert [worker.process.wait(harness.WAIT_S) for worker in workers] == [0] * len(workers), workers[0].log()


def _scores(settings: Settings) -> list[Any]:
    """All scores, in the order in which they were sent."""
    records = harness.read_topic(settings, settings.scores_topic)
    return [json.loads(record.value) for record in sorted(records, key=lambda record: record.timestamp)]


def _users(scores: list[Any]) -> set[str]:
    return {score["user_id"] for score in scores}
