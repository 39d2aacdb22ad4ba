"""``valuestream scores tail`` and ``alerts tail``: records as they arrive, as aligned lines or as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any, Final

import click
import msgspec

from stream.clock import SystemClock
from stream.commands.options import GroupedCommand, settings_options
from stream.commands.replay import stopped_by_signals
from stream.contract.score import Alert, Score
from stream.kafka.reading import follow, open_topics
from stream.settings import Settings

__all__ = ["alerts", "printable", "score_words", "scores", "shown_time"]

#: User ids shift the columns up to this width; longer ones break the alignment of their own line only.
_USER_WIDTH_MIN, _USER_WIDTH_MAX = 12, 40
_BAND_COLOURS: Final = {"low": "green", "medium": "yellow", "high": "red"}


@click.group()
def scores() -> None:
    """Read the scores topic."""


@click.group()
def alerts() -> None:
    """Read the alerts topic."""


def _tail_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print each record as it is, one a line."),
        click.option("--from-beginning", is_flag=True, help="Begin with the oldest record, not with the next one."),
        click.option("--max", "maximum", type=click.IntRange(1), help="End after N records."),
        click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End after N seconds."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@scores.command("tail", cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@_tail_options
def tail_scores(settings: Settings, **how: Any) -> None:
    """Show scores as they arrive, until Ctrl-C unless bounded."""
    _tail(settings, settings.scores_topic, _ScoreLines(), **how)


@alerts.command("tail", cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@_tail_options
def tail_alerts(settings: Settings, **how: Any) -> None:
    """Show alerts as they arrive, until Ctrl-C unless bounded."""
    _tail(settings, settings.alerts_topic, _AlertLines(), **how)


def _tail(
    settings: Settings,
    topic: str,
    lines: _Lines,
    *,
    as_json: bool,
    from_beginning: bool,
    maximum: int | None,
    seconds: float | None,
) -> None:
    with stopped_by_signals() as stop, closing(open_topics(settings, [topic], from_beginning=from_beginning)) as topics:
        if not from_beginning:
            click.echo(f"waiting for new records of {topic} (--from-beginning shows older ones too)", err=True)
        records = islice(follow(topics, stop, SystemClock(), seconds), maximum)
        try:
            for record in records:
                _print(record, lines, as_json)
        except BrokenPipeError:
            # Whoever read us has enough (| head). What is still buffered must not fail at the end again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(record: Any, lines: _Lines, as_json: bool) -> None:
    if as_json:
        if record.value is not None:
            click.echo(record.value)
        return
    try:
        click.echo(lines.line(record))
    except msgspec.MsgspecError as error:
        place = f"{record.topic}, partition {record.partition}, offset {record.offset}"
        click.echo(f"valuestream: {place}: no record of ours ({error}), skipped; --json prints it", err=True)


# -- words ----------------------------------------------------------------------------------------------------


class _Lines:
    """Lines whose columns stay aligned; the user's column grows with the ids."""

    def __init__(self) -> None:
        self._width = _USER_WIDTH_MIN

    def line(self, record: Any) -> str:
        """One record in words; raises MsgspecError where it is not one of ours."""
        raise NotImplementedError

    def _user(self, user: str) -> str:
        shown = printable(user)
        self._width = min(max(self._width, len(shown)), _USER_WIDTH_MAX)
        return shown.ljust(self._width)


class _ScoreLines(_Lines):
    def line(self, record: Any) -> str:
        if record.value is None:
            return f"{'erased':<19}  {self._user((record.key or b'').decode(errors='replace'))}"
        score = msgspec.json.decode(record.value, type=Score)
        return f"{shown_time(score.as_of)}  {self._user(score.user_id)}  {score_words(score)}"


class _AlertLines(_Lines):
    def line(self, record: Any) -> str:
        alert = msgspec.json.decode(record.value or b"null", type=Alert)
        score = alert.score
        rule = f"{alert.rule}: {alert.previous_band or 'new':>6} → {_band(score.churn.band)}"
        why = f"  because {'; '.join(printable(reason.text) for reason in alert.reasons)}" if alert.reasons else ""
        return f"{shown_time(score.as_of)}  {self._user(score.user_id)}  {rule}  {score_words(score, band=False)}{why}"


def score_words(score: Score, *, band: bool = True) -> str:
    """Churn, purchases, value and how much they rest on, in columns of fixed width."""
    churn = f"churn {score.churn.probability:4.0%} in {score.churn.horizon_days:g} d"
    if band:
        churn += f" {_band(score.churn.band)}"
    buys = ", ".join(f"{p.probability:4.0%} in {p.horizon_days:g} d" for p in score.purchase)
    value = f"{score.ltv.expected:>9,.2f} {printable(score.ltv.currency)} in {score.ltv.horizon_days:g} d"
    order = f"next order {printable(score.expected_next_purchase or '–'):<10}"
    known = f"{score.n_events:>5,} events, data {score.data_sufficiency}"
    return f"{churn}   buys {buys}   worth {value}   {order}   {known}"


def _band(band: str) -> str:
    """The band, in its colour where the output is a terminal."""
    return click.style(f"{band:<6}", fg=_BAND_COLOURS[band])


def shown_time(iso: str) -> str:
    """``2025-05-01T12:00:00Z`` for people.

    >>> shown_time("2025-05-01T12:00:00Z")
    '2025-05-01 12:00:00'
    """
    return printable(iso).removesuffix("Z").replace("T", " ")


def printable(text: str) -> str:
    """Text from a record without what could steer a terminal.

    >>> printable("u\\x1b[2J1")
    'u·[2J1'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "·" for c in text)
