"""Cluster: three Kafka nodes on loopback, whose topics have three replicas of which two must agree."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kafka import KafkaAdminClient

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.processes import HOST, free_port, running
from tests.broker.harness import wait_for

__all__ = ["Cluster", "Node"]

#: What differs from a broker alone; the topic of offsets has as many replicas as ours.
_REPLICATED: Final = {
    "offsets.topic.replication.factor": "3",
    "leader.imbalance.check.interval.seconds": "5",
    "min.insync.replicas": "2",
    # A node that died is out of the way after this time, and one that lags is no replica any more.
    "broker.session.timeout.ms": "2000",
    "replica.lag.time.max.ms": "3000",
}


#: Three nodes share the machine with everything else. The second compiler and the parallel collector take two
#: seconds of processor time at each start (measured: 5.0 s against 3.0 s), which so short a life does not earn back.
_JVM_OPTIONS: Final = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class Node(EmbeddedBroker):
    """One node of a cluster: the first is its controller as well, and so is never to be ended while others run."""

    def __init__(self, directory: Path, number: int, controller: str) -> None:
        super().__init__(directory, properties=_REPLICATED, jvm_options=_JVM_OPTIONS)
        self.number, self._controller = number, controller

    def _write_configuration(self) -> None:
        """The configuration of a broker alone, with the cluster's one controller in it."""
        super()._write_configuration()
        file = self.directory / "server.properties"
        own = dict(line.split("=", 1) for line in file.read_text().splitlines())
        plain = f"PLAINTEXT://{self.bootstrap_servers}"
        own["node.id"] = str(self.number)
        own["controller.quorum.voters"] = f"1@{self._controller}"
        own["listeners"] = f"{plain},CONTROLLER://{self._controller}" if self.number == 1 else plain
        own["process.roles"] = "broker,controller" if self.number == 1 else "broker"
        file.write_text("".join(f"{name}={value}\n" for name, value in own.items()))

    @property
    def runs(self) -> bool:
        """Whether it was started and not ended since."""
        return running(self.directory) is not None

    def join(self, first: Node) -> None:
        """Become a node of the cluster that ``first`` was formatted for, without the seconds that formatting takes."""
        lines = (first.directory / "data" / "meta.properties").read_text().splitlines()
        cluster_id = next(line for line in lines if line.startswith("cluster.id="))
        own = self.directory / "data" / "meta.properties"
        if not own.exists():
            own.parent.mkdir(parents=True)
            own.write_text(f"version=1\n{cluster_id}\nnode.id={self.number}\n")


class Cluster:
    """Three nodes; used as a context, it ends those that run."""

    def __init__(self, directory: Path) -> None:
        controller = f"{HOST}:{free_port()}"
        self.nodes = [Node(directory / f"node-{number}", number, controller) for number in (1, 2, 3)]

    @property
    def bootstrap_servers(self) -> str:
        """Addresses for clients, as host:port,host:port,host:port."""
        return ",".join(node.bootstrap_servers for node in self.nodes)

    @property
    def followers(self) -> list[Node]:
        """The nodes that may be ended while others run: those that are not the controller."""
        return self.nodes[1:]

    def start(self, progress: Callable[[str], None]) -> None:
        """Start the nodes that do not run, and return once all answer."""
        first = self.nodes[0]
        if not first.runs:
            first.start(progress)
        missing = [node for node in self.followers if not node.runs]
        for node in missing:
            node.join(first)
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(lambda node: node.start(progress), missing))

    def leader(self, topic: str, rng: random.Random) -> Node:
        """One of the nodes that lead a partition of this topic, without the controller; who came back leads soon."""
        leaders = wait_for("another than the controller to lead", lambda: self._leaders(topic) - {1})
        return self.nodes[rng.choice(sorted(leaders)) - 1]

    def _leaders(self, topic: str) -> set[int]:
        admin = KafkaAdminClient(bootstrap_servers=self.nodes[0].bootstrap_servers)
        (described,) = admin.describe_topics([topic])
        admin.close()
        return {partition["leader_id"] for partition in described["partitions"]}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.kill)
