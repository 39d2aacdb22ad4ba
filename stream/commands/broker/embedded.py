"""The embedded broker: a real single-node Apache Kafka (KRaft) for demos and tests, which listens on loopback only."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from stream.commands.broker.jars import KAFKA_VERSION, java_and_classpath
from stream.commands.broker.processes import (
    HOST,
    POLL_S,
    STOP_TIMEOUT_S,
    Running,
    free_port,
    listening,
    port_taken,
    running,
)
from stream.errors import ConfigError
from stream.kafka.clients import answers

__all__ = ["EmbeddedBroker"]

_START_TIMEOUT_S: Final = 60.0
_LOG_LINES: Final = 8

#: What one small node needs. Every replication factor is 1 because there is one node.
_PROPERTIES: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A killed broker can only come back after its old session has ended. The default is 9 s.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # The defaults are meant for servers: 128 MB, and 10 MB for each partition.
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.index.size.max.bytes": "1048576",
}
#: Properties that are lists. The values of the caller are added to ours, so that our listeners stay reachable.
_LISTS: Final = frozenset({"listeners", "advertised.listeners", "listener.security.protocol.map"})

_JVM_OPTIONS: Final = (
    "-Xmx512m",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)
#: For formatting, which ends before the optimizing compiler and the parallel collector would pay off.
_SHORT_LIVED: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class EmbeddedBroker:
    """One Apache Kafka node with its data under ``directory``. A new start in the same directory finds the data again.

    It listens on ``port``; 0 chooses a free port for the life of this object. ``properties`` override ours, except that
    listeners are added to the plaintext one. ``jvm_options`` are added to ours and win over them.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        properties: Mapping[str, str] = MappingProxyType({}),
        jvm_options: Sequence[str] = (),
    ) -> None:
        self.directory = directory.resolve()
        self.port = port or free_port()
        self.properties, self.jvm_options = dict(properties), tuple(jvm_options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients, as host:port."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the started broker."""
        return self._started().pid

    @property
    def log_file(self) -> Path:
        """The log that the broker has written since its last start."""
        return self.directory / "kafka.log"

    def start(self, progress: Callable[[str], None]) -> None:
        """Fetch Kafka if needed, start it, and return once it answers. Raises ConfigError if it does not."""
        self._refuse_if_occupied()
        java, classpath = java_and_classpath(progress)
        self._write_configuration()
        if not (self.directory / "data" / "meta.properties").exists():
            progress(f"Apache Kafka {KAFKA_VERSION}: formatting its storage")
            self._format(java, classpath)
        progress(f"Apache Kafka {KAFKA_VERSION}: starting at {self.bootstrap_servers}")
        try:
            self._spawn(java, classpath)
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the broker cleanly, and by force if it takes longer than STOP_TIMEOUT_S."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker at once, as a crash would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the broker: it keeps its connections but answers nothing."""
        self._started().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._started().send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ConfigError(f"no broker runs on {self.directory}; expected a started one; call start() first")
        return self._process

    def _refuse_if_occupied(self) -> None:
        other = running(self.directory)
        if other is not None:
            raise ConfigError(
                f"a broker already runs on {self.directory} (pid {other.pid}, {other.bootstrap_servers}); expected"
                f" none; end it with `valuestream broker stop --dir {self.directory}`, or use another --dir"
            )
        if port_taken(self.port):
            raise ConfigError(
                f"port {self.port} on {HOST} is taken by another program; expected it free;"
                " end that program or choose another --port"
            )

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal_number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        Running(self.directory, process.pid, self.port).forget()

    def _write_configuration(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        controller = f"{HOST}:{free_port()}"
        ours = {
            **_PROPERTIES,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "log.dirs": str(self.directory / "data"),
        }
        for name, value in self.properties.items():
            ours[name] = f"{ours[name]},{value}" if name in _LISTS else value
        lines = [f"{name}={value}\n" for name, value in ours.items()]
        (self.directory / "server.properties").write_text("".join(lines))

    def _format(self, java: Path, classpath: str) -> None:
        # The first byte is fixed, because Kafka would read an id that begins with "-" as an option.
        cluster_id = base64.urlsafe_b64encode(b"v" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        properties = str(self.directory / "server.properties")
        done = subprocess.run(
            [
                java,
                *_JVM_OPTIONS,
                *_SHORT_LIVED,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                cluster_id,
                "-c",
                properties,
            ],
            env={**os.environ, "CLASSPATH": classpath},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise self._failure("its storage could not be formatted", done.stdout)

    def _spawn(self, java: Path, classpath: str) -> None:
        with self.log_file.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal must not end the broker before its clients.
            self._process = subprocess.Popen(
                [java, *_JVM_OPTIONS, *self.jvm_options, "kafka.Kafka", str(self.directory / "server.properties")],
                env={**os.environ, "CLASSPATH": classpath},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        Running(self.directory, self._process.pid, self.port).record()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise self._failure("it ended while starting", self.log_file.read_text(errors="replace"))
            if listening(self.port) and answers(self.bootstrap_servers, deadline - time.monotonic()):
                return
            time.sleep(POLL_S)
        log = self.log_file.read_text(errors="replace")
        raise self._failure(f"it gave no answer within {_START_TIMEOUT_S:.0f} s", log)

    def _failure(self, problem: str, log: str) -> ConfigError:
        lines = [line for line in log.splitlines() if line.strip() and not line.startswith("\tat ")]
        last = "\n  ".join(lines[-_LOG_LINES:]) or "(it wrote nothing)"
        return ConfigError(
            f"the embedded Kafka broker did not start: {problem}; expected it to answer at"
            f" {self.bootstrap_servers}; its last words are below, and a new --dir gives it a clean start\n  {last}"
        )
