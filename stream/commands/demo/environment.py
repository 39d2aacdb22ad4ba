"""What the demo needs before it starts: a folder of its own, free ports, and settings that nothing else changes."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from stream.commands.broker.processes import HOST, free_port, port_taken, running
from stream.errors import ConfigError
from stream.settings import Settings

__all__ = ["claim", "default_of", "pinned_settings", "port_for"]

#: The file that marks a folder as a demo's. The running demo holds a lock on it.
_MARKER_FILE: Final = ".valuestream-demo"


def pinned_settings(directory: Path, bootstrap_servers: str) -> dict[str, Any]:
    """Settings that the demo fixes, so that variables for a real cluster in the environment have no effect."""
    return {
        "bootstrap_servers": bootstrap_servers,
        "security_protocol": "PLAINTEXT",
        "app_id": "valuestream",
        "instance_id": "",
        "events_topic": "events",
        "scores_topic": "scores",
        "alerts_topic": "alerts",
        "dlq_topic": "events-dlq",
        "envelope": "segment",
        # In fast motion a second is half a day. With the default of 1 s, the score for the rest of a session would wait
        # that long.
        "refresh_interval_s": 0.2,
        "data_dir": directory / "state",
        "http_host": HOST,
        "http_port": port_for("http_port"),
        "log_format": "text",
    }


def default_of(setting: str) -> str:
    """The default value of a setting, as text."""
    return str(Settings.model_fields[setting].default)


def port_for(setting: str) -> int:
    """The default port of this setting if it is free, so that other commands find the demo without flags."""
    preferred = int(default_of(setting).rpartition(":")[2])
    return free_port() if port_taken(preferred) else preferred


def claim(directory: Path, stack: ExitStack) -> None:
    """Lock the directory for this run, and remove the data of an earlier run.

    Raises ConfigError if the directory holds other files, or if a demo or its broker still runs there.
    """
    marker = directory / _MARKER_FILE
    if directory.exists() and any(directory.iterdir()) and not marker.exists():
        raise ConfigError(f"{directory} holds files that are not a demo's; expected an empty folder; set --dir")
    directory.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(marker.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"a demo already runs on {directory}; expected none; end it, or set another --dir") from None
    if running(directory / "kafka") is not None:
        raise ConfigError(
            f"the broker of a demo that was killed still runs on {directory}; expected none; end it with"
            f" `valuestream broker stop --dir {directory / 'kafka'}`, or set another --dir"
        )
    for name in ("kafka", "state"):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
