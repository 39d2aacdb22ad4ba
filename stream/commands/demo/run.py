"""One run of the demo, from an empty directory to the summary: start, show, settle, stop, count."""

from __future__ import annotations

import fcntl
import logging
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from stream.clock import Clock, Stop
from stream.commands.broker.broker import EmbeddedBroker
from stream.commands.broker.processes import HOST, free_port, running, taken
from stream.commands.demo.parts import Feed, Signals, Simulator, WorkerProcess
from stream.commands.demo.scrape import Reading
from stream.commands.demo.summary import Summary, count
from stream.commands.demo.terminal_page import Frame, line, page
from stream.errors import ConfigError
from stream.kafka.reading import open_topics
from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings

__all__ = ["DemoRun", "Options"]

_PARTITIONS: Final = 4
#: How far in the past the shoppers start: people need time to fall silent.
_DAYS: Final = 120.0
_TICK_S: Final = 1.0
_LINE_EVERY_S: Final = 2.0
#: Rates and latencies of the view are those of the last seconds, this many.
_SPAN_S: Final = 5.0
_ROWS_MAX: Final = 20
_CATCH_UP_S: Final = 15.0
#: The worker sets its gauges each second, so they have heard of the last event after two.
_GAUGES_S: Final = 2.0
_MARKER: Final = ".valuestream-demo"


@dataclass(frozen=True)
class Options:
    """What was asked for; ``seconds`` None runs until Ctrl-C."""

    seconds: float | None
    rate: float
    users: int
    seed: int
    directory: Path


