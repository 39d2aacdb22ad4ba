"""Tells a supervisor the truth about this worker, over HTTP beside the metrics."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from aiohttp import web

from stream.clock import Clock
from stream.errors import ConfigError
from stream.metrics import Metrics

__all__ = ["BEAT_TIMEOUT_S", "STALL_TIMEOUT_S", "Check", "Health", "RunningServer", "serve"]

#: The loop beats each second; ten missed beats are no pause of the garbage collector or of a long inference.
BEAT_TIMEOUT_S: Final = 10.0
#: Offsets commit about each second while there is lag. A broker that restarts takes less than this minute.
STALL_TIMEOUT_S: Final = 60.0

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Check:
    """One answer, with the reason in words."""

    ok: bool
    detail: str


class Health:
    """What the service knows about itself; the service reports, the three checks only read.

    * startup: the model is loaded and its golden cases pass.
    * live: the loop turns, the group coordinator answers, and while records wait or none can be fetched, offsets
      commit. Recovery is never a liveness failure: a restart would only begin it again.
    * ready: started, in the consumer group, recovered, and not stalled for half of what liveness allows.
    """

    def __init__(
        self, clock: Clock, *, beat_timeout_s: float = BEAT_TIMEOUT_S, stall_timeout_s: float = STALL_TIMEOUT_S
    ) -> None:
        self._clock = clock
        self._beat_timeout_s = beat_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._started = False
        self._recovered = False
        self._assigned: int | None = None
        self._lag = 0
        #: What outside of Kafka ingestion waits for, in words; empty if for nothing.
        self._waits_for = ""
        #: Seconds since the broker last answered a fetch of the partition that waits longest, and a heartbeat.
        self._fetch_age_s = self._heartbeat_age_s = 0.0
        self._last_beat: float | None = None
        #: Since when a commit is owed: the last commit, or the moment from which one could be expected.
        self._owed_since = clock.monotonic()

    def started(self) -> None:
        """The model is loaded and its golden cases pass; from now on the loop must beat."""
        self._started = True
        self.beat()

    def beat(self) -> None:
        """The loop has turned once more."""
        self._last_beat = self._clock.monotonic()

    def recovered(self, done: bool) -> None:
        """State is complete (``True``) or is being read back (``False``)."""
        if done and not self._recovered:
            self._owed_since = self._clock.monotonic()
        self._recovered = done

    def assigned(self, partitions: int) -> None:
        """A rebalance gave this worker so many partitions."""
        self._assigned = partitions
        self._owed_since = self._clock.monotonic()

    def committed(self) -> None:
        """Offsets were committed."""
        self._owed_since = self._clock.monotonic()

    def lag(self, records: int) -> None:
        """So many records wait in the assigned partitions."""
        if records > 0 and self._lag == 0:
            self._owed_since = self._clock.monotonic()
        self._lag = records

    def waits_for(self, reason: str) -> None:
        """Ingestion waits for this; a restart would only wait again. Empty: it waits for nothing (any more)."""
        if self._waits_for and not reason:
            self._owed_since = self._clock.monotonic()
        self._waits_for = reason

    def broker(self, *, fetch_age_s: float, heartbeat_age_s: float) -> None:
        """So long ago the broker answered a fetch of each of our partitions, and the coordinator a heartbeat."""
        self._fetch_age_s, self._heartbeat_age_s = fetch_age_s, heartbeat_age_s

    def startup(self) -> Check:
        """Whether the model is loaded and proven."""
        if self._started:
            return Check(True, "model loaded, golden cases pass")
        return Check(False, "the model is being loaded and checked")

    def live(self) -> Check:
        """Whether a restart would not help; ``False`` only when the worker is stuck."""
        now = self._clock.monotonic()
        if self._last_beat is not None and now - self._last_beat > self._beat_timeout_s:
            return Check(False, f"the loop last turned {now - self._last_beat:.0f} s ago, expected each second")
        if self._assigned and not self._recovered:
            return Check(True, "recovering")
        return self._stalled(self._stall_timeout_s) or Check(True, "the loop turns, offsets commit")

    def _stalled(self, timeout_s: float) -> Check | None:
        """What has not gone on for so long, if anything has not."""
        owed_s = self._clock.monotonic() - self._owed_since
        if not self._assigned:
            return None
        if self._lag > 0 and owed_s > timeout_s and not self._waits_for:
            return Check(False, f"{self._lag} records wait and nothing was committed for {owed_s:.0f} s")
        # While ingestion waits, nothing more is fetched.
        if min(self._fetch_age_s, owed_s) > timeout_s and not self._waits_for:
            return Check(False, f"the broker answered no fetch for {self._fetch_age_s:.0f} s, expected one each second")
        if min(self._heartbeat_age_s, owed_s) > timeout_s:
            return Check(False, f"the group coordinator answered no heartbeat for {self._heartbeat_age_s:.0f} s")
        return None

    def ready(self) -> Check:
        """Whether this worker does its share.

        A worker that a rebalance left without partitions is ready, and idle: it is a healthy spare that takes
        over when another dies. Called unready, it would hold up every rolling update for ever. That *no* worker
        has partitions is seen in the metrics, where all workers are.
        """
        if not self._started:
            return Check(False, "the model is being loaded and checked")
        if self._assigned is None:
            return Check(False, "not yet in the consumer group; if this lasts, check the brokers and credentials")
        if self._assigned == 0:
            return Check(True, "idle: 0 partitions assigned, a spare for the other workers")
        if not self._recovered:
            return Check(False, f"recovering the state of {self._assigned} partitions")
        if self._waits_for:
            return Check(False, f"ingestion waits: {self._waits_for}")
        return self._stalled(self._stall_timeout_s / 2) or Check(True, f"serving {self._assigned} partitions")


class RunningServer:
    """The HTTP server of one worker; ``port`` is the one it really has."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self._runner = runner
        self.port = port

    async def close(self) -> None:
        """Stop listening and drop open connections."""
        await self._runner.cleanup()


async def serve(host: str, port: int, health: Health, metrics: Metrics) -> RunningServer:
    """Listen for ``/metrics`` and ``/health/live|ready|startup``, and nothing else: no state leaves here."""
    app = web.Application()
    app.router.add_get("/metrics", _metrics_handler(metrics))
    for name, check in (("live", health.live), ("ready", health.ready), ("startup", health.startup)):
        app.router.add_get(f"/health/{name}", _health_handler(name, check))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or error
        raise ConfigError(
            f"metrics and health cannot listen on {host}:{port}: {reason}, expected a free port of this machine;"
            " stop what holds it, or set --http-host and --http-port (0 takes a free one)"
        ) from None
    return RunningServer(runner, int(runner.addresses[0][1]))


def _metrics_handler(metrics: Metrics) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        body, content_type = metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type})

    return handle


def _health_handler(name: str, check: Callable[[], Check]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        answer = check()
        body = {"status": "ok" if answer.ok else "failing", "checks": {name: asdict(answer)}}
        return web.json_response(body, status=200 if answer.ok else 503)

    return handle
