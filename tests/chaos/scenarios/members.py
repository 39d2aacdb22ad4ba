"""Members: workers come, leave, die, freeze, and take over from each other."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from typing import Final

from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import WorkerProcess, produce, wait_for
from tests.broker.undisturbed import shoppers
from tests.chaos.judge import Verdict, judge
from tests.chaos.sampler import CommitSampler, changelog_ends, lacking, scores_sent_twice, stale_records
from tests.chaos.scenarios.crash import QUICK
from tests.chaos.steady import Steady
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["QUIET_EXIT_S"]

#: A worker promises to end within this time after SIGTERM.
QUIET_EXIT_S: Final = 10.0


@scenario("sigterm_in_mid_batch")
def sigterm_in_mid_batch(world: World) -> Verdict:
    """A worker gets SIGTERM in the middle of a backlog, and leaves nothing that must be done twice."""
    settings = world.settings(instance_id="w")
    produce(settings, shoppers(20_000 if world.short else 100_000, users=1_000, seed=world.seed))
    env = {**QUICK, "VALUESTREAM_FETCH_RECORDS_MAX": "1000"}
    n_before = random.Random(world.seed).randrange(1_000, 8_000)
    with world.worker(settings, **env) as worker:
        worker.wait_ready()
        wait_for("some to be applied", lambda: worker.metric('valuestream_events_total{outcome="applied"}') > n_before)
        asked = time.monotonic()
        status, exit_seconds = worker.terminate(timeout_s=30), time.monotonic() - asked
    with world.worker(settings, **env) as worker:
        worker.wait_ready()
        recovery_seconds = time.monotonic() - asked - exit_seconds
        wait_settled(settings, worker)
        replayed = worker.metric('valuestream_events_total{outcome="replayed"}')
        assert worker.terminate() == 0, worker.log()
    twice = scores_sent_twice(settings)
    problems = {
        f"exit status {status}": status != 0,
        f"the stop took {exit_seconds:.1f} s, {QUIET_EXIT_S:.0f} s are promised": exit_seconds > QUIET_EXIT_S,
        f"{replayed:.0f} events were read again": replayed > 0,
        f"{twice} scores were sent twice": twice > 0,
    }
    measures = {"exit_seconds": exit_seconds, "replayed": replayed, "scores_sent_twice": twice}
    problem = "; ".join(problem for problem, found in problems.items() if found)
    return judge(
        "sigterm_in_mid_batch",
        world.seed,
        settings,
        recovery_seconds=recovery_seconds,
        problem=problem,
        measures=measures,
    )


# -- rebalance storm ------------------------------------------------------------------------------------------


@scenario("rebalance_storm")
def rebalance_storm(world: World) -> Verdict:
    """One worker, then three, then one again, ended by SIGTERM or kill -9, while events come; commits are watched."""
    rng = random.Random(world.seed)
    static = rng.random() < 0.5
    slots = [world.settings(instance_id=f"w{i}" if static else "") for i in range(3)]
    workers = {0: world.worker(slots[0], **QUICK)}
    workers[0].wait_ready()
    with CommitSampler(slots[0]) as sampler:
        traffic = Steady(slots[0], world.seed, sampler.sample)
        for settled_first in (True,) if world.short else (True, False, True, False, False):
            workers.update({i: world.worker(slots[i], **QUICK) for i in range(3) if i not in workers})
            if settled_first:
                traffic.until("all to be ready", lambda: all(map(_is_ready, workers.values())))
            traffic.tick(rng.randrange(3, 20))
            for slot in rng.sample(sorted(workers), 2):
                _end(workers.pop(slot), rng)
                traffic.tick(rng.randrange(1, 10))
        ended = time.monotonic()
        (last,) = workers.values()
        wait_settled(slots[0], last)
        recovery_seconds = time.monotonic() - ended
        sampler.sample()
        assert last.terminate() == 0, last.log()
    measures = {"samples": sampler.samples, "commits_past_what_was_applied": len(sampler.violations)}
    problem = "; ".join(sampler.violations[:3])
    return judge(
        "rebalance_storm", world.seed, slots[0], recovery_seconds=recovery_seconds, problem=problem, measures=measures
    )


def _end(worker: WorkerProcess, rng: random.Random) -> None:
    """End a worker by kill -9 or by SIGTERM. A worker that is still importing has no handler for SIGTERM yet."""
    if rng.random() < 0.5:
        worker.kill()
    else:
        status = worker.terminate(timeout_s=30)
        assert status in (0, -signal.SIGTERM), f"found exit status {status}, expected 0:\n{worker.log()}"


# -- zombies --------------------------------------------------------------------------------------------------


@scenario("zombie_is_replaced")
def zombie_is_replaced(world: World) -> Verdict:
    """A worker freezes for longer than its session, another takes over its partitions, and then the first wakes up."""
    first, second = world.settings(), world.settings()
    traffic = Steady(first, world.seed)
    with world.worker(first, **QUICK) as zombie, world.worker(second, **QUICK) as successor:
        traffic.until("both to share the partitions", lambda: _share(zombie) > 0 and _share(successor) > 0)
        traffic.tick(random.Random(world.seed).randrange(1, 5))
        frozen = time.monotonic()
        zombie.process.send_signal(signal.SIGSTOP)
        traffic.until("the other to take over", lambda: _share(successor) == harness.PARTITIONS)
        recovery_seconds = time.monotonic() - frozen
        wait_settled(first, successor)
        zombie.process.send_signal(signal.SIGCONT)
        traffic.until(
            "the zombie to come back or to end",
            lambda: _ended(zombie) or (_share(zombie) > 0 and _share(successor) > 0),
        )
        ended = _ended(zombie)
        problem = _unclear_end(zombie) if ended else ""
        wait_settled(first, successor)
        measures = {**stale_records(first), "zombie_ended": float(ended)}
    return judge(
        "zombie_is_replaced", world.seed, first, recovery_seconds=recovery_seconds, problem=problem, measures=measures
    )


@scenario("instance_started_twice")
def instance_started_twice(world: World) -> Verdict:
    """A worker is started with the name of one that runs or is frozen; one of the two must end and say why."""
    rng, first, second = random.Random(world.seed), world.settings(instance_id="w"), world.settings(instance_id="w")
    traffic = Steady(first, world.seed)
    with world.worker(first, **QUICK) as older:
        older.wait_ready()
        traffic.tick(rng.randrange(1, 5))
        frozen = rng.random() < 0.5
        if frozen:
            older.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with world.worker(second, **QUICK) as newer:
            if frozen:
                traffic.until("the newer to be ready", lambda: _is_ready(newer))
                older.process.send_signal(signal.SIGCONT)
            traffic.until("one of them to end", lambda: _ended(older) or _ended(newer))
            ended, other = (older, newer) if _ended(older) else (newer, older)
            problem = _unclear_end(ended)
            traffic.until("the other to go on", lambda: _is_ready(other))
            recovery_seconds = time.monotonic() - started
            wait_settled(first, other)
            assert other.terminate() == 0, other.log()
    measures = {**stale_records(first), "older_ended": float(ended is older)}
    return judge(
        "instance_started_twice",
        world.seed,
        first,
        recovery_seconds=recovery_seconds,
        problem=problem,
        measures=measures,
    )


def _ended(worker: WorkerProcess) -> bool:
    return worker.process.poll() is not None


def _is_ready(worker: WorkerProcess) -> bool:
    return worker.alive() and worker.get("/health/ready")[0] == 200


def _share(worker: WorkerProcess) -> int:
    """How many partitions a worker serves; 0 if it is not ready."""
    ready = worker.get("/health/ready")[0] == 200
    return int(worker.metric("valuestream_partitions_assigned")) if ready else 0


def _unclear_end(worker: WorkerProcess) -> str:
    """What is wrong with the end of a replaced worker: it must fail, and say why in one line."""
    last = (worker.log().strip().splitlines() or [""])[-1]
    if worker.process.returncode > 0 and last.startswith("valuestream: "):
        return ""
    return f"a replaced worker ended with status {worker.process.returncode} and said last: {last}"


# -- standbys -------------------------------------------------------------------------------------------------


@scenario("standby_takes_over")
def standby_takes_over(world: World) -> Verdict:
    """One of two workers dies and loses its disk; the other has a copy of its state, and reads only what that lacks."""
    behind, changelog_records, seconds, settings = _take_over(world, replicas=1)
    measures = {"records_to_recover": behind, "changelog_records": changelog_records}
    if not world.short:
        alone = replace(world, folder=world.folder / "alone", _names={})
        alone.folder.mkdir()
        measures["records_to_recover_without"], _, measures["recovery_seconds_without"], _ = _take_over(
            alone, replicas=0
        )
    problem = "" if behind < changelog_records / 2 else f"{behind} of {changelog_records} records were to be recovered"
    return judge(
        "standby_takes_over", world.seed, settings, recovery_seconds=seconds, problem=problem, measures=measures
    )


def _take_over(world: World, replicas: int) -> tuple[int, int, float, Settings]:
    """Let one of two workers die. Returns how the other takes over, and the settings.

    First the number of records that its copy lacks, then the number in the changelogs of the dead worker, then the
    seconds until it serves all partitions.
    """
    env = {**QUICK, "VALUESTREAM_STANDBY_REPLICAS": str(replicas)}
    first, second = world.settings(), world.settings()
    traffic = Steady(first, world.seed)
    with world.worker(first, **env) as one, world.worker(second, **env) as other:
        traffic.until("both to share the partitions", lambda: _share(one) > 0 and _share(other) > 0)
        users = 500 if world.short else 10_000
        produce(first, shoppers(users * 6, users=users, seed=world.seed, repeat=0))
        wait_settled(first, one, other)
        ends = {number: end for number, end in changelog_ends(first).items() if _serves(one, number)}
        if replicas:
            wait_for("the standby to have nearly all", lambda: lacking(second, ends) < sum(ends.values()) / 10)
        behind = lacking(second, ends)
        killed = time.monotonic()
        one.kill()
        traffic.until("the other to take over", lambda: _share(other) == harness.PARTITIONS)
        seconds = time.monotonic() - killed
        wait_settled(first, other)
        assert other.terminate() == 0, other.log()
    return behind, sum(ends.values()), seconds, first


def _serves(worker: WorkerProcess, partition: int) -> bool:
    return f'valuestream_consumer_lag{{partition="{partition}"}}' in worker.get("/metrics")[1]
