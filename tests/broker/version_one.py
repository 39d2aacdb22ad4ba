"""Version one: a worker like that of an earlier release, which packs state version 1 and refuses newer versions.

Run ``python -m tests.broker.version_one worker`` in place of ``stream.commands.cli``.
"""

from __future__ import annotations

from typing import Any

from stream.checkpoint import changelog
from stream.checkpoint.byte_strings import ByteStrings
from stream.commands import cli
from stream.errors import ContractError
from tests.contract.packed_users import as_version

_pack, _load_strings = changelog.pack, changelog.load_strings


def pack(state: Any, rows: Any) -> list[bytes]:
    """Pack as that release did, without the columns that came later."""
    return [as_version(value, 1) for value in _pack(state, rows)]


def load_strings(state: Any, users: list[str], values: ByteStrings, *, all_new: bool) -> Any:
    """Load as that release did: it knows only its own version, and refuses others with its own message."""
    others = {value[0] for value in values.strings()} - {1}
    if others:
        raise ContractError(
            f"state version is {max(others)}, this build reads 1; "
            "run the release that wrote it, or start with a new --app-id"
        )
    return _load_strings(state, users, values, all_new=all_new)


if __name__ == "__main__":
    changelog.pack, changelog.load_strings = pack, load_strings
    cli.main()
