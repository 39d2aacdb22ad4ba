"""``valuestream replay``: sends a real file's events through Kafka in event-time order."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from stream.clock import Stop, SystemClock
from stream.commands.options import GroupedCommand, settings_options
from stream.datasets.events import event_stream
from stream.datasets.formats import FORMATS, ReadSummary, read_events
from stream.errors import ConfigError
from stream.kafka.sender import Progress, Rate, send_events
from stream.settings import Settings

__all__ = ["SignalStop", "rate_option", "replay", "shown_progress", "stopped_by_signals"]

#: Where there is no terminal, a line this often.
_LINE_INTERVAL_S: Final = 5.0


def rate_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --rate of a command that sends events."""
    return click.option("--rate", default="max", show_default=True, metavar="max|N|xK", help=help)


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), required=True, help="What the file is.")
@rate_option("As fast as it goes, N events a second, or K times the pace of event time.")
@click.option("--limit", type=click.IntRange(1), help="Send only the first N events.")
def replay(file: Path, format_: str, rate: str, limit: int | None, settings: Settings) -> None:
    """Send the events of FILE through Kafka in event-time order."""
    pace, summary = Rate.parse(rate), ReadSummary()
    events = read_events(file, format_, summary)
    with stopped_by_signals() as stop, shown_progress(f"replay {file.name}", limit) as progress:
        # A file of the wrong shape is told before anything is sent.
        first = next(events, None)
        if first is None:
            raise ConfigError(f"{file} has no events ({summary}), expected some; check the file and --format")
        records = event_stream(islice(chain([first], events), limit))
        sent = send_events(settings, records, pace, progress, clock=SystemClock(), stop=stop)
    cut = "stopped early: " if stop.is_set() else ""
    late = f", {summary.out_of_order:,} out of order" if summary.out_of_order else ""
    click.echo(f"{cut}{sent}; {summary}{late}")
    sent.require_all()


class SignalStop:
    """Set by a signal handler, so without a lock: one that the interrupted code holds would never be free."""

    _set = False

    def set(self) -> None:
        """Ask for the end."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it is asked for."""
        return self._set

    def wait(self, timeout: float) -> bool:
        """Sleep; true when the end is asked for."""
        if not self._set:
            time.sleep(timeout)
        return self._set


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Give a stop that Ctrl-C or SIGTERM sets, so that what was sent can still be acknowledged."""
    stop = SignalStop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shown_progress(title: str, total: int | None = None) -> Iterator[Progress]:
    """Show a progress bar on a terminal, else a line every few seconds (both on stderr)."""
    if not sys.stdout.isatty():
        yield _lines(title)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} events, {task.fields[rate]:,.0f}/s, at {task.fields[at]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate=0.0, at="-")

        def update(n: int, elapsed_s: float, time_ms: int) -> None:
            bar.update(task, completed=n, rate=n / max(elapsed_s, 1e-9), at=_at(time_ms))

        yield update


def _lines(title: str) -> Progress:
    last = 0.0

    def write(n: int, elapsed_s: float, time_ms: int) -> None:
        nonlocal last
        if elapsed_s - last >= _LINE_INTERVAL_S:
            last = elapsed_s
            click.echo(f"{title}: {n:,} events, {n / elapsed_s:,.0f}/s, at {_at(time_ms)}", err=True)

    return write


def _at(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"
