"""Brokers: stop, die, freeze and lose each other, while shoppers go on and a supervisor restarts the worker."""

from __future__ import annotations

import random
import time
from typing import Final

from kafka.errors import KafkaError

from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import wait_for
from tests.chaos.cluster import Cluster
from tests.chaos.judge import Verdict, judge
from tests.chaos.supervised import Supervised, Traffic
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["broker_paused", "broker_restarted", "cluster_loses_brokers"]

#: A long run has each fault so many times.
_ROUNDS: Final = 3
_SESSION_S: Final = 2.0
#: A commit of this age is old, as offsets are committed every second.
_OLD_S: Final = 1.5


@scenario("broker_restarted", own_broker=True)
def broker_restarted(world: World) -> Verdict:
    """The broker ends by SIGTERM or kill -9, in random order, and comes back each time (short: kill -9 only)."""
    rng, settings, recoveries = random.Random(world.seed), world.settings(), [0.0]
    ends = [world.broker.kill] if world.short else [world.broker.stop, world.broker.kill] * _ROUNDS
    rng.shuffle(ends)
    with Supervised(world, settings) as supervised, Traffic(settings, world.seed) as traffic:
        supervised.wait_ready()
        for end in ends:
            supervised.wait_more()
            end()
            world.broker.start(print)
            recoveries.append(supervised.wait_more())
        traffic.stop()
        wait_settled(settings, supervised)
    return judge(
        "broker_restarted", world.seed, settings, recovery_seconds=max(recoveries), measures=supervised.measures
    )


@scenario("broker_paused")
def broker_paused(world: World) -> Verdict:
    """The broker freezes for longer than a session. When it wakes up it takes the worker for dead."""
    rng, settings, recoveries = random.Random(world.seed), world.settings(), [0.0]
    session = str(_SESSION_S)
    with (
        Supervised(world, settings, VALUESTREAM_SESSION_TIMEOUT_S=session) as supervised,
        Traffic(settings, world.seed) as traffic,
    ):
        supervised.wait_ready()
        for _ in range(1 if world.short else _ROUNDS):
            supervised.wait_more()
            world.broker.pause()
            time.sleep(_SESSION_S * rng.uniform(1.5, 2.5))  # This is the length of the fault, not a wait.
            world.broker.resume()
            recoveries.append(supervised.wait_more())
        traffic.stop()
        wait_settled(settings, supervised)
    return judge("broker_paused", world.seed, settings, recovery_seconds=max(recoveries), measures=supervised.measures)


@scenario("cluster_loses_brokers", timeout_s=600.0)
def cluster_loses_brokers(world: World) -> Verdict:
    """Of three brokers the leader of a partition dies, and all goes on; then another dies, and commits must stop.

    A single broker has too few replicas to acknowledge anything, so nothing is committed until another is back.
    """
    rng, problems, recoveries = random.Random(world.seed), list[str](), [0.0]
    with Cluster(world.folder / "cluster") as cluster:
        cluster.start(print)
        # Shoppers and judge use the node that stays, because their client waits long for servers that are gone.
        settings = world.settings(replication=3, bootstrap_servers=cluster.nodes[0].bootstrap_servers)
        all_nodes = {"VALUESTREAM_BOOTSTRAP_SERVERS": cluster.bootstrap_servers}
        with Supervised(world, settings, **all_nodes) as supervised, Traffic(settings, world.seed) as traffic:
            supervised.wait_ready()
            for _ in range(1 if world.short else _ROUNDS):
                supervised.wait_more()
                leader = cluster.leader(settings.events_topic, rng)
                leader.kill()
                recoveries.append(supervised.wait_more())
                (other,) = (node for node in cluster.followers if node is not leader)
                other.kill()
                problems += _commits_nothing(supervised, settings)
                rng.choice([leader, other]).start(print)
                recoveries.append(supervised.wait_more())
                if not world.short:
                    cluster.start(print)
            traffic.stop()
            wait_settled(settings, supervised)
        problem = "; ".join(problems)
        return judge(
            "cluster_loses_brokers",
            world.seed,
            settings,
            recovery_seconds=max(recoveries),
            problem=problem,
            measures=supervised.measures,
        )


def _commits_nothing(supervised: Supervised, settings: Settings) -> list[str]:
    """Wait until the last commit is old, and name what was committed in that time.

    Either the broker refuses what the worker sends, or the worker sends nothing because no coordinator answers it.
    """
    wait_for("the last commit to be old", lambda: _commit_age_s(supervised) > _OLD_S)
    before = _committed(settings)
    wait_for("the last commit to be older", lambda: _commit_age_s(supervised) > 2 * _OLD_S)
    after = _committed(settings)
    return [] if after == before else [f"{after} is committed, expected {before} with one broker of three"]


def _committed(settings: Settings) -> dict[int, int]:
    """The committed offsets, read as soon as another broker has taken over the group."""

    def answered() -> list[dict[int, int]]:
        try:
            return [harness.committed(settings)]
        except KafkaError:
            return []

    (committed,) = wait_for("a coordinator to answer", answered)
    return dict(committed)


def _commit_age_s(supervised: Supervised) -> float:
    return supervised.worker.metric("valuestream_commit_age_seconds")
