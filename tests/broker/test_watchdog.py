"""Tests of the watchdog on a real Kafka: a worker with a silent broker says so and ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.commands.broker.embedded import EmbeddedBroker
from tests.broker.harness import WorkerProcess, produce, wait_for
from tests.broker.undisturbed import assert_as_undisturbed, shoppers

pytestmark = pytest.mark.broker

IMPATIENT = {
    "VALUESTREAM_SESSION_TIMEOUT_S": "6",
    "VALUESTREAM_STALL_TIMEOUT_S": "8",
    "VALUESTREAM_STOP_TIMEOUT_S": "2",
    "VALUESTREAM_CHECKPOINT_INTERVAL_S": "0.2",
}


def test_worker_with_a_silent_broker_is_not_ready_then_ends_and_nothing_is_lost(
    broker: EmbeddedBroker, make_settings, tmp_path: Path
) -> None:
    settings = make_settings(instance_id="w")
    produce(settings, shoppers(4_000, users=200))
    with WorkerProcess(settings, tmp_path / "log", **IMPATIENT) as worker:
        worker.wait_ready()
        broker.pause()
        try:
            wait_for("the worker not to be ready", lambda: worker.get("/health/ready")[0] == 503)
            assert worker.process.poll() is None
            wait_for("the worker to end", lambda: worker.process.poll() is not None)
        finally:
            broker.resume()
        assert worker.process.returncode != 0
        assert "this worker ends" in worker.log()
    with WorkerProcess(settings, tmp_path / "log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.terminate() == 0
    assert_as_undisturbed(settings)


def test_worker_that_the_group_refuses_ends_and_says_why(make_settings, tmp_path: Path) -> None:
    """By default brokers refuse session timeouts of less than 6 s."""
    with WorkerProcess(make_settings(), tmp_path / "log", VALUESTREAM_SESSION_TIMEOUT_S="2") as worker:
        wait_for("the worker to end", lambda: worker.process.poll() is not None)
        assert worker.process.returncode == 1
        assert "InvalidSessionTimeout" in worker.log()
