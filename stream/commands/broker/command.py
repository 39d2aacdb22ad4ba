"""``valuestream broker``: starts, checks and stops a real single-node Kafka on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.jars import KAFKA_VERSION
from stream.commands.broker.processes import running
from stream.errors import ConfigError
from stream.kafka.clients import answers

__all__ = ["broker"]


@click.group()
def broker() -> None:
    """Run a real single-node Apache Kafka on this machine, to try things out (not for production)."""


_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".valuestream/broker"),
    show_default=True,
    help="Where the broker keeps its data.",
)


@broker.command()
@_directory
@click.option("--port", type=click.IntRange(1, 65_535), default=9092, show_default=True, help="Port to listen on.")
def start(directory: Path, port: int) -> None:
    """Start the broker in the background."""
    embedded = EmbeddedBroker(directory, port)
    embedded.start(lambda line: click.echo(line, err=True))
    click.echo(f"Kafka {KAFKA_VERSION} answers at {embedded.bootstrap_servers} (pid {embedded.pid})")
    click.echo(f"its log is {embedded.log_file}; end it with `valuestream broker stop --dir {directory}`")


@broker.command()
@_directory
def status(directory: Path) -> None:
    """Say whether the broker runs and answers. The exit status is 1 if it does not."""
    found = running(directory)
    if found is None:
        raise ConfigError(f"no broker runs on {directory}; expected one; start it with `valuestream broker start`")
    if not answers(found.bootstrap_servers, timeout_s=5):
        raise ConfigError(
            f"the broker on {directory} (pid {found.pid}) gives no answer at {found.bootstrap_servers};"
            " expected metadata within 5 s; see kafka.log there, or restart it"
        )
    click.echo(f"running: pid {found.pid}, answers at {found.bootstrap_servers}")


@broker.command()
@_directory
def stop(directory: Path) -> None:
    """End the broker. Its data stays."""
    found = running(directory)
    if found is None:
        click.echo(f"no broker runs on {directory}; nothing to stop")
        return
    found.end()
    click.echo(f"stopped: pid {found.pid}")
