"""Finds and ends the process of an embedded broker, and never the process of anyone else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream.errors import ConfigError

__all__ = ["HOST", "POLL_S", "STOP_TIMEOUT_S", "Running", "free_port", "listening", "port_taken", "running"]

HOST: Final = "127.0.0.1"
STOP_TIMEOUT_S: Final = 15.0
POLL_S: Final = 0.05


def free_port() -> int:
    """A free loopback port below the range of outgoing connections.

    Inside that range, a client that keeps connecting while its broker restarts can be given the port of the broker.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        if not port_taken(port):
            return port
    raise ConfigError(f"found no free port on {HOST} between 20000 and 32000 in 100 tries; choose one with --port")


def port_taken(port: int) -> bool:
    """Whether another program holds this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def listening(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


@dataclass(frozen=True)
class Running:
    """A broker process on a directory, started by this process or by another one."""

    directory: Path
    pid: int
    port: int

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients, as host:port."""
        return f"{HOST}:{self.port}"

    def record(self) -> None:
        """Write a note into the directory, so that :func:`running` finds this process."""
        _state_file(self.directory).write_text(json.dumps({"pid": self.pid, "port": self.port}))

    def forget(self) -> None:
        """Remove the note."""
        _state_file(self.directory).unlink(missing_ok=True)

    def alive(self) -> bool:
        """Whether the process exists and is this broker. Another program may have its pid by now."""
        return _command_line(self.pid).endswith(f"kafka.Kafka {self.directory / 'server.properties'}")

    def end(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask the process to end, and wait until it has. After ``timeout_s`` end it by force."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        if not self._ended_within(timeout_s):
            self._signal(signal.SIGKILL)
            if not self._ended_within(timeout_s):
                raise ConfigError(
                    f"broker process {self.pid} is still there {timeout_s:.0f} s after SIGKILL; expected it to end;"
                    " the system may be stuck on its disk: look at `ps`, then try again"
                )
        self.forget()

    def _ended_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _signal(self, number: int) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def running(directory: Path) -> Running | None:
    """The broker that runs on this directory, or None. The note of a broker that has ended counts as none."""
    directory = directory.resolve()
    try:
        state = json.loads(_state_file(directory).read_text())
        found = Running(directory, int(state["pid"]), int(state["port"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.alive() else None


def _state_file(directory: Path) -> Path:
    return directory / "broker.json"


def _command_line(pid: int) -> str:
    """The command line of a process. It is empty if the process is gone, a zombie, or not ours to see."""
    try:
        import psutil
    except ImportError:
        raise ConfigError(
            "finding the process of the embedded Kafka broker needs the package psutil, which is not installed;"
            " pip install 'valuestream[demo]'"
        ) from None
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except (psutil.Error, ValueError):
        # A damaged note can hold a number that no process can have, such as -1. For that psutil raises ValueError.
        return ""
