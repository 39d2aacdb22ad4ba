"""``valuestream events check``: says what would become of events, before a worker reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import click
import msgspec

from stream.clock import Clock, SystemClock
from stream.commands.console import printable
from stream.commands.events.examine import Findings, best_envelope, examine
from stream.commands.options import GroupedCommand, settings_options
from stream.datasets.reading import text_lines
from stream.errors import ConfigError
from stream.iso_time import iso_seconds
from stream.kafka.reading import open_topics, read_partition
from stream.registry.connect import schemas_of
from stream.settings import Settings

__all__ = ["events"]

_NAMES_SHOWN: Final = 8


@click.group()
def events() -> None:
    """Look at events before a worker does."""


@events.command(cls=GroupedCommand)
@settings_options("Kafka", "Events", "Schema registry")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--topic", help="Look at the newest events of this topic, instead of a file with an event per line.")
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True, help="At most N records.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(file: Path | None, topic: str | None, limit: int, as_json: bool, settings: Settings) -> None:
    """Say what would become of the events in FILE or in a topic. Exit status 1 if most of them could not be used."""
    if (file is None) == (topic is None):
        raise ConfigError("expected a file or --topic, and not both; give one of them")
    records = list(_newest(topic, limit, settings) if topic else _lines(file, limit))  # type: ignore[arg-type]
    if not records:
        raise ConfigError(f"{topic or file} holds no event, expected at least one; check its name")
    clock: Clock = SystemClock()
    schemas = schemas_of(settings, clock)
    if schemas is not None:
        schemas.fetch_now(records)
    findings = examine(records, settings, now=clock.time(), schemas=schemas)
    suggestion = best_envelope(records, settings, now=clock.time(), schemas=schemas)
    if as_json:
        document = msgspec.json.encode({"findings": findings, "envelope_that_fits": suggestion})
        click.echo(msgspec.json.format(document, indent=2))
    else:
        click.echo("\n".join(_words(findings, suggestion)))
    if not findings.is_fit:
        sys.exit(1)


def _lines(file: Path, limit: int) -> Iterator[Any]:
    """The lines of a file as records without a key."""
    lines = (line.strip() for line in text_lines(file))
    for offset, line in enumerate(islice(filter(None, lines), limit)):
        yield SimpleNamespace(offset=offset, key=None, value=line.encode(), timestamp=None, headers=())


def _newest(topic: str, limit: int, settings: Settings) -> Iterator[Any]:
    """The newest records of a topic, the same number of each partition."""
    with closing(open_topics(settings, [topic], from_beginning=True)) as consumer:
        partitions: Sequence[Any] = sorted(consumer.assignment())
        begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        share = -(-limit // len(partitions))
        for tp in partitions:
            yield from read_partition(consumer, tp, max(begins[tp], ends[tp] - share), ends[tp])


def _words(findings: Findings, suggestion: str | None) -> list[str]:
    n = findings.n_records
    lines = [f"{n:,} records, read as {findings.envelope}"]
    lines += [f"  {count:>8,}  {name}" for name, count in findings.types.items()]
    lines.append(f"  {findings.n_ignored:>8,}  ignored: nothing of interest in them")
    lines.append(f"  {sum(findings.dead.values()):>8,}  dead letters")
    lines += [
        f"            {count:,} {why}: {printable(findings.examples[why])}" for why, count in findings.dead.items()
    ]
    if findings.first_time is not None and findings.last_time is not None:
        lines.append(f"users         {findings.users:,}")
        lines.append(f"times         {iso_seconds(findings.first_time)} to {iso_seconds(findings.last_time)}")
    for title, counts in (
        ("unknown names", findings.unknown_names),
        ("left out", findings.fields_ignored),
        ("currencies", findings.currencies),
    ):
        if counts:
            shown = [f"{printable(name)!r} {count:,}" for name, count in islice(counts.items(), _NAMES_SHOWN)]
            more = f", and {len(counts) - len(shown):,} more" if len(counts) > len(shown) else ""
            lines.append(f"{title:<13} {', '.join(shown)}{more}")
    if findings.n_other_keys:
        lines.append(
            f"keys          {findings.n_other_keys:,} of {findings.n_keyed:,} are not the user; expected the user's id,"
            " so that all events of a user lie in one partition"
        )
    if findings.n_fast_clocks:
        lines.append(f"clocks        {findings.n_fast_clocks:,} events are newer than their records; check the senders")
    if suggestion:
        lines.append(f"--envelope {suggestion} fits better")
    elif not findings.is_fit:
        lines.append("no preset fits; write a mapping (docs/envelopes.md), and try --envelope shop.toml")
    return lines
