"""Finding the process of a broker by the note in its directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream.commands.broker.processes import Running, running
from stream.errors import ConfigError


def started_as_broker_of(directory: Path) -> subprocess.Popen[bytes]:
    """A process with the command line of a broker on this directory."""
    command = [sys.executable, "-c", "import time; time.sleep(60)", "kafka.Kafka", str(directory / "server.properties")]
    return subprocess.Popen(command)


def test_broker_is_found_by_its_command_line_and_ended(tmp_path: Path) -> None:
    directory = tmp_path / "a folder, ü"
    directory.mkdir()
    with started_as_broker_of(directory) as process:
        Running(directory, process.pid, 9092).record()
        found = running(directory)
        assert found is not None
        assert found.pid == process.pid
        assert running(tmp_path) is None
        # The ended process stays a zombie until this block collects it. A zombie counts as ended.
        found.end(timeout_s=10)
        assert running(directory) is None


def test_note_with_the_pid_of_another_program_counts_as_no_broker(tmp_path: Path) -> None:
    Running(tmp_path, os.getpid(), 9092).record()
    assert running(tmp_path) is None


@pytest.mark.parametrize("pid", [-1, 2**40, 10**40])
def test_note_with_a_number_that_is_no_pid_counts_as_no_broker(tmp_path: Path, pid: int) -> None:
    (tmp_path / "broker.json").write_text(json.dumps({"pid": pid, "port": 9092}))
    assert running(tmp_path) is None


def test_missing_psutil_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert running(tmp_path) is None
    Running(tmp_path, os.getpid(), 9092).record()
    with pytest.raises(ConfigError, match=r"psutil.*pip install 'valuestream\[demo\]'"):
        running(tmp_path)
