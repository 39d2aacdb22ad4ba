"""Cluster: runs three Kafka nodes on loopback. Topics have three replicas, and two of them must agree."""

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

#: Properties that differ from those of a single broker. The topic of offsets has as many replicas as ours.
_REPLICATED: Final = {
    "offsets.topic.replication.factor": "3",
    "leader.imbalance.check.interval.seconds": "5",
    "min.insync.replicas": "2",
    # After this time the cluster gives up on a node that died, and a replica that lags does not count any more.
    "broker.session.timeout.ms": "2000",
    "replica.lag.time.max.ms": "3000",
}


#: Three nodes share the machine with everything else. The second compiler and the parallel collector take two seconds
#: of processor time at each start (measured: 5.0 s against 3.0 s). The nodes do not live long enough to earn that back.
_JVM_OPTIONS: Final = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class Node(EmbeddedBroker):
    """One node of a cluster. The first is also the controller, so it must not be ended while others run."""

    def __init__(self, directory: Path, number: int, controller: str) -> None:
        super().__init__(directory, properties=_REPLICATED, jvm_options=_JVM_OPTIONS)
        self.number, self._controller = number, controller

    def _write_configuration(self) -> None:
        """Write the configuration of a single broker, with the one controller of the cluster in it."""
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
        """Whether the node runs."""
        return running(self.directory) is not None

    def join(self, first: Node) -> None:
        """Join the cluster of ``first`` without formatting the storage, which would take seconds."""
        lines = (first.directory / "data" / "meta.properties").read_text().splitlines()
        cluster_id = next(line for line in lines if line.startswith("cluster.id="))
        own = self.directory / "data" / "meta.properties"
        if not own.exists():
            own.parent.mkdir(parents=True)
            own.write_text(f"version=1\n{cluster_id}\nnode.id={self.number}\n")


class Cluster:
    """Three nodes. As a context it ends the nodes that run."""

    def __init__(self, directory: Path) -> None:
        controller = f"{HOST}:{free_port()}"
        self.nodes = [Node(directory / f"node-{number}", number, controller) for number in (1, 2, 3)]

    @property
    def bootstrap_servers(self) -> str:
        """Addresses for clients, as host:port,host:port,host:port."""
        return ",".join(node.bootstrap_servers for node in self.nodes)

    @property
    def followers(self) -> list[Node]:
        """The nodes that are not the controller: these may be ended while others run."""
        return self.nodes[1:]

    def start(self, progress: Callable[[str], None]) -> None:
        """Start the nodes that do not run, and return when all of them answer."""
        first = self.nodes[0]
        if not first.runs:
            first.start(progress)
        missing = [node for node in self.followers if not node.runs]
        for node in missing:
            node.join(first)
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(lambda node: node.start(progress), missing))

    def leader(self, topic: str, rng: random.Random) -> Node:
        """A node, not the controller, that leads a partition of this topic. A node that came back soon leads again."""
        leaders = wait_for("a node that is not the controller to lead", lambda: self._leaders(topic) - {1})
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
