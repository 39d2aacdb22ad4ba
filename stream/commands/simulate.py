"""``valuestream simulate``: sends the events of simulated shoppers, and can write down who the shoppers are."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import click
import msgspec

from stream.clock import Clock, SystemClock
from stream.commands.console import shown_progress, stopped_by_signals
from stream.commands.options import GroupedCommand, rate_option, settings_options
from stream.datasets.events import event_stream
from stream.datasets.market import Market
from stream.errors import ConfigError
from stream.kafka.sender import Rate, send_events
from stream.settings import Settings

__all__ = ["parse_start", "simulate", "write_truth"]


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@click.option("--users", type=click.IntRange(1), default=1_000, show_default=True, help="Shoppers at the start.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same shoppers.")
@click.option(
    "--start",
    default="-60d",
    show_default=True,
    metavar="ISO|-Nd",
    help="Event time of the beginning: a date, or days ago.",
)
@click.option("--events", type=click.IntRange(1), help="End after N events.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End after N seconds.")
@rate_option("Pace until event time has reached now. After that, events are sent in real time.")
@click.option(
    "--truth",
    "truth_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write who the shoppers are (JSON lines).",
)
def simulate(
    users: int,
    seed: int,
    start: str,
    events: int | None,
    seconds: float | None,
    rate: str,
    truth_file: Path | None,
    settings: Settings,
) -> None:
    """Send simulated shoppers' events through Kafka, until Ctrl-C unless bounded.

    Each shopper has a known purchase tendency and a known time of leaving for good; --truth writes them down.
    """
    clock, pace = SystemClock(), Rate.parse(rate)
    market = Market(users, parse_start(start, clock), seed)
    if truth_file is not None:
        _require_folder(truth_file)
    records = islice(event_stream(market.events()), events)
    with stopped_by_signals() as stop, shown_progress("simulate", events) as progress:
        sent = send_events(settings, records, pace, progress, clock=clock, seconds=seconds, up_to_now=True, stop=stop)
    written = ""
    if truth_file is not None:
        shoppers = write_truth(truth_file, market, sent.last_event_ms)
        written = f"; truth of {shoppers:,} shoppers in {truth_file}"
    click.echo(f"{'stopped: ' if stop.is_set() else ''}{sent}{written}")
    sent.require_all()


def parse_start(text: str, clock: Clock) -> datetime:
    """Read an ISO time (UTC if it names no zone) or ``-Nd``, which means N days before now.

    Raises ConfigError for any other text, and for a time in the future.
    """
    now = datetime.fromtimestamp(clock.time(), UTC)
    if re.fullmatch(r"-\d{1,5}(\.\d+)?d", text):
        return now - timedelta(days=float(text[1:-1]))
    try:
        start = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"start is {text!r}, expected a time (2024-01-01T00:00:00Z) or days ago (-60d); set --start"
        ) from None
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    if start > now:
        raise ConfigError(f"start is {text}, expected a time in the past; set --start")
    return start


def write_truth(path: Path, market: Market, until_ms: int) -> int:
    """Write the shoppers who have arrived by ``until_ms``, one JSON object a line. Returns how many there are."""
    encoder, until = msgspec.json.Encoder(), datetime.fromtimestamp(until_ms / 1000, UTC)
    arrived = [shopper for shopper in market.shoppers if shopper.arrived_at <= until]
    path.write_bytes(b"".join(encoder.encode(shopper) + b"\n" for shopper in arrived))
    return len(arrived)


def _require_folder(truth_file: Path) -> None:
    if not truth_file.parent.is_dir():
        raise ConfigError(f"folder {truth_file.parent} not found, expected it to exist; make it, or set --truth")
