"""Crash: kills a worker with -9 exactly at a named point of an event's way. A plain worker must then recover."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess, produce, wait_for
from tests.broker.undisturbed import shoppers
from tests.chaos.judge import Verdict, judge
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["QUICK"]

#: With these settings a few thousand events pass each point many times, and a session ends soon.
QUICK: Final = {
    "VALUESTREAM_CHECKPOINT_INTERVAL_S": "0.2",
    "VALUESTREAM_REFRESH_INTERVAL_S": "0.2",
    "VALUESTREAM_SESSION_TIMEOUT_S": "3",
    "VALUESTREAM_FETCH_RECORDS_MAX": "250",
    "VALUESTREAM_BATCH_USERS_MAX": "32",
}
_PARTS: Final = 4
#: Scenario → crash points, and the largest number of passages before the worker dies. The seed picks the point.
#: Each part of the traffic passes each point at least once. A point that each partition passes is passed four times.
_CRASHES: Final = {
    "kill_after_decode": (("after_decode",), 12),
    "kill_mid_state_flush": (("before_store_write", "in_store_write", "after_store_write"), 8),
    "kill_after_changelog_send": (("after_changelog_send",), 8),
    "kill_after_score_send": (("after_score_send",), 8),
    "kill_before_commit": (("before_commit",), 3),
    "kill_mid_inference": (("mid_inference",), 8),
    "kill_mid_merge": (("mid_merge",), 8),
}
#: Crash point → the time of death, in words.
_WHERE: Final = {
    "after_decode": "after it has decoded a fetch",
    "before_store_write": "before",
    "in_store_write": "during",
    "after_store_write": "after a checkpoint's write to the local store",
    "after_changelog_send": "after the changelog was acknowledged",
    "after_score_send": "after scores were acknowledged",
    "before_commit": "before it commits offsets",
    "mid_inference": "while it scores users",
    "mid_merge": "while it merges a journal",
}


def _play(name: str, points: Sequence[str], passages_max: int) -> Callable[[World], Verdict]:
    def play(world: World) -> Verdict:
        rng = random.Random(f"{name} {world.seed}")
        point, settings = points[world.seed % len(points)], _settings(world, rng)
        parts = _traffic(world)
        with _crashing(world, settings, point, 1 + rng.randrange(passages_max)) as worker:
            died = _feed_until_death(worker, settings, parts)
        _check_died_there(world, worker, point)
        if rng.random() < 0.5:
            shutil.rmtree(settings.data_dir, ignore_errors=True)
        return _recovered(world, name, settings, died, parts)

    where = " or ".join(_WHERE[point] for point in points)
    play.__doc__ = f"A worker is killed with -9 {where}, at a random passage; half of the runs lose the disk too."
    return play


for _name, (_points, _passages_max) in _CRASHES.items():
    scenario(_name)(_play(_name, _points, _passages_max))


@scenario("kill_mid_recovery")
def kill_mid_recovery(world: World) -> Verdict:
    """A worker dies and loses its disk; the next dies while it applies the changelog, the next while it loads it."""
    name, points = "kill_mid_recovery", {"mid_changelog": harness.PARTITIONS, "mid_load": 100}
    rng = random.Random(f"{name} {world.seed}")
    settings, parts = _settings(world, rng), _traffic(world)
    with world.worker(settings, **QUICK) as worker:
        produce(settings, parts.pop(0))
        wait_settled(settings, worker)
        worker.kill()
    shutil.rmtree(settings.data_dir)
    died = 0.0
    for point, passages_max in points.items():
        with _crashing(world, settings, point, 1 + rng.randrange(passages_max)) as worker:
            wait_for(f"the worker to die at {point}", lambda: worker.process.poll() is not None)
            died = time.monotonic()
        _check_died_there(world, worker, point)
    return _recovered(world, name, settings, died, parts)


def _settings(world: World, rng: random.Random) -> Settings:
    """Settings of a static member, which gets its partitions back at once, or of a dynamic one.

    A dynamic member must wait until the session of the dead worker has ended.
    """
    return world.settings(instance_id=rng.choice(("", "w")))


def _traffic(world: World) -> list[list[Message]]:
    messages = shoppers(3_000 if world.short else 8_000, users=300, seed=world.seed)
    size = -(-len(messages) // _PARTS)
    return [messages[i : i + size] for i in range(0, len(messages), size)]


def _crashing(world: World, settings: Settings, point: str, passage: int) -> WorkerProcess:
    chaos = {"CHAOS_POINT": point, "CHAOS_PASSAGE": str(passage), "CHAOS_MARK": str(world.folder / point)}
    return world.worker(settings, "tests.chaos.worker", **QUICK, **chaos)


def _feed_until_death(worker: WorkerProcess, settings: Settings, parts: list[list[Message]]) -> float:
    """Send one part after the other, and remove it from ``parts``, until the worker is dead. Returns when it died."""

    def dead() -> bool:
        return worker.process.poll() is not None

    wait_for("death or readiness", lambda: dead() or worker.get("/health/ready")[0] == 200)
    while parts and not dead():
        produce(settings, parts.pop(0))
        wait_for("death or all to be committed", lambda: dead() or _all_committed(settings))
    wait_for("the worker to die", dead)
    return time.monotonic()


def _all_committed(settings: Settings) -> bool:
    return harness.committed(settings) == harness.end_offsets(settings)


def _check_died_there(world: World, worker: WorkerProcess, point: str) -> None:
    status = worker.process.returncode
    assert status == -signal.SIGKILL, (
        f"expected death by SIGKILL at {point}, found exit status {status}:\n{worker.log()}"
    )
    assert (world.folder / point).exists(), f"the worker was killed, but not at {point}"


def _recovered(world: World, name: str, settings: Settings, died: float, parts: Sequence[Sequence[Message]]) -> Verdict:
    """Start a plain worker, send the other parts, and judge."""
    with world.worker(settings, **QUICK) as worker:
        worker.wait_ready()
        recovery_seconds = time.monotonic() - died
        produce(settings, [message for part in parts for message in part])
        wait_settled(settings, worker)
        assert worker.terminate() == 0, worker.log()
    return judge(name, world.seed, settings, recovery_seconds=recovery_seconds)
