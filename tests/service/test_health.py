"""Tests of health: when a worker is started, live and ready, and what it serves over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from stream.clock import ManualClock
from stream.errors import ConfigError
from stream.metrics import Metrics
from stream.service.health import BEAT_TIMEOUT_S, STALL_TIMEOUT_S, Health, RunningServer, serve

LONG_S = 10 * STALL_TIMEOUT_S


class Worker:
    """The health of a worker, with its clock, and the steps of the worker's life."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.health = Health(self.clock)

    def pass_time(self, seconds: float) -> None:
        """Let time pass while the event loop runs."""
        self.clock.advance(seconds=seconds)
        self.health.beat()

    def serving(self, partitions: int = 2) -> Worker:
        self.health.started()
        self.health.assigned(partitions)
        self.health.recovered(True)
        return self


@pytest.fixture
def worker() -> Worker:
    return Worker()


def answers(health: Health) -> tuple[bool, bool, bool]:
    return health.startup().ok, health.live().ok, health.ready().ok


def test_a_worker_that_loads_its_model_is_live_but_neither_started_nor_ready(worker: Worker) -> None:
    worker.clock.advance(seconds=LONG_S)
    assert answers(worker.health) == (False, True, False)


def test_a_started_worker_outside_the_group_is_not_ready(worker: Worker) -> None:
    worker.health.started()
    assert answers(worker.health) == (True, True, False)
    assert "consumer group" in worker.health.ready().detail


def test_a_recovered_worker_with_partitions_is_ready(worker: Worker) -> None:
    assert answers(worker.serving().health) == (True, True, True)


def test_a_worker_in_recovery_is_live_but_not_ready(worker: Worker) -> None:
    worker.serving()
    worker.health.recovered(False)
    worker.health.lag(1_000_000)
    worker.pass_time(LONG_S)
    assert answers(worker.health) == (True, True, False)
    assert "recovering" in worker.health.ready().detail


def test_after_a_long_recovery_the_first_commit_still_has_its_full_time(worker: Worker) -> None:
    worker.serving()
    worker.health.recovered(False)
    worker.health.lag(5)
    worker.pass_time(LONG_S)
    worker.health.recovered(True)
    worker.pass_time(STALL_TIMEOUT_S)
    assert worker.health.live().ok
    worker.pass_time(1)
    assert not worker.health.live().ok


def test_a_worker_with_a_blocked_loop_is_not_live(worker: Worker) -> None:
    worker.serving()
    worker.clock.advance(seconds=BEAT_TIMEOUT_S)
    assert worker.health.live().ok
    worker.clock.advance(seconds=1)
    assert not worker.health.live().ok
    assert "11 s ago" in worker.health.live().detail


def test_a_worker_with_a_blocked_loop_in_recovery_is_not_live(worker: Worker) -> None:
    worker.health.started()
    worker.health.assigned(2)
    worker.clock.advance(seconds=BEAT_TIMEOUT_S + 1)
    assert not worker.health.live().ok


def test_a_worker_with_a_loop_that_blocks_after_its_start_is_not_live(worker: Worker) -> None:
    worker.health.started()
    worker.clock.advance(seconds=BEAT_TIMEOUT_S + 1)
    assert not worker.health.live().ok


def test_lag_without_commits_is_not_live(worker: Worker) -> None:
    worker.serving().health.lag(7)
    worker.pass_time(STALL_TIMEOUT_S)
    assert worker.health.live().ok
    worker.pass_time(1)
    assert not worker.health.live().ok
    assert worker.health.live().detail == "7 records wait and nothing was committed for 61 s"


def test_lag_with_commits_is_live_for_any_time(worker: Worker) -> None:
    worker.serving()
    for _ in range(20):
        worker.health.lag(1_000)
        worker.health.committed()
        worker.pass_time(STALL_TIMEOUT_S / 2)
    assert worker.health.live().ok


def test_a_quiet_topic_is_live_without_commits(worker: Worker) -> None:
    worker.serving().health.lag(0)
    worker.pass_time(LONG_S)
    assert worker.health.live().ok


def test_the_first_event_after_a_quiet_night_does_not_fail_liveness(worker: Worker) -> None:
    worker.serving().health.lag(0)
    worker.pass_time(LONG_S)
    worker.health.lag(1)
    assert worker.health.live().ok


