"""``valuestream dlq``: lists dead letters, shows one with its event, and sends them back for another try."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, Final

import click
import msgspec

from stream.clock import Clock, SystemClock
from stream.commands.console import shown_progress, stopped_by_signals
from stream.commands.dlq.formatting import (
    group_facts,
    grouped,
    groups_table,
    letter_facts,
    letter_facts_with_event,
    letter_line,
    letter_words,
    replay_words,
)
from stream.commands.dlq.read import Place, Selection, clear_errors, letters, moment_ms, require_one
from stream.commands.dlq.replay import Pace, Replayed, replay_letters
from stream.commands.dlq.route import Router
from stream.commands.options import GroupedCommand, settings_options
from stream.errors import ConfigError, ValuestreamError
from stream.iso_time import iso_milliseconds
from stream.kafka.client_types import KafkaConsumer
from stream.kafka.clients import kafka_python_config
from stream.kafka.reading import open_consumer, open_topics
from stream.kafka.rights import check_rights
from stream.settings import Settings

__all__ = ["dlq"]

_EVENTS_PER_S: Final = 100.0
_ATTEMPTS_MAX: Final = 5


@click.group()
def dlq() -> None:
    """Look at dead letters, and send them back when their cause is gone."""


def _selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--reason", "reasons", multiple=True, help="Only those of this reason; may be given again."),
        click.option("--since", metavar="TIME", help="Only those dead since: ISO time, or so long ago (2h, 7d)."),
        click.option("--until", metavar="TIME", help="Only those dead before: ISO time, or so long ago (2h, 7d)."),
        click.option("--from", "start", metavar="PARTITION:OFFSET", help="Begin here; partitions go in order."),
        click.option("--limit", type=click.IntRange(1), help="At most N of them."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _selection(
    clock: Clock, *, reasons: tuple[str, ...], since: str | None, until: str | None, start: str | None
) -> Selection:
    return Selection(
        frozenset(reasons),
        None if since is None else moment_ms(since, clock),
        None if until is None else moment_ms(until, clock),
        None if start is None else Place.parse(start),
    )


@contextmanager
def _opened(settings: Settings) -> Iterator[KafkaConsumer]:
    """Open a consumer of all partitions of the dead-letter topic, and turn its errors into one line."""
    with (
        clear_errors(f"read {settings.dlq_topic}"),
        closing(open_topics(settings, [settings.dlq_topic], from_beginning=True)) as consumer,
    ):
        yield consumer


@dlq.command("list", cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@_selection_options
@click.option("--each", is_flag=True, help="A line for each dead letter instead of a table by reason.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --each one a line.")
def list_(settings: Settings, limit: int | None, each: bool, as_json: bool, **filters: Any) -> None:
    """Count the dead letters by reason. None of their content is shown."""
    clock = SystemClock()
    selection = _selection(clock, **filters)
    with _opened(settings) as consumer:
        found = islice(letters(consumer, selection, threading.Event()), limit)
        if each:
            for letter in found:
                click.echo(msgspec.json.encode(letter_facts(letter)) if as_json else letter_line(letter))
            return
        groups = grouped(found)
    count = sum(group.count for group in groups)
    if as_json:
        facts = {"topic": settings.dlq_topic, "dead_letters": count, "reasons": [group_facts(g) for g in groups]}
        click.echo(msgspec.json.encode(facts))
        return
    click.echo(f"{settings.dlq_topic}: {count:,} dead letters" + (" match" if any(filters.values()) else ""))
    if groups:
        click.echo("\n".join(groups_table(groups)))


@dlq.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@click.argument("place", metavar="PARTITION:OFFSET")
@click.option("--full", is_flag=True, help="Show long keys, values and headers whole.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(place: str, full: bool, as_json: bool, settings: Settings) -> None:
    """Show one dead letter with its event: personal data, on your terminal."""
    at = Place.parse(place)
    with _opened(settings) as consumer:
        letter = require_one(consumer, at)
    click.echo(
        msgspec.json.encode(letter_facts_with_event(letter, full=full)) if as_json else letter_words(letter, full=full)
    )


@dlq.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@_selection_options
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--to", metavar="TOPIC", help="Send to this topic instead of the one each came from.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=_EVENTS_PER_S, show_default=True, help="Events a second."
)
@click.option(
    "--attempts-max",
    type=click.IntRange(1),
    default=_ATTEMPTS_MAX,
    show_default=True,
    help="Leave those that failed more often than this.",
)
def replay(
    settings: Settings, dry_run: bool, to: str | None, rate: float, attempts_max: int, limit: int | None, **filters: Any
) -> None:
    """Send dead letters back to the topic they came from, as the events that they were.

    Mend the cause first. Dead letters stay where they are. An event that is sent twice counts once, by its id.
    """
    clock = SystemClock()
    selection = _selection(clock, **filters)
    began_ms = int(clock.time() * 1000)
    with (
        stopped_by_signals() as stop,
        _opened(settings) as consumer,
        closing(open_consumer(**kafka_python_config(settings))) as sources,
        shown_progress("replay of dead letters", limit) as progress,
    ):
        router = Router(
            sources,
            settings.events_topic,
            to=to,
            attempts_max=attempts_max,
            require=lambda right: check_rights(settings, [right]),
        )
        replaying = replay_letters(
            settings,
            letters(consumer, selection, stop),
            router,
            Pace(rate, limit),
            progress=progress,
            clock=clock,
            stop=stop,
            dry_run=dry_run,
        )
        done = asyncio.run(replaying)
    click.echo("\n".join(replay_words(done, dry_run=dry_run)))
    _require_end(done, selection, began_ms, limit, stopped=stop.is_set())


def _require_end(done: Replayed, selection: Selection, began_ms: int, limit: int | None, *, stopped: bool) -> None:
    """Raise an error that says how to go on, if the replay did not come to its end or sent nothing."""
    # Events that failed again since the beginning must not be sent a second time by the run that goes on.
    until = f"--until {iso_milliseconds(began_ms if selection.until_ms is None else selection.until_ms)}"
    at = done.following or selection.start or Place(0, 0)
    if done.refused is not None:
        behind = Place(at.partition, at.offset + 1)
        raise ValuestreamError(
            f"dead letter {at} was not acknowledged ({done.refused}), after {done.total:,} were; mend the cause"
            f" and go on with --from {at} {until}, or without this one with --from {behind} {until}"
        )
    if stopped:
        raise ValuestreamError(
            f"stopped before the end, after {done.total:,} were delivered; go on with --from {at} {until}"
        )
    if not done.total:
        raise ConfigError(
            f"found no dead letter to send ({done.left.total():,} were left), expected at least one;"
            " `valuestream dlq list` shows what is there"
        )
    if done.total == limit:
        click.echo(f"this is the --limit; go on with --from {at} {until}")
