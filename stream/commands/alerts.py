"""``valuestream alerts tail``: shows alerts as they arrive."""

from __future__ import annotations

from typing import Any

import click

from stream.commands.console import band_word, printable, score_words, shown_time
from stream.commands.options import GroupedCommand, settings_options
from stream.commands.tailing import RecordLines, tail_options, tail_topic
from stream.contract.score import Alert
from stream.settings import Settings

__all__ = ["alerts"]


@click.group()
def alerts() -> None:
    """Read the alerts topic."""


@alerts.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics", "Schema registry")
@tail_options
def tail(settings: Settings, **options: Any) -> None:
    """Show alerts as they arrive, until Ctrl-C unless bounded."""
    tail_topic(settings, settings.alerts_topic, _AlertLines(settings), **options)


class _AlertLines(RecordLines):
    def line(self, record: Any) -> str:
        alert = self._read(record, Alert)
        score = alert.score
        head = f"{shown_time(score.as_of)}  {self._user_column(score.user_id)}"
        rule = f"{alert.rule}: {alert.previous_band or 'new':>6} → {band_word(score.churn.band)}"
        why = f"  because {'; '.join(printable(reason.text) for reason in alert.reasons)}" if alert.reasons else ""
        return f"{head}  {rule}  {score_words(score, band=False)}{why}"
