"""The ``valuestream`` command. It lists every subcommand, and prints an error as one clear line."""

from __future__ import annotations

import sys
from typing import ClassVar

import click

from stream.errors import ValuestreamError

__all__ = ["main"]


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is needed, so that each command starts quickly."""

    COMMANDS: ClassVar[dict[str, str]] = {
        "worker": "stream.commands.worker:worker",
        "topics": "stream.commands.topics:topics",
        "replay": "stream.commands.replay:replay",
        "simulate": "stream.commands.simulate:simulate",
        "scores": "stream.commands.scores:scores",
        "alerts": "stream.commands.alerts:alerts",
        "events": "stream.commands.events.command:events",
        "user": "stream.commands.user.command:user",
        "segments": "stream.commands.segments.command:segments",
        "dlq": "stream.commands.dlq.command:dlq",
        "plan": "stream.commands.plan.command:plan",
        "broker": "stream.commands.broker.command:broker",
        "demo": "stream.commands.demo.command:demo",
    }

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The names, in the order in which a newcomer needs them."""
        return list(self.COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        if cmd_name not in self.COMMANDS:
            return None
        module, name = self.COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(__import__(module, fromlist=[name]), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="valuestream")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def cli(debug: bool) -> None:
    """Live churn, purchase and lifetime-value scores for every user of a Kafka clickstream."""


def main() -> None:
    """Run the command line. An error of ours becomes one line on stderr and exit status 1."""
    debug = "--debug" in sys.argv
    try:
        cli()
    except ValuestreamError as error:
        if debug:
            raise
        click.echo(f"valuestream: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
