"""``valuestream scores tail``: shows scores as they arrive."""

from __future__ import annotations

from typing import Any

import click

from stream.commands.console import score_words, shown_time
from stream.commands.options import GroupedCommand, settings_options
from stream.commands.tailing import RecordLines, tail_options, tail_topic
from stream.contract.score import Score
from stream.settings import Settings

__all__ = ["scores"]


@click.group()
def scores() -> None:
    """Read the scores topic."""


@scores.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics", "Schema registry")
@tail_options
def tail(settings: Settings, **options: Any) -> None:
    """Show scores as they arrive, until Ctrl-C unless bounded."""
    tail_topic(settings, settings.scores_topic, _ScoreLines(settings), **options)


class _ScoreLines(RecordLines):
    def line(self, record: Any) -> str:
        if record.value is None:
            return f"{'erased':<19}  {self._user_column((record.key or b'').decode(errors='replace'))}"
        score = self._read(record, Score)
        return f"{shown_time(score.as_of)}  {self._user_column(score.user_id)}  {score_words(score)}"
