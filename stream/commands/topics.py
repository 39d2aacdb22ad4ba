"""``valuestream topics``: creates the topics that are missing, and says what is wrong with existing ones."""

from __future__ import annotations

import click

from stream.commands.options import GroupedCommand, settings_options
from stream.errors import ConfigError
from stream.kafka.topic_admin import check_topics, ensure_topics
from stream.kafka.topics import CLEANUP_POLICY, required_topics
from stream.settings import Settings

__all__ = ["topics"]


@click.group()
def topics() -> None:
    """Create the topics, and check existing ones."""


@topics.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True, help="Partitions of each topic.")
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True, help="Copies of each partition.")
def create(settings: Settings, partitions: int, replication: int) -> None:
    """Create the topics that are missing, then check all."""
    ensure_topics(settings, partitions, replication)
    _report(settings)


@topics.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
def check(settings: Settings) -> None:
    """Say what is wrong with the topics; the exit status is 1 if anything is."""
    _report(settings)


def _report(settings: Settings) -> None:
    partitions, problems = check_topics(settings)
    if problems:
        raise ConfigError("\nvaluestream: ".join(problems))
    for spec in required_topics(settings, partitions):
        click.echo(f"ok: {spec.name}, {partitions} partitions, {spec.config[CLEANUP_POLICY]}")
