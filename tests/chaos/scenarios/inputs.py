"""Inputs: events come twice, late, shuffled, with gaps, or from senders with wrong clocks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from stream.kafka.clients import connect, kafka_python_config
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import PARTITIONS, Message, WorkerProcess, produce, wait_for
from tests.broker.undisturbed import states_of
from tests.chaos.judge import Verdict, judge
from tests.chaos.traffic import Shop, send_transactions
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["input_disordered", "input_with_gaps"]

_DAY_S: Final = 86_400
#: Settings that a second service on the same events must have of its own.
_NAMES: Final = ("app_id", "scores_topic", "alerts_topic", "dlq_topic")
_REASONS: Final = ("late", "future")
#: Seconds that the senders' clocks are ahead. We allow 300.
_SKEWS_S: Final = (0, 0, 0, 0, 200, -3_600, -_DAY_S, _DAY_S)
#: Configurations of a topic: one to compact it within a second, and one to stop that.
_COMPACTED_NOW: Final = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
_KEPT: Final = {"cleanup.policy": "delete", "segment.ms": str(7 * _DAY_S * 1_000)}


@scenario("input_with_gaps")
def input_with_gaps(world: World) -> Verdict:
    """Some offsets have no record, also at the end of a partition: compacted, aborted, or a transaction's marker."""
    settings = world.settings(instance_id="gaps")
    shop = Shop(world.seed, users=50)
    size = 200 if world.short else 5_000
    holes = _compact(settings, shop.half_hour(size), shop.half_hour(size))
    send_transactions(settings, _committed_and_aborted(shop, 6 if world.short else 40))
    worker = world.worker(settings)
    worker.wait_ready()
    wait_settled(settings, worker)
    problems = _problems(worker, "after compaction and aborted transactions")
    if not world.short:
        worker.kill()
        worker = world.worker(settings)
        worker.wait_ready()
        wait_settled(settings, worker)

    def while_one_is_open() -> None:
        produce(settings, shop.half_hour(size))
        wait_for("commits up to the open transaction", lambda: worker.alive() and _stable(settings))

    send_transactions(settings, [(shop.half_hour(size), world.seed % 2 == 1)], while_one_is_open)
    wait_settled(settings, worker)
    problems += _problems(worker, "after the open transaction")
    send_transactions(settings, [(shop.half_hour(20), False)])
    wait_settled(settings, worker)
    problems += _problems(worker, "behind markers only")
    if worker.terminate() != 0:
        problems.append(f"the worker ended with {worker.process.returncode}")
    verdict = judge("input_with_gaps", world.seed, settings, problem="; ".join(problems))
    aborted = sum(harness.end_offsets(settings).values()) - holes - len(_events(settings))
    return msgspec.structs.replace(verdict, measures={"compacted": holes, "aborted_and_markers": aborted})


def _events(settings: Settings) -> list[Any]:
    return harness.read_topic(settings, settings.events_topic)


def _compact(settings: Settings, *parts: Iterable[Message]) -> int:
    """Send events and wait until the broker has removed some of them. Returns how many."""
    _configure(settings, _COMPACTED_NOW)
    for part in parts:
        produce(settings, part)
        # Kafka compacts a log file when a record that is younger by ``segment.ms`` has begun the next file.
        time.sleep(0.2)
    produce(settings, Shop(0, users=50).half_hour(50))
    sent = sum(harness.end_offsets(settings).values())
    wait_for("the topic to be compacted", lambda: len(_events(settings)) < sent)
    _configure(settings, _KEPT)
    return sent - len(_events(settings))


def _configure(settings: Settings, configs: dict[str, str]) -> None:
    admin = connect(settings)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.events_topic, configs=configs)])
    finally:
        admin.close()


def _committed_and_aborted(shop: Shop, n: int) -> list[tuple[list[Message], bool]]:
    """Transactions. About half of them are aborted, and so are the first and the last."""
    return [(shop.half_hour(shop.rng.randrange(1, 60)), 0 < i < n - 1 and shop.rng.random() < 0.6) for i in range(n)]