class DemoRun:
    """A run; ``run`` returns when it has ended and nothing of it is left running."""

    def __init__(self, options: Options, clock: Clock, console: Console) -> None:
        self._options, self._clock, self._console = options, clock, console
        self._readings: deque[Reading] = deque(maxlen=int(_SPAN_S / _TICK_S) + 1)

    def run(self) -> Summary:
        """Start everything, show it until it is to end, and end everything in the order of the stream."""
        o, began = self._options, self._clock.monotonic()
        with Signals() as signals, ExitStack() as stack:
            pinned = _pinned(o.directory, self._start_kafka(stack).bootstrap_servers)
            settings = Settings(**pinned)
            ensure_topics(settings, _PARTITIONS)
            worker = self._start_worker(stack, pinned)
            feed = self._start_feed(stack, settings)
            simulator = Simulator(settings, self._clock, users=o.users, seed=o.seed, days=_DAYS, rate=o.rate)
            simulator.start()
            stack.callback(simulator.abandon)
            signals.end_in_order()
            started = self._clock.monotonic()
            self._show(worker, simulator, feed, settings, signals)
            ended = self._clock.monotonic()
            self._say("stopping: the shoppers, then the worker once it has caught up, then Kafka")
            sent = simulator.stop()
            last = self._settled(worker, sent.events)
            worker.stop()
            return count(settings, sent.events, last, startup_s=started - began, run_s=ended - started)

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, soft_wrap=True)

    # -- start ------------------------------------------------------------------------------------------------

    def _start_kafka(self, stack: ExitStack) -> EmbeddedBroker:
        directory = self._options.directory
        _claim(directory, stack)
        # What libraries have to say must not tear up the view.
        logging.basicConfig(filename=directory / "demo.log", filemode="w", level=logging.WARNING, force=True)
        broker = EmbeddedBroker(directory / "kafka", _port("bootstrap_servers"))
        stack.callback(broker.stop)
        broker.start(self._say)
        return broker

    def _start_worker(self, stack: ExitStack, pinned: dict[str, Any]) -> WorkerProcess:
        self._say("worker: loading and checking the model")
        worker = WorkerProcess(pinned, self._options.directory / "worker.log")
        stack.callback(worker.kill)
        worker.wait_until_ready()
        return worker

    def _start_feed(self, stack: ExitStack, settings: Settings) -> Feed:
        topics = open_topics(settings, [settings.scores_topic, settings.alerts_topic], from_beginning=True)
        feed = Feed(topics, settings.alerts_topic, self._clock)
        feed.start()
        stack.callback(feed.stop)
        return feed

    # -- show -------------------------------------------------------------------------------------------------

    def _show(self, worker: WorkerProcess, simulator: Simulator, feed: Feed, settings: Settings, stop: Stop) -> None:
        began = self._clock.monotonic()
        places = self._places(worker, settings)
        with self._view() as show:
            while not stop.is_set():
                now = self._clock.monotonic()
                if self._options.seconds is not None and now - began >= self._options.seconds:
                    break
                simulator.require_alive()
                feed.require_alive()
                self._readings.append(worker.reading(now))
                show(self._frame(now - began, simulator, feed, places))
                stop.wait(_TICK_S)

    def _places(self, worker: WorkerProcess, settings: Settings) -> dict[str, str]:
        places = {
            "metrics": f"http://{HOST}:{worker.port}/metrics",
            "Kafka": settings.bootstrap_servers,
            "logs": _short(self._options.directory),
        }
        self._say("  ".join(f"{name} {place}" for name, place in places.items()))
        servers = settings.bootstrap_servers
        flag = "" if servers == _default("bootstrap_servers") else f" --bootstrap-servers {servers}"
        for command in ("scores tail", "alerts tail", "user show ID"):
            self._say(f"in another terminal: valuestream {command}{flag}")
        return places

    def _frame(self, elapsed_s: float, simulator: Simulator, feed: Feed, places: dict[str, str]) -> Frame:
        return Frame(
            elapsed_s=elapsed_s,
            simulated=simulator.now,
            now=datetime.fromtimestamp(self._clock.time(), UTC),
            readings=list(self._readings),
            at_risk=feed.at_risk(_ROWS_MAX),
            alerts=feed.newest_alerts(_ROWS_MAX),
            places=places,
        )

    @contextmanager
    def _view(self) -> Iterator[Callable[[Frame], None]]:
        """A page that is redrawn on a terminal, a line every two seconds elsewhere."""
        if not self._console.is_terminal:
            yield self._lines()
            return
        frames: list[Frame] = []
        with Live(console=self._console, screen=True, auto_refresh=False) as live:

            def draw(frame: Frame) -> None:
                frames[:] = [frame]
                live.update(page(frame, self._console.height), refresh=True)

            yield draw
        if frames:
            # The terminal is as it was before; what was seen last stays in it.
            self._console.print(page(frames[0], self._console.height))

    def _lines(self) -> Callable[[Frame], None]:
        due_s = 0.0

        def write(frame: Frame) -> None:
            nonlocal due_s
            if frame.elapsed_s >= due_s:
                due_s = frame.elapsed_s + _LINE_EVERY_S - _TICK_S / 2
                self._console.print(line(frame), markup=False, soft_wrap=True)

        return write

    # -- end --------------------------------------------------------------------------------------------------

    def _settled(self, worker: WorkerProcess, sent: int) -> Reading:
        """The worker's metrics once it is done with all events and has scored their users, or time is up."""
        began = self._clock.monotonic()
        done_at = math.inf
        while True:
            now = self._clock.monotonic()
            reading = worker.reading(now)
            if reading.handled >= sent:
                done_at = min(done_at, now)
            settled = now - done_at >= _GAUGES_S and not reading.queued
            if settled or now - began >= _CATCH_UP_S:
                return reading
            time.sleep(_TICK_S)


def _pinned(directory: Path, bootstrap_servers: str) -> dict[str, Any]:
    """Settings that the demo needs as they are, whatever the environment says of a real cluster."""
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
        # In fast motion a second is half a day: at the default, the rest of a session would wait that long.
        "refresh_interval_s": 0.2,
        "data_dir": directory / "state",
        "http_host": HOST,
        "http_port": _port("http_port"),
        "log_format": "text",
    }


def _default(setting: str) -> str:
    return str(Settings.model_fields[setting].default)


def _port(setting: str) -> int:
    """The port of this setting's default where it is free, so that other commands find the demo by themselves."""
    preferred = int(_default(setting).rpartition(":")[2])
    return free_port() if taken(preferred) else preferred


def _claim(directory: Path, stack: ExitStack) -> None:
    """Take the directory for this run and empty it of an earlier one; ConfigError where it is someone else's."""
    marker = directory / _MARKER
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


def _short(directory: Path) -> str:
    return str(directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory)
