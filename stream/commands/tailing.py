"""What ``scores tail`` and ``alerts tail`` share: options, the loop over records, and lines with aligned columns."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any

import click
import msgspec

from stream.clock import SystemClock
from stream.commands.console import printable, stopped_by_signals
from stream.kafka.reading import follow, open_topics
from stream.registry.connect import schemas_of
from stream.registry.scores import Kind, read_json, read_record
from stream.settings import Settings

__all__ = ["RecordLines", "tail_options", "tail_topic"]

#: The column of user ids grows up to this width. A longer id breaks the alignment of its own line only.
_USER_WIDTH_MIN, _USER_WIDTH_MAX = 12, 40


class RecordLines:
    """Makes a line of each record. The columns stay aligned, and the column of user ids grows with the ids."""

    def __init__(self, settings: Settings) -> None:
        self._user_width = _USER_WIDTH_MIN
        self._schemas = schemas_of(settings, SystemClock())

    def line(self, record: Any) -> str:
        """One record in words. Raises MsgspecError if valuestream did not write it."""
        raise NotImplementedError

    def json(self, record: Any) -> bytes:
        """One record as JSON. Raises MsgspecError if its schema cannot be had."""
        return read_json(record, self._schemas)

    def _read(self, record: Any, kind: type[Kind]) -> Kind:
        return read_record(record, kind, self._schemas)

    def _user_column(self, user: str) -> str:
        shown = printable(user)
        self._user_width = min(max(self._user_width, len(shown)), _USER_WIDTH_MAX)
        return shown.ljust(self._user_width)


def tail_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the options that :func:`tail_topic` takes."""
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print each record as JSON, one a line."),
        click.option("--from-beginning", is_flag=True, help="Begin with the oldest record, not with the next one."),
        click.option("--max", "maximum", type=click.IntRange(1), help="End after N records."),
        click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End after N seconds."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def tail_topic(
    settings: Settings,
    topic: str,
    lines: RecordLines,
    *,
    as_json: bool,
    from_beginning: bool,
    maximum: int | None,
    seconds: float | None,
) -> None:
    """Print the records of a topic until a signal, ``maximum`` records, or ``seconds``."""
    with stopped_by_signals() as stop, closing(open_topics(settings, [topic], from_beginning=from_beginning)) as topics:
        if not from_beginning:
            click.echo(f"waiting for new records of {topic} (--from-beginning shows older ones too)", err=True)
        records = islice(follow(topics, stop, SystemClock(), seconds), maximum)
        try:
            for record in records:
                _print(record, lines, as_json)
        except BrokenPipeError:
            # The reader of our output has closed it (| head). Python flushes the rest at exit, which must not fail too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(record: Any, lines: RecordLines, as_json: bool) -> None:
    if as_json and record.value is None:
        return
    try:
        click.echo(lines.json(record) if as_json else lines.line(record))
    except msgspec.MsgspecError as error:
        place = f"{record.topic}, partition {record.partition}, offset {record.offset}"
        click.echo(f"valuestream: {place}: no record of ours ({error}), skipped; --json prints it", err=True)
