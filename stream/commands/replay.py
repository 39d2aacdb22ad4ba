"""``valuestream replay``: sends the events of a data file through Kafka, in the order of event time."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import click

from stream.clock import SystemClock
from stream.commands.console import shown_progress, stopped_by_signals
from stream.commands.options import GroupedCommand, rate_option, settings_options
from stream.datasets.events import event_stream
from stream.datasets.formats import FORMATS, ReadSummary, read_events
from stream.errors import ConfigError
from stream.kafka.sender import Rate, send_events
from stream.settings import Settings

__all__ = ["replay"]


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
        # The first event is read before anything is sent, so that a file of the wrong shape is refused in time.
        first = next(events, None)
        if first is None:
            raise ConfigError(f"{file} has no events ({summary}), expected some; check the file and --format")
        records = event_stream(islice(chain([first], events), limit))
        sent = send_events(settings, records, pace, progress, clock=SystemClock(), stop=stop)
    early = "stopped early: " if stop.is_set() else ""
    late = f", {summary.out_of_order:,} out of order" if summary.out_of_order else ""
    click.echo(f"{early}{sent}; {summary}{late}")
    sent.require_all()
