"""``valuestream user``: the group of the commands for single users."""

from __future__ import annotations

import click

from stream.commands.user.erase import erase
from stream.commands.user.export import export
from stream.commands.user.show import show

__all__ = ["user"]


@click.group()
def user() -> None:
    """Look at single users, hand out what is held of them, and forget them."""


user.add_command(show)
user.add_command(export)
user.add_command(erase)
