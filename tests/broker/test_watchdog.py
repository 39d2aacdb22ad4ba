"""A worker whose broker falls silent says so, ends, and leaves the rest to its supervisor."""

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


def test_worker_of_a_silent_broker_is_not_ready_then_ends_and_its_successor_loses_nothing(
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


def test_worker_that_the_group_refuses_says_so_and_ends(make_settings, tmp_path: Path) -> None:
    """Brokers take session timeouts from 6 s on unless told."""
    with WorkerProcess(make_settings(), tmp_path / "log", VALUESTREAM_SESSION_TIMEOUT_S="2") as worker:
        wait_for("the worker to end", lambda: worker.process.poll() is not None)
        assert worker.process.returncode == 1
        assert "InvalidSessionTimeout" in worker.log()
