"""Tests of an events topic that was deleted and created again: new events must not be taken for old ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.checkpoint import changelog
from stream.decode.decoder import Decoder, Money
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from stream.state.partition_state import PartitionState
from tests.broker import harness
from tests.broker.harness import WorkerProcess, partition_of, wait_for
from tests.decode.test_dead_letters import Record

pytestmark = pytest.mark.broker


def test_worker_refuses_an_events_topic_that_ends_before_what_its_state_has_seen(
    settings: Settings, tmp_path: Path
) -> None:
    user, now = "user-1", time.time()
    event: Any = Record(harness.track(user, "Product Viewed", now - 60, "m1"), user.encode(), offset=500)
    state = PartitionState(settings.lateness_s, "USD")
    state.apply(Decoder(settings.envelope, Money("USD"), bytes_max=9_999, future_skew_s=300).decode([event], now).batch)
    _send(settings, changelog_topic(settings), user, changelog.pack(state, np.arange(1))[0])

    with WorkerProcess(settings, tmp_path / "log") as worker:
        wait_for("the worker to end", lambda: worker.process.poll() is not None)
    assert worker.process.returncode == 1
    last = worker.log().splitlines()[-1]
    number = partition_of(user)
    assert f"{settings.events_topic} partition {number} ends at offset 0, but the state has seen offset 500" in last
    assert not harness.committed(settings)


def _send(settings: Settings, topic: str, user: str, value: bytes) -> None:
    harness.produce(settings.model_copy(update={"events_topic": topic}), [(user.encode(), value)])
