"""Tests of ``valuestream demo``, run as a person runs it: it counts every event and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stream.commands.broker.processes import running

pytestmark = pytest.mark.broker

#: The user has a cluster of their own, which the demo must not touch.
ENVIRONMENT = {"VALUESTREAM_BOOTSTRAP_SERVERS": "127.0.0.1:1", "VALUESTREAM_SECURITY_PROTOCOL": "SASL_SSL"}
ENDS_WITHIN_S = 150

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs. Each run must start clean in the folder of the one before."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """A function that starts a demo with a small market. Demos that a test leaves running are ended."""
    started: list[subprocess.Popen[str]] = []

    def run(*more: str) -> subprocess.Popen[str]:
        small = ["--users", "300", "--rate", "600", "--summary", "summary.json"]
        command = [sys.executable, "-m", "stream.commands.cli", "demo", *small, *more]
        env = os.environ | ENVIRONMENT
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=ENDS_WITHIN_S)


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """Read the demo's output up to a line with this text."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"the demo ended without {text!r}: {seen}")


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def assert_nothing_is_left(folder: Path) -> None:
    assert running(folder / ".valuestream" / "demo" / "kafka") is None
    assert processes(str(folder)) == {}


def processes(named: str) -> dict[int, str]:
    """Processes that name this folder in their command line."""
    commands = {process.pid: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    return {pid: command for pid, command in commands.items() if named in command}


def assert_complete(summary: dict[str, Any]) -> None:
    assert summary["events_processed"] + summary["dead_letters"] == summary["events_in"] > 0
    assert summary["final_lag"] == summary["dead_letters"] == 0
    assert summary["users"] > 0
    assert summary["scores_out"] >= summary["users"]
    assert 0 < summary["latency_p50_ms"] <= summary["latency_p99_ms"]


def test_demo_ends_by_itself_with_every_event_accounted_for(folder: Path, start: Start) -> None:
    out, err = (process := start("--seconds", "8")).communicate(timeout=ENDS_WITHIN_S)
    assert (process.returncode, err) == (0, ""), out
    assert_complete(summary_of(folder))
    assert "metrics http://127.0.0.1:" in out
    assert out.count("events/s") >= 2
    assert_nothing_is_left(folder)


def test_ctrl_c_ends_the_demo_in_order_with_every_event_accounted_for(folder: Path, start: Start) -> None:
    process = start()
    wait_for_line(process, "most at risk")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=ENDS_WITHIN_S)
    assert (process.returncode, err) == (0, ""), out
    assert_complete(summary_of(folder))
    assert_nothing_is_left(folder)


def test_demo_ends_with_one_line_and_exit_status_1_if_its_worker_dies(folder: Path, start: Start) -> None:
    process = start()
    wait_for_line(process, "events/s")
    (worker,) = (pid for pid, command in processes(str(folder)).items() if "stream.commands.cli worker" in command)
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 1
    assert err.startswith("valuestream: the worker ended with exit status -9;")
    assert "Traceback" not in err
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dir", "theirs"], "holds files that are not a demo's"),
        (["--summary", "nowhere/s.json"], "folder nowhere not found"),
    ],
)
def test_wrong_folder_is_refused_before_anything_starts(
    folder: Path, start: Start, arguments: list[str], expected: str
) -> None:
    (folder / "theirs" / "kafka").mkdir(parents=True, exist_ok=True)
    (folder / "theirs" / "kafka" / "precious.txt").write_text("theirs")
    process = start(*arguments)
    out, err = process.communicate(timeout=ENDS_WITHIN_S)
    assert (process.returncode, out) == (1, "")
    assert expected in err and len(err.splitlines()) == 1
    assert (folder / "theirs" / "kafka" / "precious.txt").exists()
