"""``valuestream demo``: runs Kafka, a worker and simulated shoppers on this machine, and shows what comes out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from stream.clock import SystemClock
from stream.commands.demo.run import DemoRun, Options
from stream.errors import ConfigError

__all__ = ["demo"]


@click.command()
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End by itself after N seconds.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write what came of it, as JSON.")
@click.option("--rate", type=click.FloatRange(1), default=1_000.0, show_default=True, help="Events a second.")
@click.option("--users", type=click.IntRange(1), default=1_000, show_default=True, help="Shoppers at the start.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same shoppers.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".valuestream/demo"),
    show_default=True,
    help="Where Kafka and the worker keep their data; each run begins with an empty one.",
)
def demo(seconds: float | None, summary: Path | None, rate: float, users: int, seed: int, directory: Path) -> None:
    """Watch it work on this machine: a real Kafka, a worker, simulated shoppers, and a live view.

    The shoppers start months ago and in fast motion, so that there is time for some to fall silent; once they
    have reached the present they go on in real time.
    """
    if summary is not None and not summary.absolute().parent.is_dir():
        raise ConfigError(f"folder {summary.parent} not found, expected it to exist; make it, or set --summary")
    console = Console(highlight=False)
    totals = DemoRun(Options(seconds, rate, users, seed, directory.resolve()), SystemClock(), console).run()
    if summary is not None:
        summary.write_text(json.dumps(asdict(totals), indent=2) + "\n")
    click.echo(totals)
    totals.require_complete()