def _stable(settings: Settings) -> bool:
    """Whether commits reach exactly to the first open transaction of each partition."""
    consumer = KafkaConsumer(**kafka_python_config(settings), isolation_level="read_committed")
    ends = consumer.end_offsets([TopicPartition(settings.events_topic, p) for p in range(PARTITIONS)])
    consumer.close()
    stable = {tp.partition: offset for tp, offset in ends.items() if offset > 0}
    return stable != harness.end_offsets(settings) and harness.committed(settings) == stable


def _problems(worker: WorkerProcess, when: str) -> list[str]:
    wait_for("the lag to be measured anew", lambda: worker.metric("valuestream_consumer_lag") == 0)
    ready = worker.get("/health/ready")
    return [] if ready[0] == 200 else [f"not ready {when}: {ready[1]}"]


@scenario("input_disordered")
def input_disordered(world: World) -> Verdict:
    """Events come twice (a third), shuffled, and from clocks a day off; the size of fetches must change nothing.

    The scenario counts the accepted events itself as well, one by one.
    """
    n, small_fetch = (1_500, 7) if world.short else (40_000, 97)
    # There are so many users that none has 64 events: repeats are known among the last 64 events of a user.
    messages = _disordered(Shop(world.seed, users=n // 20), n)
    settings = world.settings()
    others: dict[str, Any] = {name: f"{getattr(settings, name)}-small" for name in _NAMES}
    small = world.settings(**others)
    produce(settings, messages)
    workers = [world.worker(settings), world.worker(small, VALUESTREAM_FETCH_RECORDS_MAX=str(small_fetch))]
    for each, worker in zip((settings, small), workers, strict=True):
        worker.wait_ready()
        wait_settled(each, worker, timeout_s=300)
    dead = {reason: workers[0].metric(f'valuestream_dead_letters_total{{reason="{reason}"') for reason in _REASONS}
    problems = [f"a worker ended with {worker.process.returncode}" for worker in workers if worker.terminate() != 0]
    if states_of(settings) != states_of(small):
        problems.append("the state depends on how the events were fetched")
    verdict = judge("input_disordered", world.seed, settings, problem="; ".join(problems))
    accepted = _accepted(settings)
    if verdict.passed and accepted != verdict.events_in:
        problem = f"{accepted} events were to be accepted, the state holds {verdict.events_in}"
        verdict = msgspec.structs.replace(verdict, passed=False, problem=problem)
    return msgspec.structs.replace(verdict, measures={"sent": len(messages), **dead})


def _disordered(shop: Shop, n: int) -> list[Message]:
    """Events of the last half hour out of order, from senders with clocks that are right, or wrong by up to a day."""
    start = time.time() - 1_800
    messages: list[tuple[float, Message]] = []
    for i in range(n):
        user = shop.anyone()
        skew = _SKEWS_S[int(user.removeprefix("user-")) % len(_SKEWS_S)]
        late = 2 * _DAY_S if shop.rng.random() < 0.02 else 0
        message = shop.event(user, start + 1_800 * i / n + skew - late)
        # Each event moves back by up to a third of all events. A third of them come again anywhere after that.
        place = i + shop.rng.uniform(0, n / 3)
        messages.append((place, message))
        if shop.rng.random() < 0.3:
            messages.append((shop.rng.uniform(place, 1.3 * n), message))
    return [message for _, message in sorted(messages, key=lambda placed: placed[0])]


def _accepted(settings: Settings) -> int:
    """How many events count by the written rules: each once, none that is late, none of the future."""
    seen, newest, latest = set(), [0] * PARTITIONS, time.time() + settings.future_skew_s
    for record in _events(settings):
        event = msgspec.json.decode(record.value)
        at = int(event["timestamp"])
        if event["timestamp"] > latest:
            continue
        if at >= newest[record.partition] - settings.lateness_s:
            seen.add(event["messageId"])
        newest[record.partition] = max(newest[record.partition], at)
    return len(seen)