def test_a_spare_without_partitions_is_ready_and_says_that_it_is_idle(worker: Worker) -> None:
    worker.health.started()
    worker.health.assigned(0)
    worker.health.lag(3)
    worker.pass_time(LONG_S)
    assert answers(worker.health) == (True, True, True)
    assert worker.health.ready().detail.startswith("idle")


@pytest.fixture
async def server(worker: Worker) -> AsyncIterator[RunningServer]:
    running = await serve("127.0.0.1", 0, worker.health, Metrics())
    yield running
    await running.close()


async def get(server: RunningServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{server.port}{path}") as response,
    ):
        return response.status, response.headers.get("Content-Type", ""), await response.text()


@pytest.mark.parametrize(("path", "expected"), [("live", 200), ("ready", 503), ("startup", 503)])
async def test_health_answers_200_or_503_with_the_reason(server: RunningServer, path: str, expected: int) -> None:
    status, content_type, text = await get(server, f"/health/{path}")
    body = json.loads(text)
    assert (status, content_type.split(";")[0]) == (expected, "application/json")
    assert body["status"] == ("ok" if expected == 200 else "failing")
    assert body["checks"][path]["ok"] == (expected == 200)
    assert body["checks"][path]["detail"]


async def test_health_over_http_follows_the_worker(worker: Worker, server: RunningServer) -> None:
    assert (await get(server, "/health/ready"))[0] == 503
    worker.serving()
    assert (await get(server, "/health/ready"))[0] == 200
    worker.clock.advance(seconds=BEAT_TIMEOUT_S + 1)
    assert (await get(server, "/health/live"))[0] == 503


async def test_metrics_are_served_as_prometheus_text(server: RunningServer) -> None:
    status, content_type, text = await get(server, "/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "# TYPE valuestream_events_total counter" in text


@pytest.mark.parametrize("path", ["/", "/table/users/1", "/health", "/health/other", "/metrics/"])
async def test_nothing_else_is_served(server: RunningServer, path: str) -> None:
    assert (await get(server, path))[0] == 404


async def test_nothing_can_be_changed_over_http(server: RunningServer) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert (await get(server, "/health/live", method))[0] == 405


async def test_a_port_in_use_is_refused_with_what_to_do(server: RunningServer, worker: Worker) -> None:
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{server.port}: the port is in use.*--http-port"):
        await serve("127.0.0.1", server.port, worker.health, Metrics())


async def test_a_host_that_is_not_ours_is_refused_with_what_to_do(worker: Worker) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:0: .*--http-host"):
        await serve("192.0.2.1", 0, worker.health, Metrics())


async def test_a_closed_server_frees_its_port(worker: Worker) -> None:
    first = await serve("127.0.0.1", 0, worker.health, Metrics())
    await first.close()
    second = await serve("127.0.0.1", first.port, worker.health, Metrics())
    assert second.port == first.port
    await second.close()


def test_a_stalled_worker_is_first_not_ready_and_later_not_live(worker: Worker) -> None:
    worker.serving().health.lag(5)
    worker.pass_time(STALL_TIMEOUT_S / 2 + 1)
    assert answers(worker.health) == (True, True, False)
    worker.health.committed()
    assert worker.health.ready().ok


@pytest.mark.parametrize("silent", ["fetch_age_s", "heartbeat_age_s"])
def test_a_broker_that_stops_answering_is_noticed_without_any_lag(worker: Worker, silent: str) -> None:
    """A fetcher that has died knows of no new records, so the lag alone would not show it."""
    worker.serving()
    for _ in range(2):
        worker.pass_time(STALL_TIMEOUT_S)
        worker.health.broker(**{"fetch_age_s": 0.5, "heartbeat_age_s": 0.5})
        assert worker.health.live().ok
    worker.health.broker(**{"fetch_age_s": 0.5, "heartbeat_age_s": 0.5, silent: STALL_TIMEOUT_S + 1})
    assert not worker.health.live().ok
    assert silent.split("_")[0] in worker.health.live().detail


def test_old_fetches_are_no_stall_while_the_worker_commits(worker: Worker) -> None:
    worker.serving()
    for _ in range(5):
        worker.pass_time(STALL_TIMEOUT_S / 2)
        worker.health.committed()
    worker.health.broker(fetch_age_s=2 * STALL_TIMEOUT_S, heartbeat_age_s=0.5)
    assert worker.health.live().ok
