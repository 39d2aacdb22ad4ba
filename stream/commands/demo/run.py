"""One run of the demo, from an empty directory to the summary: start, show, wait for the last score, stop, count."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from rich.console import Console
from rich.live import Live

from stream.clock import Clock, Stop
from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.processes import HOST
from stream.commands.console import SignalStop
from stream.commands.demo.environment import claim, default_of, pinned_settings, port_for
from stream.commands.demo.feed import Feed
from stream.commands.demo.scrape import Reading
from stream.commands.demo.simulator import Simulator
from stream.commands.demo.summary import Summary, count
from stream.commands.demo.terminal_page import Frame, line, page
from stream.commands.demo.worker_process import WorkerProcess
from stream.kafka.reading import open_topics
from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings

__all__ = ["DemoRun", "Options"]

_PARTITIONS: Final = 4
#: How many days in the past the shoppers start, because people need time to fall silent.
_DAYS: Final = 120.0
_TICK_S: Final = 1.0
_LINE_EVERY_S: Final = 2.0
#: The view shows the rates and latencies of so many seconds.
_SPAN_S: Final = 5.0
_ROWS_MAX: Final = 20
_CATCH_UP_S: Final = 15.0
#: The worker sets its gauges each second. So after two seconds they include the last event.
_GAUGES_S: Final = 2.0


@dataclass(frozen=True)
class Options:
    """The options of the command. With ``seconds`` None the demo runs until Ctrl-C."""

    seconds: float | None
    rate: float
    users: int
    seed: int
    directory: Path


class DemoRun:
    """One run of the demo. When ``run`` returns, nothing of it is left running."""

    def __init__(self, options: Options, clock: Clock, console: Console) -> None:
        self._options, self._clock, self._console = options, clock, console
        self._readings: deque[Reading] = deque(maxlen=int(_SPAN_S / _TICK_S) + 1)

    def run(self) -> Summary:
        """Start everything, show it until the end is asked for, and then end everything in the order of the stream."""
        o, began = self._options, self._clock.monotonic()
        with _Signals() as signals, ExitStack() as stack:
            pinned = pinned_settings(o.directory, self._start_kafka(stack).bootstrap_servers)
            settings = Settings(**pinned)
            ensure_topics(settings, _PARTITIONS)
            worker = self._start_worker(stack, pinned)
            feed = self._start_feed(stack, settings)
            simulator = Simulator(settings, self._clock, users=o.users, seed=o.seed, days=_DAYS, rate=o.rate)
            simulator.start()
            stack.callback(simulator.abandon)
            signals.end_in_order()
            started = self._clock.monotonic()
            self._show(worker, simulator, feed, places=self._places(worker, settings), stop=signals)
            ended = self._clock.monotonic()
            self._say("stopping: the shoppers, then the worker once it has caught up, then Kafka")
            sent = simulator.stop()
            last = self._last_reading(worker, sent.events)
            worker.stop()
            return count(settings, sent.events, last, startup_s=started - began, run_s=ended - started)

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, soft_wrap=True)

    # -- start ------------------------------------------------------------------------------------------------

    def _start_kafka(self, stack: ExitStack) -> EmbeddedBroker:
        directory = self._options.directory
        claim(directory, stack)
        # Libraries log to a file, because their lines would tear up the view.
        logging.basicConfig(filename=directory / "demo.log", filemode="w", level=logging.WARNING, force=True)
        broker = EmbeddedBroker(directory / "kafka", port_for("bootstrap_servers"))
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

    def _show(
        self, worker: WorkerProcess, simulator: Simulator, feed: Feed, *, places: dict[str, str], stop: Stop
    ) -> None:
        began = self._clock.monotonic()
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
        flag = "" if servers == default_of("bootstrap_servers") else f" --bootstrap-servers {servers}"
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
        """Give a function that shows a frame: as a page on a terminal, or else as a line every two seconds."""
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
            # The terminal is as it was before the run. The last page is printed once more, so that it stays.
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

    def _last_reading(self, worker: WorkerProcess, sent: int) -> Reading:
        """The metrics of the worker, once it has handled all events and scored their users, or when the time is up."""
        began = self._clock.monotonic()
        done_at = math.inf
        while True:
            now = self._clock.monotonic()
            reading = worker.reading(now)
            if reading.handled >= sent:
                done_at = min(done_at, now)
            is_settled = now - done_at >= _GAUGES_S and not reading.queued
            if is_settled or now - began >= _CATCH_UP_S:
                return reading
            time.sleep(_TICK_S)


def _short(directory: Path) -> str:
    """The path as text, relative to the working directory if it is inside."""
    return str(directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory)


class _Signals(SignalStop):
    """A stop that Ctrl-C, SIGTERM and a closed terminal set. While the demo starts, they also interrupt it at once."""

    def __init__(self) -> None:
        self._interrupting = True
        self._before: dict[int, Any] = {}

    def end_in_order(self) -> None:
        """From now on, a signal only asks for the end."""
        self._interrupting = False

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        was_set, self._set = self._set, True
        if self._interrupting and not was_set:
            raise KeyboardInterrupt
